"""Ten votes for one style: how far tuning by a taste profile shifts the share of that style among random picks.

A field of each of ten prompts is voted on: a candidate that is nearest to a drawing of the style is liked. The profile
rewards as `--reward taste:NAME` does. The style of a picture is that of the nearest true drawing, see
`models.training.evaluation.fields`; the outside judge is the referee. The votes are stored in the folder of the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from app.cli.tuning.stored import Taste, taste_opinion
from app.domain import TasteProfile, Vote, VoteKind
from models import registry
from models.load_options import LoadOptions
from models.protocols import Embedder, Pixels, to_host
from models.training.data import icons
from models.training.data.scenes import Icons
from models.training.evaluation import fields
from models.training.evaluation.prompts import Prompt, open_style
from models.tuning.rewards import Opinion, Scores
from models.tuning.run import Report, tune
from models.tuning.sampling import FieldSampler, Sampling, seeds_of
from models.tuning.settings import TuningError, TuningSettings
from models.tuning.task import Prompts, TuningTask
from tests.bench.tuning_opinions import judge_of, printed

STYLE = "fluent-emoji-flat"
"""The style that is voted for."""

VOTES, TRAINED = 10, 200
LEAST_STYLES = 4
"""Fewest styles with a drawing of a prompt's thing."""

SETTINGS = TuningSettings(rate=1e-3, prompts=12, candidates=8, timesteps=3, kl=0.0)

_FIELD = 16
_SEED = 7


def run(device: str, out: Path, changes: dict[str, Any], held_out: tuple[int, int], runs: Path) -> Report:
    """Vote, tune, and measure the share of the style; the report has `votes` besides.

    `held_out` are the numbers of prompts that select and of those of the verdict. `runs` has the true drawings.
    """
    models = registry.load_models("pictogram", "pictogram", device, options=LoadOptions(dtype="float32"))
    drawings = icons.load_icons(runs, fields.SETS)
    voted, trained, selection, verdict = _prompts(drawings, *held_out)
    asked = {prompt.text: prompt for prompt in (*voted, *trained, *selection, *verdict)}
    style = style_of(asked, drawings)
    settings = replace(SETTINGS, **changes)
    sampler = FieldSampler(models.generator, Sampling.of(models.generator, settings), settings.rows)
    profile, likes = cast_votes(out / "votes.json", voted, sampler, models.scorer, style)
    task = TuningTask(
        models.generator,
        taste_opinion(STYLE, Taste.of(profile), models.scorer),
        judge_of([*selection, *verdict], models.generator.info.device),
        Prompts(*(tuple(prompt.text for prompt in part) for part in (trained, selection, verdict))),
        out,
        settings,
        others={"style": style},
    )
    return {**tune(task, printed()), "votes": {"style": STYLE, "likes": likes}}


def style_of(asked: dict[str, Prompt], drawings: Icons) -> Opinion:
    """1 for an image whose nearest true drawing is of the style, else 0."""

    def score(prompt: str, images: Pixels) -> Scores:
        found = fields.nearest(to_host(images), asked[prompt].names[0], drawings)
        return np.array([float(name == STYLE) for name in found])

    return Opinion("style", STYLE, score)


def cast_votes(
    file: Path, voted: Sequence[Prompt], sampler: FieldSampler, scorer: Embedder, style: Opinion
) -> tuple[TasteProfile, int]:
    """A profile that likes one candidate of the style in each of `VOTES` fields, and its number of likes.

    Fields without a candidate of the style are passed over. Votes of an earlier call with this scorer are read from the
    file.
    """
    known = json.loads(file.read_text()) if file.is_file() else {}
    if known.get("scorer") != scorer.info.revision:
        found = list[dict[str, Any]]()
        for place, prompt in enumerate(voted):
            if len(found) == VOTES:
                break
            (drawn,) = sampler.draw([prompt.text], _FIELD, [seeds_of(_SEED, place, count=_FIELD)])
            shown = style.score(prompt.text, drawn.images)
            if 0 < shown.sum() < len(shown):
                embedded = scorer.embed_images(drawn.images)
                direction = embedded[int(shown.argmax())] - embedded.mean(0)
                found.append({"direction": direction.tolist(), "centre": embedded.mean(0).tolist()})
        if len(found) < VOTES:
            raise TuningError(
                f"{len(found)} of {len(voted)} fields show {STYLE!r} beside others, and {VOTES} votes are required: "
                "use more --steps"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        known = {"scorer": scorer.info.revision, "votes": found}
        file.write_text(json.dumps(known))
    kept = known["votes"]
    votes = tuple(
        Vote(VoteKind.LIKE, f"gen_{place}", 0, None, np.asarray(each["direction"], "<f2").tobytes())
        for place, each in enumerate(kept)
    )
    centre = np.mean([each["centre"] for each in kept], axis=0).astype("<f4").tobytes()
    return TasteProfile(scorer.info.id, scorer.info.revision, centre, len(kept), votes), len(votes)


def _prompts(drawings: Icons, selection: int, verdict: int) -> list[list[Prompt]]:
    """Things without a stated style, of which several styles have drawings: to vote, train, select and judge by."""
    names = [
        name
        for name in icons.pack_names()
        if (STYLE, name) in drawings and len(fields.held_by(name, drawings)) >= LEAST_STYLES
    ]
    if len(names) <= 4 * VOTES + selection + verdict:
        raise TuningError(
            f"{len(names)} things have drawings of {LEAST_STYLES} styles, none is left to train on: use a smaller "
            "--selection or --verdict"
        )
    every = open_style(names, min(len(names), 4 * VOTES + selection + verdict + TRAINED))
    ends = np.cumsum([0, 4 * VOTES, selection, verdict])
    voted, selecting, judging = (every[ends[i] : ends[i + 1]] for i in range(3))
    return [voted, every[ends[3] :], selecting, judging]
