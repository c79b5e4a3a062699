"""Ten votes for one look: how far tuning by a taste profile shifts the share of that look among random picks.

A look is a style or a background. A field of each of ten prompts is voted on: a candidate with the look is liked. The
profile rewards as `--reward taste:NAME` does. The style of a picture is that of the nearest true drawing, see
`models.training.evaluation.fields`; its background is checked by pixels. The outside judge is the referee. Further
fields show how often the profile prefers a candidate with the look: a reward that does not see it cannot teach it. The
votes are stored in the folder of the run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from app.cli.tuning.stored import Taste, taste_opinion
from app.domain import TasteProfile, Vote, VoteKind
from models import registry
from models.load_options import LoadOptions
from models.protocols import Embedder, Pixels, to_host
from models.training.data import icons
from models.training.data.scenes import Icons
from models.training.evaluation import checks, fields
from models.training.evaluation.prompts import Prompt, open_style
from models.tuning.rewards import Opinion, Scores
from models.tuning.run import Report, tune
from models.tuning.sampling import FieldSampler, Sampling, seeds_of
from models.tuning.settings import TuningError, TuningSettings
from models.tuning.task import Prompts, TuningTask
from tests.bench.tuning_opinions import judge_of, printed

Kind: TypeAlias = Literal["style", "background"]

LOOKS: dict[Kind, str] = {"style": "fluent-emoji-flat", "background": "blue"}
"""What is voted for."""

VOTES, TRAINED, COMPARED = 10, 200, 20
"""Votes, prompts to train on, and further fields that compare the profile with the look."""

LEAST_STYLES = 4
"""Fewest styles with a drawing of a prompt's thing."""

SETTINGS = TuningSettings(rate=1e-3, prompts=12, candidates=8, timesteps=3, kl=0.0)

_FIELD = 16
_SEED, _COMPARED_SEED = 7, 99


def run(
    device: str, out: Path, changes: dict[str, Any], held_out: tuple[int, int], runs: Path, kind: Kind = "style"
) -> Report:
    """Vote, tune, and measure the share of the look; the report has `votes` besides.

    `held_out` are the numbers of prompts that select and of those of the verdict. `runs` has the true drawings.
    """
    models = registry.load_models("pictogram", "pictogram", device, options=LoadOptions(dtype="float32"))
    drawings = icons.load_icons(runs, fields.SETS)
    voted, trained, selection, verdict = _prompts(drawings, *held_out)
    asked = {prompt.text: prompt for prompt in (*voted, *trained, *selection, *verdict)}
    look = background_of(LOOKS[kind]) if kind == "background" else style_of(asked, drawings)
    settings = replace(SETTINGS, **changes)
    sampler = FieldSampler(models.generator, Sampling.of(models.generator, settings), settings.rows)
    profile, likes = cast_votes(out / "votes.json", voted, sampler, models.scorer, look)
    taste = taste_opinion(LOOKS[kind], Taste.of(profile), models.scorer)
    task = TuningTask(
        models.generator,
        taste,
        judge_of([*selection, *verdict], models.generator.info.device),
        Prompts(*(tuple(prompt.text for prompt in part) for part in (trained, selection, verdict))),
        out,
        settings,
        others={kind: look},
    )
    seen = agreement(taste, look, [prompt.text for prompt in trained[:COMPARED]], sampler)
    return {**tune(task, printed()), "votes": {kind: LOOKS[kind], "likes": likes, **seen}}


def style_of(asked: dict[str, Prompt], drawings: Icons) -> Opinion:
    """1 for an image whose nearest true drawing is of the style, else 0."""

    def score(prompt: str, images: Pixels) -> Scores:
        found = fields.nearest(to_host(images), asked[prompt].names[0], drawings)
        return np.array([float(name == LOOKS["style"]) for name in found])

    return Opinion("style", LOOKS["style"], score)


def background_of(colour: str) -> Opinion:
    """1 for an image with a background of the colour, else 0."""

    def score(_prompt: str, images: Pixels) -> Scores:
        return np.array([float(checks.background(each) == colour) for each in to_host(images)])

    return Opinion("background", colour, score)


def agreement(taste: Opinion, look: Opinion, prompts: Sequence[str], sampler: FieldSampler) -> dict[str, float | None]:
    """How often the taste puts a candidate with the look above another one of its field; chance is 0.5.

    The mean over `fields`, the number of fields that show both kinds; None without any. The base model draws them.
    """
    shares = []
    for place, prompt in enumerate(prompts):
        (drawn,) = sampler.draw([prompt], _FIELD, [seeds_of(_COMPARED_SEED, place, count=_FIELD)])
        shown, liked = look.score(prompt, drawn.images) > 0, taste.score(prompt, drawn.images)
        if 0 < shown.sum() < len(shown):
            above = liked[shown][:, None] - liked[~shown]
            shares.append(float((above > 0).mean() + (above == 0).mean() / 2))
    return {"agreement": float(np.mean(shares)) if shares else None, "fields": len(shares)}


def cast_votes(
    file: Path, voted: Sequence[Prompt], sampler: FieldSampler, scorer: Embedder, look: Opinion
) -> tuple[TasteProfile, int]:
    """A profile that likes one candidate with the look in each of `VOTES` fields, and its number of likes.

    Fields without such a candidate are passed over. Votes of an earlier call with this scorer are read from the
    file.
    """
    known = json.loads(file.read_text()) if file.is_file() else {}
    if known.get("scorer") != scorer.info.revision:
        found = list[dict[str, Any]]()
        for place, prompt in enumerate(voted):
            if len(found) == VOTES:
                break
            (drawn,) = sampler.draw([prompt.text], _FIELD, [seeds_of(_SEED, place, count=_FIELD)])
            shown = look.score(prompt.text, drawn.images)
            if 0 < shown.sum() < len(shown):
                embedded = scorer.embed_images(drawn.images)
                direction = embedded[int(shown.argmax())] - embedded.mean(0)
                found.append({"direction": direction.tolist(), "centre": embedded.mean(0).tolist()})
        if len(found) < VOTES:
            raise TuningError(
                f"{len(found)} of {len(voted)} fields show {look.revision!r} beside others, and {VOTES} votes are "
                "required: use more --steps"
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
        if (LOOKS["style"], name) in drawings and len(fields.held_by(name, drawings)) >= LEAST_STYLES
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
