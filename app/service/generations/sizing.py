"""Sizes: fit requested sizes and ratios to the sizes that a generator supports."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from app.domain import Notice
from app.errors import InvalidRequest
from app.service.types import GenerationParams, Limits
from app.service.validation import MIN_SIDE, check_range, check_size, makes_size
from models.protocols import GeneratorInfo

MAX_ELONGATION = 16
"""Maximum ratio of the longer to the shorter side of an image file."""

Size = tuple[int, int]


def settle_size(params: GenerationParams, generator: GeneratorInfo, limits: Limits) -> GenerationParams:
    """`params` with the size to sample and, if different, the size of the files.

    With `fit` "nearest", an unsupported size is sampled at the default area in the nearest ratio. The files then have
    the requested size, and a notice says so. Settled parameters do not change. Raises InvalidRequest.
    """
    asked = None
    if params.width is not None or params.height is not None:
        asked = params.width or generator.width, params.height or generator.height
    if asked is not None and params.aspect_ratio is not None:
        raise InvalidRequest("`aspect_ratio` and `size` exclude each other: send one of them", pointer="#/aspect_ratio")
    if params.aspect_ratio is not None:
        _check_ratio(params.aspect_ratio, "#/aspect_ratio")
    output, pointer = params.output_size, "#/output_size"
    if asked is not None and params.fit == "nearest" and output is None:
        output, pointer = asked, "#/size"
    sampled = _sampled(params, asked, output, pointer, generator)
    if output is None or output == sampled:
        return replace(params, width=sampled[0], height=sampled[1], aspect_ratio=None, fit="exact", output_size=None)
    _check_output(output, params.n, limits, pointer)
    notices = (_adapted(sampled, output, generator),) if params.fit == "nearest" else ()
    return replace(
        params,
        width=sampled[0],
        height=sampled[1],
        aspect_ratio=None,
        fit="exact",
        output_size=output,
        notices=(*params.notices, *notices),
    )


def nearest_size(ratio: float, generator: GeneratorInfo) -> Size:
    """Supported size nearest to `ratio` (width by height) and the default area."""
    area = generator.width * generator.height
    return min(_sizes(ratio, generator), key=lambda size: _distance(size, ratio, area))


def _sampled(
    params: GenerationParams, asked: Size | None, output: Size | None, pointer: str, generator: GeneratorInfo
) -> Size:
    if asked is not None and params.fit == "exact":
        check_size(*asked, generator)
        return asked
    if asked is not None and makes_size(*asked, generator):
        return asked
    shape = asked or params.aspect_ratio or output
    if shape is None:
        return generator.width, generator.height
    _check_ratio(shape, "#/size" if asked else pointer)
    return nearest_size(shape[0] / shape[1], generator)


def _sizes(ratio: float, generator: GeneratorInfo) -> Iterator[Size]:
    """For every width, the two heights nearest to the ratio."""
    step = generator.size_multiple
    least, most = step * math.ceil(MIN_SIDE / step), step * (generator.max_size // step)
    for width in range(least, most + 1, step):
        below = step * int(width / ratio / step)
        for height in (below, below + step):
            yield width, min(most, max(least, height))


def _distance(size: Size, ratio: float, area: int) -> float:
    """Distance of a size from ratio and area.

    The ratio counts twice as much as the area, because a wrong ratio crops pixels.
    """
    width, height = size
    return 2 * abs(math.log(width / height / ratio)) + abs(math.log(width * height / area))


def _check_ratio(shape: Size, pointer: str) -> None:
    if max(shape) > MAX_ELONGATION * min(shape):
        raise InvalidRequest(
            f"one side is more than {MAX_ELONGATION} times the other: send a less extreme ratio", pointer=pointer
        )


def _check_output(size: Size, n: int, limits: Limits, pointer: str) -> None:
    for side in size:
        check_range(side, MIN_SIDE, limits.output_side, pointer)
    _check_ratio(size, pointer)
    if n * size[0] * size[1] > limits.output_pixels:
        raise InvalidRequest(
            f"n = {n} images of {size[0]}x{size[1]} have more than {limits.output_pixels} pixels: "
            "request fewer or smaller ones",
            pointer=pointer,
        )


def _adapted(sampled: Size, output: Size, generator: GeneratorInfo) -> Notice:
    made, given = (f"{width}x{height}" for width, height in (sampled, output))
    detail = f"{generator.id!r} does not support {given}: images are sampled at {made} and resized"
    return Notice("size_adapted", detail, {"param": "size", "sampled": made, "output": given})
