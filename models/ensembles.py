"""Which scorers can serve together."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import ModelUnsupported
from models.protocols import Embedder, Models, Scorer, StepwiseGenerator, embeds
from models.protocols.upscaling import Upscaler


def checked(
    generator: StepwiseGenerator,
    scorer: Embedder | Scorer,
    members: Sequence[Embedder | Scorer],
    referee: Embedder | Scorer | None,
    upscaler: Upscaler | None = None,
) -> Models:
    """The models of a process.

    The main scorer must embed, and names must differ, see `check_names`. Raises ModelUnsupported.
    """
    if not embeds(scorer):
        raise ModelUnsupported(
            f"scorer {scorer.info.id!r} only scores, and the main scorer must embed: name it in FRONTRUNNER_SCORERS"
        )
    try:
        check_names([each.info.id for each in (scorer, *members)], referee.info.id if referee is not None else "")
    except ValueError as error:
        raise ModelUnsupported(str(error)) from error
    return Models(generator, scorer, upscaler=upscaler, members=tuple(members), referee=referee)


def check_names(names: Sequence[str], referee: str) -> None:
    """Raise ValueError if a scorer is named twice, or if the referee also ranks.

    `names` holds the main scorer first; `referee` is empty for none. A referee that also ranks would confirm itself.
    """
    if referee in names:
        raise ValueError(
            f"FRONTRUNNER_REFEREE: {referee!r} also ranks, so it would confirm itself; name another scorer"
        )
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"FRONTRUNNER_SCORERS: {', '.join(repeated)} is named twice, with FRONTRUNNER_SCORER; name each scorer once"
        )


def embedders(models: Models) -> list[Embedder]:
    """The members that embed."""
    return [each for each in models.members if embeds(each)]
