"""Gradients of the score through real decoders and towers: direction, shared calls, sub-batches, refusals."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models.protocols import StepRow
from models.protocols.image_inputs import ImageInputs, Inpainting
from models.protocols.steering import SteeringTarget, SteerRow
from tests.contract.gate_kit import Job, driven

pytestmark = pytest.mark.torch

PATHS = [
    ("stable_diffusion", "native"),
    ("stable_diffusion_xl", "native"),
    ("flux", "native"),
    ("stable_diffusion", "gate"),
    ("flux", "gate"),
]
CALL = 3
SCALE = 0.05


class Steered:
    """A family that is steered by the tiny CLIP, its rows after `CALL` calls."""

    def __init__(self, name: str, path: Any, scorer: Any) -> None:
        from models.steering import find_steering
        from models.steering.gradients import GradientSteering

        self.driven = driven(name, path)
        self.size = self.driven.family.size
        found = find_steering(self.driven.generator, scorer)
        assert isinstance(found, GradientSteering)
        self.steering = found
        self.steering.check(self.size, self.size)
        draw = np.random.default_rng(0).standard_normal((2, scorer.info.dimensions)).astype(np.float32)
        draw /= np.linalg.norm(draw, axis=1, keepdims=True)
        one = np.ones(1, np.float32)
        self.aim = self.steering.aim(SteeringTarget(draw[:1], one, draw[1:], 0.5 * one))

    def rows(self, *seeds: int) -> list[StepRow]:
        rows = [replace(self.driven.row(Job(seed=seed, steps=8)), steered=True) for seed in seeds]
        for _ in range(CALL):
            rows = self.driven.step(rows)
        return rows

    def steer_row(self, row: StepRow, **changes: Any) -> SteerRow:
        made = SteerRow(row.latent, row.schedule, row.step - 1, row.seed, self.aim, SCALE)
        return replace(made, **changes)

    def steer(self, *rows: StepRow, size: int | None = None, **changes: Any) -> list[Any]:
        return self.steering.steer([self.steer_row(row, **changes) for row in rows], size or len(rows))

    def score(self, latent: Any) -> float:
        """The score of the estimate's image, without rounding."""
        import torch

        from models.steering import gradients

        with torch.no_grad():
            x0 = self.steering._decoder.estimate(latent)[None]
            images = self.steering._decoder.images(x0, self.size, self.size)
            return float(self.aim.scores(self.steering._embed(gradients._levels(images)))[0])


@pytest.fixture(scope="module", params=PATHS, ids="-".join)
def steered(request: pytest.FixtureRequest, workshop: Any) -> Steered:
    name, path = request.param
    return Steered(name, path, workshop.scorer("tiny"))


def x0(latent: Any) -> Any:
    return np.asarray(latent.x0, np.float32)


def test_a_move_raises_the_score_by_its_length(steered: Steered) -> None:
    rows = steered.rows(1, 2)
    for row, after in zip(rows, steered.steer(*rows), strict=True):
        assert steered.score(after) > steered.score(row.latent)
        length = np.linalg.norm(x0(after) - x0(row.latent)) / np.linalg.norm(x0(row.latent))
        assert length == pytest.approx(SCALE, rel=1e-3)
        assert np.abs(np.asarray(after.x) - np.asarray(row.latent.x)).max() > 0


def test_a_row_has_the_same_bits_alone_and_in_company(steered: Steered) -> None:
    rows = steered.rows(1, 2, 3)
    alone = steered.steer(rows[1], size=4)[0]
    beside = steered.steer(*rows, size=4)[1]
    np.testing.assert_array_equal(np.asarray(alone.x), np.asarray(beside.x))
    np.testing.assert_array_equal(x0(alone), x0(beside))


def test_sub_batches_make_the_same_moves(steered: Steered, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.steering import gradients

    rows = steered.rows(1, 2, 3)
    whole = steered.steer(*rows)
    monkeypatch.setattr(gradients, "CALL_PIXELS", 1)
    for one, other in zip(whole, steered.steer(*rows), strict=True):
        np.testing.assert_allclose(x0(one), x0(other), atol=1e-4)


def test_the_next_steps_start_from_the_moved_state(steered: Steered) -> None:
    (row,) = steered.rows(1)
    plain = steered.driven.finish([row])[0]
    (again,) = steered.rows(1)
    moved = replace(again, latent=steered.steer(again)[0])
    ends = [steered.driven.finish([replace(moved, latent=each)])[0] for each in (moved.latent,)]
    assert not np.array_equal(np.asarray(plain.x), np.asarray(ends[0].x))
    assert np.isfinite(np.asarray(ends[0].x)).all()


def test_only_the_masked_part_moves(steered: Steered) -> None:
    (row,) = steered.rows(1)
    mask = np.zeros((steered.size, steered.size), bool)
    mask[: steered.size // 2] = True
    stored = steered.driven.generator.dump([row.latent], preview=True)[0]
    source = np.zeros((steered.size, steered.size, 3), np.uint8)
    inputs = ImageInputs(Inpainting(source, stored, mask))
    after = steered.steer(row, inputs=inputs)[0]
    change = np.abs(
        np.asarray(steered.driven.generator.dump([after], preview=True)[0], np.float32) - stored.astype(np.float32)
    )
    half = change.shape[1] // 2
    assert change[:, :half].max() > 0
    assert change[:, half:].max() == 0


def test_a_row_that_is_not_finite_stays_beside_one_that_moves(steered: Steered) -> None:
    sound, broken = steered.rows(1, 2)
    import torch

    unsound = replace(broken.latent, x0=torch.full_like(broken.latent.x0, float("nan")))
    after = steered.steer(sound, replace(broken, latent=unsound))
    assert after[1] is unsound
    assert after[0] is not sound.latent


@pytest.mark.parametrize("steered", [False, True])
def test_the_gate_keeps_the_state_before_a_step_only_for_steered_rows(steered: bool) -> None:
    gate = driven("flux", "gate")
    rows = [replace(gate.row(Job(steps=4)), steered=steered)]
    for _ in range(2):
        rows = gate.step(rows)
    latent = rows[0].latent
    assert [each is not None for each in (latent.before, latent.x0_before)] == [steered, steered]


def test_a_lost_run_continues_from_the_moved_state(workshop: Any) -> None:
    steered = Steered("flux", "gate", workshop.scorer("tiny"))
    (row,) = steered.rows(1)
    latent = steered.steer(row)[0]
    assert latent.attempt is not None
    whole = steered.driven.finish([replace(row, latent=latent)])[0]
    (row,) = steered.rows(1)
    latent = steered.steer(row)[0]
    latent.attempt.run.close()
    latent.attempt = None
    again = steered.driven.finish([replace(row, latent=latent)])[0]
    np.testing.assert_array_equal(np.asarray(whole.x), np.asarray(again.x))


def test_the_gate_reads_the_weight_that_the_table_holds(workshop: Any) -> None:
    from models.generators.gradients.gate import solver_weight

    gated, native = (Steered("flux", path, workshop.scorer("tiny")) for path in ("gate", "native"))
    (row,) = gated.rows(1)
    table = native.driven.row(Job(seed=1, steps=8)).schedule.table[CALL - 1]
    assert solver_weight(row.latent) == pytest.approx(table[3] / table[5], abs=1e-3)


def test_the_pack_is_steered_by_its_own_score(workshop: Any) -> None:
    models = workshop.pack
    assert models.steering is not None
    models.steering.check(64, 64)
    assert models.steering.refusal is None
    assert models.steering.bit_stable


def test_a_decoder_without_gradients_is_refused(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.steering.gradients import GradientSteering

    generator: Any = driven("stable_diffusion", "native").generator
    decoder = generator.differentiable()
    images = decoder.images
    monkeypatch.setattr(decoder, "images", lambda *given: images(*given).detach())
    steering = GradientSteering(decoder, workshop.scorer("tiny").embed_differentiable)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        steering.check(32, 32)
    assert steering.refusal is not None


def test_one_refused_size_does_not_refuse_the_models(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.steering.gradients import GradientSteering

    generator: Any = driven("stable_diffusion", "native").generator
    decoder = generator.differentiable()

    def prepare(width: int, height: int) -> None:
        if width != height:
            raise ValueError("only squares")

    monkeypatch.setattr(decoder, "prepare", prepare)
    steering = GradientSteering(decoder, workshop.scorer("tiny").embed_differentiable)
    with pytest.raises(ValueError, match="only squares; omit `steering`"):
        steering.check(32, 64)
    assert steering.refusal == "only squares"
    steering.check(32, 32)
    with pytest.raises(ValueError, match="only squares"):
        steering.check(32, 64)
    assert steering.refusal is None


def test_sub_batches_have_equal_rows(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other bits come from batches of another size: a row must not depend on its place."""
    from models.steering import gradients

    steered = Steered("stable_diffusion", "native", workshop.scorer("tiny"))
    rows, sizes = steered.rows(1, 2, 3, 4), list[int]()
    images = steered.steering._decoder.images

    def counted(x0: Any, *size: int) -> Any:
        sizes.append(len(x0))
        return images(x0, *size)

    monkeypatch.setattr(steered.steering._decoder, "images", counted)
    monkeypatch.setattr(gradients, "CALL_PIXELS", 3 * steered.size**2)
    assert len(steered.steer(*rows)) == 4
    assert len(steered.steer(*rows[:2], size=7)) == 2
    assert sizes == [2, 2, 3, 3, 3]


def test_the_gate_forgets_the_ways_of_old_sizes() -> None:
    import torch

    from models.generators.gate.packing import Packing
    from models.generators.gradients import gate

    class Part:
        """A decoder call."""

    made = list[weakref.ref[Part]]()

    def call(width: int, height: int) -> Any:
        part = Part()
        made.append(weakref.ref(part))
        return part

    place = torch.zeros(1)
    decoder = gate.GateDifferentiable(call, lambda *_: Packing((1,), place, place, place), None)  # type: ignore[arg-type]
    for side in range(100):
        decoder.prepare(side, side)
    assert sum(each() is not None for each in made) == gate._CACHED


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(64, 64), (40, 100), (300, 200), (48, 48)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_float_transform_is_within_a_grey_level_of_the_bytes(
    mode: str, size: tuple[int, int], interpolation: str
) -> None:
    import torch

    from models.scorers.float_transform import FloatTransform
    from models.scorers.image_transforms import ImageTransform

    config = {"size": 48, "mean": [0.5] * 3, "std": [0.5] * 3, "fill_color": 0}
    transform = ImageTransform(config | {"resize_mode": mode, "interpolation": interpolation}, torch.device("cpu"))
    drawn = np.random.default_rng(0).integers(0, 256, (2, 3, *size), dtype=np.uint8)
    images = torch.from_numpy(drawn)
    smooth = FloatTransform(transform).resize(images.float()).round()
    assert float((smooth - transform.resize(images).float()).abs().max()) <= 1
