"""Blob keys of a generation's files, the size and the metadata of an image file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from app import imaging
from app.domain import Candidate, Generation, Notice, Provenance

FILES = "generations/"
"""Prefix of the files of all generations."""


def blob_prefix(generation_id: str) -> str:
    """Prefix of every file of a generation."""
    return f"{FILES}{generation_id}/"


def image_key(generation_id: str, index: int, output_format: str) -> str:
    """Key of a candidate's encoded image."""
    return f"{blob_prefix(generation_id)}{index}.{output_format}"


def upscaled_key(generation_id: str, index: int, revision: str, size: tuple[int, int]) -> str:
    """Key of a candidate's image that an upscaler of this revision enlarged to `size`."""
    return f"{blob_prefix(generation_id)}{index}.upscaled-{revision}-{size[0]}x{size[1]}.png"


def arrays_key(generation_id: str) -> str:
    """Key of the .npz: embeddings float32 (N, D), latents float16 (N, C, h, w)."""
    return f"{blob_prefix(generation_id)}field.npz"


def member_array(scorer: str, revision: str) -> str:
    """Name of the array with a member's embeddings in that file.

    The array is float32 (N, D), NaN where it did not judge.
    """
    return f"member:{scorer}@{revision}"


def inputs_key(generation_id: str) -> str:
    """Key of the .npz of a masked generation: see `app.service.candidates.inputs`."""
    return f"{blob_prefix(generation_id)}inputs.npz"


def file_size(generation: Generation) -> tuple[int, int]:
    """Width and height of a generation's image files, in pixels."""
    return generation.output_size or (generation.spec.width, generation.spec.height)


def file_metadata(
    generation: Generation, candidate: Candidate, upscaler: str | None = None
) -> Mapping[str, Any] | None:
    """What the file of an image contains of `image_metadata`: all or nothing."""
    if generation.provenance is not Provenance.METADATA:
        return None
    return image_metadata(generation, candidate, upscaler)


def image_metadata(generation: Generation, candidate: Candidate, upscaler: str | None = None) -> Mapping[str, Any]:
    """The parameters that reproduce an image.

    `upscaler` is what enlarged it; None if it was not enlarged.
    """
    spec = generation.spec
    optional = {
        "loras": [{"name": lora.name, "weight": lora.weight} for lora in spec.loras] or None,
        "steering": asdict(spec.steering) if spec.steering else None,
        "strength": spec.start.strength if spec.start else None,
        "output_size": "{}x{}".format(*generation.output_size) if generation.output_size else None,
    }
    return {
        **({"upscaler": upscaler} if upscaler is not None else {}),
        "generation": spec.id,
        "prompt": spec.sampling_prompt(candidate.index),
        "negative_prompt": spec.negative_prompt,
        "seed": candidate.seed,
        "steps": spec.steps,
        "sampler": spec.sampler,
        "guidance_scale": spec.guidance_scale,
        "width": spec.width,
        "height": spec.height,
        "model": generation.model,
        "scorer": generation.scorer,
        "score": candidate.score.score if candidate.score is not None else None,
        "similarity": candidate.score.similarity if candidate.score is not None else None,
        "penalty": candidate.score.penalty if candidate.score is not None else None,
        **{name: value for name, value in optional.items() if value is not None},
    }


def truncation_notices(output_format: str, metadata: Iterable[Mapping[str, Any] | None]) -> tuple[Notice, ...]:
    """A warning if texts in the files had to be cut."""
    if output_format != "jpeg":
        return ()
    cut = {name for one in metadata if one for name in imaging.jpeg_parameters(one).get(imaging.TRUNCATED, ())}
    if not cut:
        return ()
    names = " and ".join(sorted(cut, reverse=True))
    detail = f"JPEG files hold 64 KiB of text, {names} was cut in them: request PNG or WebP for the whole text"
    return (Notice(imaging.TRUNCATED, detail, {"param": "output_format"}),)
