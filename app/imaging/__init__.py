"""Image files: encodes results, decodes uploads, draws contact sheets. No torch.

Owns formats, colour modes and metadata in files; the service owns storage and access. Images are uint8 (H, W, 3),
sRGB. `DecoderPool` decodes uploads in child processes. The other functions are synchronous and may take tens of
milliseconds, so they must not run on the event loop.
"""

from app.imaging.contact_sheet import Caption, contact_sheet
from app.imaging.decoder_pool import DecoderPool, Upload
from app.imaging.decoding import parse_data_uri, read_upload
from app.imaging.encoding import MEDIA_TYPES, encode, fill, resize, thumbnail
from app.imaging.heatmap import heat_map

__all__ = [
    "MEDIA_TYPES",
    "Caption",
    "DecoderPool",
    "Upload",
    "contact_sheet",
    "encode",
    "fill",
    "heat_map",
    "parse_data_uri",
    "read_upload",
    "resize",
    "thumbnail",
]
