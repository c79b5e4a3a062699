"""What requests to generators of whole images cannot ask, and must know."""

from __future__ import annotations

from collections.abc import Iterator

from app.domain import Notice
from app.errors import InvalidRequest, NoInpainting
from app.service.types import GenerationParams
from models.protocols import WholeImages


def whole_image_notices(params: GenerationParams, traits: WholeImages, steps: int) -> tuple[Notice, ...]:
    """The notices of a request; `steps` are the generator's own.

    Raises InvalidRequest and NoInpainting.
    """
    if isinstance(params.pruning, tuple):
        raise InvalidRequest("a remote generator has no steps to prune at: omit `pruning`", pointer="#/pruning")
    if params.start is not None and not traits.init_images:
        raise InvalidRequest("this remote generator takes no initial image: omit it", pointer="#/image")
    if params.inputs is not None and params.inputs.inpainting is not None and not traits.masks:
        raise NoInpainting("this remote generator takes no mask: omit it", pointer="#/mask")
    return tuple(_notices(params, traits, steps))


def _notices(params: GenerationParams, traits: WholeImages, steps: int) -> Iterator[Notice]:
    if params.pruning != "off":
        yield Notice("pruning_unsupported", "the generator is remote and shows no previews, so nothing was pruned")
    if params.partial_images:
        yield Notice("previews_unsupported", "the generator is remote and shows no previews: the stream has none")
    if not traits.seeds:
        detail = "the remote generator takes no seeds: those of the candidates do not make the same images again"
        yield Notice("seeds_not_reproducible", detail)
    elif params.deterministic:
        detail = "the generator is remote: this server cannot promise that equal seeds give equal bits"
        yield Notice("deterministic_not_applied", detail)
    if params.steps not in (None, steps) and not traits.steps:
        yield Notice("steps_not_applied", "the remote generator takes no number of steps: omit `steps`")
    if params.start is not None and not traits.strengths:
        yield Notice("strength_not_applied", "the remote generator takes no strength: omit `strength`")
