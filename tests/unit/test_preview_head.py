"""The preview head: where embeddings know more than scores, it is used and fields are cut earlier."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.domain import Checkpoint
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.cost_model import CostModel
from app.engine.protocols import Succeeded
from app.engine.pruning import calibration, checkpoints, planner
from app.engine.pruning.trajectory import Trajectory
from models import calibration_io
from models.protocols import Calibration, Models, PreviewHead, packed
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from tests.unit.engine_kit import alone, spec

pytestmark = pytest.mark.slow

GENERATOR, SCORER = FakeGenerator().info, replace(FakeScorer().info, dimensions=8)
STEPS, DIMENSIONS, CANDIDATES = 8, 8, 16
COSTS = CostModel.from_measurements({1: 0.1, 16: 1.6}, preview={1: 0.01}, finish={1: 0.01})
NOISE = (1.2, 0.9, 0.7, 0.5, 0.35, 0.2, 0.1, 0.0)
"""Noise of previews by step."""


def traces(turned: float, prompts: int = 48, seed: int = 0) -> list[Trajectory]:
    """Fields whose previews are the final embedding, turned, with noise that no embedding explains.

    A turned preview has another score than the final, but tells of it: `turned` is how far, less at each step.
    """
    turn = np.kron(np.eye(DIMENSIONS // 2), [[0, -1], [1, 0]])
    draw, made = np.random.default_rng(seed), []
    for _ in range(prompts):
        prompt = draw.standard_normal(DIMENSIONS)
        prompt /= np.linalg.norm(prompt)
        finals = draw.standard_normal((CANDIDATES, DIMENSIONS))
        shown = []
        for step, noise in enumerate(NOISE):
            share = turned * (1 - (step + 1) / STEPS)
            noisy = finals + (1.0 if turned == 0 else 0.2) * noise * draw.standard_normal(finals.shape)
            shown.append((1 - share) * noisy + share * noisy @ turn)
        embeddings = np.asarray(shown)
        scores, gaps = embeddings @ prompt, draw.standard_normal((STEPS, CANDIDATES))
        made.append(Trajectory(scores, gaps, scores[-1], embeddings.astype(np.float16), prompt.astype(np.float32)))
    return made


@pytest.fixture(scope="module")
def turned() -> Calibration:
    return calibration.fit_calibration(traces(0.8), GENERATOR, SCORER)


def without_embeddings(fields: list[Trajectory]) -> list[Trajectory]:
    return [replace(t, embeddings=None, prompt=None) for t in fields]


def rows_and_gain(known: Calibration, fields: list[Trajectory]) -> tuple[int, float]:
    """Rows that the plan steps in each field, and the share of the best-of-N gain that it keeps in these fields."""
    correlations = calibration.correlations_by_step(known, "ddim", STEPS)
    cuts = planner.plan_checkpoints(planner.PlanInput(CANDIDATES, 1, STEPS, correlations, COSTS), 0.97)
    rows, last, kept, whole = 0, 0, 0.0, 0.0
    for rest, until in zip((CANDIDATES, *(c.keep or 0 for c in cuts)), (*(c.at for c in cuts), STEPS), strict=True):
        rows, last = rows + rest * (until - last), until
    for field in fields:
        live = list(range(CANDIDATES))
        for cut in cuts:
            scores = [predicted(known, field, cut.at, i) for i in live]
            live = [live[place] for place in checkpoints.select_survivors(scores, cut)]
        kept += field.finals[live].max() - field.finals.mean()
        whole += field.finals.max() - field.finals.mean()
    return rows, kept / whole


def predicted(known: Calibration, field: Trajectory, at: int, i: int) -> float:
    assert field.embeddings is not None
    assert field.prompt is not None
    embedding = field.embeddings[at - 1, i].astype(np.float32)
    estimated = calibration.estimate_embedding(known, embedding, "ddim", at, STEPS)
    score = float((embedding if estimated is None else estimated[0]) @ field.prompt)
    return calibration.predict_score(known, score, field.guidance_gaps[at - 1, i], "ddim", at, STEPS)


def test_where_the_direction_tells_of_the_final_the_head_is_used_and_cuts_come_earlier(turned: Calibration) -> None:
    head = turned.head
    assert head is not None
    assert all(head.used[1:5])
    assert all(mine < 0.7 * linear for mine, linear in zip(head.head_error[1:5], head.linear_error[1:5], strict=True))
    assert not head.used[-1], "the last preview is the final image"
    linear = calibration.fit_calibration(without_embeddings(traces(0.8)), GENERATOR, SCORER)
    assert linear.head is None
    fresh = traces(0.8, seed=1)
    (rows, gain), (plain_rows, _) = rows_and_gain(turned, fresh), rows_and_gain(linear, fresh)
    assert rows < 0.8 * plain_rows
    assert gain > 0.96, "the estimate of what cuts keep comes from prompts that were not fitted"


def test_where_it_does_not_the_linear_fit_stays() -> None:
    fields = traces(0.0)
    made = calibration.fit_calibration(fields, GENERATOR, SCORER)
    linear = calibration.fit_calibration(without_embeddings(fields), GENERATOR, SCORER)
    assert made.head is not None
    assert not any(made.head.used)
    assert len(made.head.linear_error) == len(made.head.head_error) == STEPS
    assert replace(made, head=None) == linear
    assert calibration.estimate_embedding(made, np.ones(DIMENSIONS, np.float32), "ddim", 3, STEPS) is None


def test_a_fit_of_noise_promises_nothing() -> None:
    """As many products as candidates explain any finals; prompts that were not fitted show it."""
    draw = np.random.default_rng(0)
    fields = [replace(t, finals=draw.standard_normal(CANDIDATES)) for t in traces(0.8, prompts=12)]
    made = calibration.fit_calibration(fields, GENERATOR, SCORER)
    assert made.head is not None
    assert sum(made.head.used) <= 1
    assert max(made.correlation) < 0.4


def test_too_few_prompts_have_no_head() -> None:
    assert calibration.fit_calibration(traces(0.8, prompts=5), GENERATOR, SCORER).head is None


def test_other_numbers_of_steps_mix_the_maps_of_near_steps(turned: Calibration) -> None:
    embedding = np.linspace(-1, 1, DIMENSIONS, dtype=np.float32)

    def at(step: int, steps: int) -> np.ndarray:
        found = calibration.estimate_embedding(turned, embedding, "ddim", step, steps)
        assert found is not None
        return found[0]

    np.testing.assert_allclose(at(4, 16), at(2, 8), rtol=1e-6)
    np.testing.assert_allclose(at(5, 16), (at(2, 8) + at(3, 8)) / 2, atol=1e-6)
    assert calibration.estimate_embedding(turned, embedding, "ddim", 8, 8) is None
    assert calibration.estimate_embedding(None, embedding, "ddim", 4, 8) is None


def test_the_file_holds_the_head(turned: Calibration) -> None:
    both = replace(turned, steered=replace(turned, steering=(0.05, 0.15, 0.8)))
    stored = json.loads(json.dumps(calibration_io.to_json(both)))
    back = calibration_io.from_json(stored)
    assert back == both
    assert back.head == turned.head
    assert back.steered is not None
    assert back.steered.head == turned.head
    unused = calibration.fit_calibration(traces(0.0, prompts=12), GENERATOR, SCORER)
    assert calibration_io.from_json(json.loads(json.dumps(calibration_io.to_json(unused)))) == unused


def test_a_file_of_the_former_format_has_no_head(turned: Calibration) -> None:
    plain = calibration_io.to_json(replace(turned, head=None))
    former = {k: v for k, v in plain.items() if k != "head"} | {"format": 3}
    assert calibration_io.from_json(former) == replace(turned, head=None)


def changed(stored: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return stored | {"head": stored["head"] | fields}


def test_damaged_heads_are_refused(turned: Calibration) -> None:
    stored = calibration_io.to_json(turned)
    assert turned.head is not None
    texts, images, maps = turned.head.arrays()
    assert maps[~np.array(turned.head.used)].any() == np.False_
    for broken in (
        changed(stored, maps=packed(maps[list(turned.head.used)] * np.float32("nan"))),
        changed(stored, texts=packed(texts + np.float32("inf")), images=packed(images)),
        changed(stored, texts="?"),
        changed(stored, images=stored["head"]["images"][:-8]),
        changed(stored, dimensions=7),
        changed(stored, used=[True]),
        changed(stored, used=[1] * STEPS),
        changed(stored, head_error=[float("nan")] * STEPS),
        changed(stored, ranks=[1]),
        changed(stored, ranks=[1.5, 8]),
        changed(stored, maps=None),
        stored | {"head": 3},
        stored | {"correlation": [float("nan")] * STEPS},
        stored | {"guidance_scale": float("inf")},
    ):
        with pytest.raises(ValueError, match="calibration"):
            calibration_io.from_json(broken)


def test_a_head_of_other_dimensions_is_of_another_scorer(turned: Calibration) -> None:
    assert turned.matches(GENERATOR, SCORER)
    assert not turned.matches(GENERATOR, replace(SCORER, dimensions=13))


def test_the_engine_prunes_by_the_estimate() -> None:
    """A head that turns embeddings round, after a step and between two."""
    steps, scorer = 6, FakeScorer()
    half, whole, nothing = ((value,) * steps for value in (0.5, 1.0, 0.0))
    unit = np.eye(scorer.info.dimensions, dtype=np.float32)
    arrays = map(packed, (unit, unit, np.stack([-2 * unit] * steps)))
    head = PreviewHead(len(unit), (len(unit),) * 2, (True,) * steps, half, half, *arrays)
    known = Calibration("1", "1", "ddim", steps, 3.0, half, half, whole, nothing, head=head)
    asked = spec(n_candidates=6, n=1, checkpoints=(Checkpoint(3, 2),))
    core = EngineCore(Models(FakeGenerator(), scorer, known), EngineConfig())
    core.submit(asked, 0.0)
    (outcome,) = [u.outcome for _, u in iter_updates(core) if isinstance(u, Succeeded)]
    plain = alone(asked)
    kept, plainly = ({c.index for c in o.candidates if not c.pruned_at_step} for o in (outcome, plain))
    assert not kept & plainly
    assert outcome.work == plain.work
    pruned = [i for i in range(6) if i not in kept | plainly]
    assert [outcome.candidates[i].score for i in pruned] == [plain.candidates[i].score for i in pruned], (
        "scores are those of previews"
    )


def iter_updates(core: EngineCore) -> list[Any]:
    found: list[Any] = []
    while not core.idle:
        found += core.tick()
    return found
