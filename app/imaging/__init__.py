"""Image files: encodes results, decodes uploads, draws contact sheets. No torch.

Owns formats, colour modes and metadata in files; the service owns storage and access. Images are uint8 (H, W, 3),
sRGB. `DecoderPool` decodes uploads in child processes. The other functions are synchronous and may take tens of
milliseconds, so they must not run on the event loop.
"""

from app.imaging.contact_sheet import Caption, contact_sheet
from app.imaging.decoder_pool import DecoderPool, GuardedDecoder, Upload
from app.imaging.decoding import decode_upload, parse_image_text
from app.imaging.encoding import MEDIA_TYPES, TRUNCATED, crop_to_fill, encode, fit, jpeg_parameters, resize, thumbnail
from app.imaging.heatmap import heat_map
from app.imaging.infotext import SAMPLER_NAMES, infotext, parse_infotext
from app.imaging.masks import (
    crop_mask_to_fill,
    painted_area,
    place_in_uncropped,
    stretch_mask,
    transparent_area,
    white_area,
)
from app.imaging.tiles import cut as cut_tiles
from app.imaging.tiles import paste as paste_tile

__all__ = [
    "MEDIA_TYPES",
    "SAMPLER_NAMES",
    "TRUNCATED",
    "Caption",
    "DecoderPool",
    "GuardedDecoder",
    "Upload",
    "contact_sheet",
    "crop_mask_to_fill",
    "crop_to_fill",
    "cut_tiles",
    "decode_upload",
    "encode",
    "fit",
    "heat_map",
    "infotext",
    "jpeg_parameters",
    "painted_area",
    "parse_image_text",
    "parse_infotext",
    "paste_tile",
    "place_in_uncropped",
    "resize",
    "stretch_mask",
    "thumbnail",
    "transparent_area",
    "white_area",
]
