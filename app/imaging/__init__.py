"""Image files in and out: encoding results, reading uploads, drawing contact sheets. Pillow and NumPy, no torch.

Owns formats, colour modes and the metadata inside files. Which image, for whom and where it is kept is the service's.
Images are uint8 (H, W, 3), sRGB. `DecoderPool` reads uploads in child processes. Every other function is plain and may
take tens of milliseconds: not for the event loop.
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
