"""Which scorers can serve together."""

from __future__ import annotations

from collections.abc import Sequence

from models.errors import ModelUnsupported
from models.protocols import Embedder, Models, Scorer, StepwiseGenerator, embeds
from models.protocols.scoring import LAYOUT
from models.protocols.upscaling import Upscaler


def checked(
    generator: StepwiseGenerator,
    scorer: Embedder | Scorer,
    members: Sequence[Embedder | Scorer],
    referee: Embedder | Scorer | None,
    upscaler: Upscaler | None = None,
) -> Models:
    """The models of a process.

    The main scorer must embed, and names must differ, see `check_names`. So must weights: one model under two names
    would count twice. Raises ModelUnsupported.
    """
    if not embeds(scorer):
        raise ModelUnsupported(
            f"scorer {scorer.info.id!r} only scores, and the main scorer must embed: name it in FRONTRUNNER_SCORERS"
        )
    try:
        check_names([each.info.id for each in (scorer, *members)], referee.info.id if referee is not None else "")
    except ValueError as error:
        raise ModelUnsupported(str(error)) from error
    _check_weights([scorer, *members, *([] if referee is None else [referee])])
    return Models(generator, scorer, upscaler=upscaler, members=tuple(members), referee=referee)


def check_names(names: Sequence[str], referee: str) -> None:
    """Raise ValueError if a scorer is named twice, or if the referee also ranks.

    `names` holds the main scorer first; `referee` is empty for none. A referee that also ranks would confirm itself.
    """
    if referee in names:
        raise ValueError(
            f"FRONTRUNNER_REFEREE: {referee!r} also ranks, so it would confirm itself; name another scorer"
        )
    base = referee.removeprefix(LAYOUT)
    if referee and (alike := [name for name in names if name.removeprefix(LAYOUT) == base]):
        raise ValueError(
            f"FRONTRUNNER_REFEREE: {referee!r} has the weights of {alike[0]!r}, which ranks; name another scorer"
        )
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"FRONTRUNNER_SCORERS: {', '.join(map(repr, repeated))} is named twice, with FRONTRUNNER_SCORER; "
            "name each scorer once"
        )


def _check_weights(scorers: Sequence[Embedder | Scorer]) -> None:
    """Raise ModelUnsupported if two scorers of one kind have the same revision."""
    known: dict[tuple[bool, str], str] = {}
    for each in scorers:
        other = known.setdefault((embeds(each), each.info.revision), each.info.id)
        if other != each.info.id:
            raise ModelUnsupported(
                f"FRONTRUNNER_SCORERS and FRONTRUNNER_REFEREE: {other!r} and {each.info.id!r} are the same weights; "
                "name each model once"
            )


def embedders(models: Models) -> list[Embedder]:
    """The members that embed."""
    return [each for each in models.members if embeds(each)]
