"""Scorers from single files: HPSv2, and aesthetic heads on an embedder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import open_clip
from numpy.typing import NDArray

from models.errors import ModelUnsupported
from models.protocols import Embedder, Pixels, ScoringInfo
from models.runtime.placement import DevicePlacement, quiet_libraries
from models.scorers.open_clip import OpenClipScorer

HPS_ARCHITECTURE = "ViT-H-14"
"""open_clip's architecture of HPSv2 and HPSv2.1."""

AESTHETIC_EMBEDDERS: Mapping[int, str] = {768: "ViT-L-14-quickgelu/openai"}
"""Embedders of heads that name none, by dimensions.

LAION's heads of this width are trained on it.
"""

_LAYOUTS = ((0,), (0, 2, 4, 6, 7))
"""Indices of the layers of LAION's heads.

A linear one, and five without activations between them.
"""

_PARAMETER = re.compile(r"(?:.*?(\d+)\.)?(weight|bias)")
_Layer: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32]]


def load_hps(file: Path, label: str, placement: DevicePlacement) -> OpenClipScorer:
    """HPSv2 weights in their CLIP.

    Images are padded to a square with black, as in the original. Raises the errors of open_clip and torch.
    """
    with quiet_libraries():
        model = open_clip.create_model(HPS_ARCHITECTURE, load_weights=False)
        open_clip.factory.load_checkpoint(model, str(file), weights_only=True)
        tokenizer = open_clip.get_tokenizer(HPS_ARCHITECTURE)
    preprocess = open_clip.transform.merge_preprocess_dict(
        model.visual.preprocess_cfg, {"resize_mode": "longest", "fill_color": 0, "interpolation": "bicubic"}
    )
    return OpenClipScorer(model, tokenizer, preprocess, placement, id=label)


class AestheticScorer:
    """A head on the embeddings of images: how pleasing they are, whatever the prompt."""

    def __init__(self, layers: list[_Layer], embedder: Embedder, *, id: str) -> None:
        """Take weight (out, in) and bias (out) of each layer.

        Raises ModelUnsupported if the embedder has another width.
        """
        width = layers[0][0].shape[1]
        if embedder.info.dimensions != width:
            raise ModelUnsupported(
                f"the head takes embeddings of {width} numbers and {embedder.info.id!r} makes "
                f"{embedder.info.dimensions}; name the head's own embedder after an @"
            )
        self._layers, self._embedder = layers, embedder
        digest = hashlib.sha256(embedder.info.revision.encode())
        for part in (part for layer in layers for part in layer):
            digest.update(part.tobytes())
        self._info = ScoringInfo(id, digest.hexdigest()[:12], embedder.info.device, reads_text=False, light=True)

    @property
    def info(self) -> ScoringInfo:
        """Name and traits; constant."""
        return self._info

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:  # noqa: ARG002
        """Scores of images of one size, float32 (B,).

        The text has no effect. Raises `OutOfMemory`.
        """
        values = self._embedder.embed_images(images)
        for weight, bias in self._layers:
            values = values @ weight.T + bias
        return np.asarray(values[:, 0], np.float32)


def read_head(file: Path) -> list[_Layer]:
    """The layers of a head.

    From safetensors, or from a torch file, of which only tensors are read. Raises ModelUnsupported for other layers
    than LAION's, and the errors of the libraries.
    """
    found: dict[int, dict[str, Any]] = {}
    for name, tensor in open_clip.factory.load_state_dict(str(file)).items():
        parts = _PARAMETER.fullmatch(name)
        if parts is None:
            raise ModelUnsupported(f"the file holds {name!r}; use a linear aesthetic head or LAION's five layers")
        found.setdefault(int(parts[1] or 0), {})[parts[2]] = tensor.float().numpy()
    layers = [(found[index].get("weight"), found[index].get("bias")) for index in sorted(found)]
    known = tuple(sorted(found)) in _LAYOUTS or len(found) == 1
    whole = [(weight, bias) for weight, bias in layers if weight is not None and bias is not None]
    if not known or len(whole) != len(layers) or not _fit(whole):
        raise ModelUnsupported("the layers of the file are unknown; use a linear aesthetic head or LAION's five layers")
    return whole


def default_embedder(layers: list[_Layer]) -> str:
    """The name of the embedder that heads of this width are trained on.

    Raises ModelUnsupported for other widths.
    """
    width = layers[0][0].shape[1]
    if width not in AESTHETIC_EMBEDDERS:
        raise ModelUnsupported(f"no embedder is known for heads of {width} numbers; name it as aesthetic:FILE@SCORER")
    return AESTHETIC_EMBEDDERS[width]


def _fit(layers: list[_Layer]) -> bool:
    """Whether the layers follow each other and end in one number."""
    if any(weight.ndim != 2 or bias.shape != weight.shape[:1] for weight, bias in layers):
        return False
    widths = [layers[0][0].shape[1], *(len(weight) for weight, _ in layers)]
    return widths[-1] == 1 and all(
        weight.shape[1] == width for (weight, _), width in zip(layers, widths[:-1], strict=True)
    )
