"""The engine on the fakes: what it computes, what it counts, who shares a call, how generations end."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain import Checkpoint, GenerationSpec, Negative, Ranking
from app.engine.config import EngineConfig
from app.engine.core import EngineCore, TooManyFailures
from app.engine.protocols import Cancelled, Failed, Finished, Pruned, Started, Stepped, Succeeded
from app.errors import EngineFailed, OutOfDeviceMemory
from models.protocols import Calibration, Latent, Models, OutOfMemory, Schedule, StepRow
from models.synthetic.generator import FakeGenerator, FakeLatent
from models.synthetic.scorer import FakeScorer
from tests.unit.engine_kit import Bench, BlindScorer, alone, spec


def test_a_generation_runs_from_start_to_result() -> None:
    bench = Bench()
    bench.submit(spec(n_candidates=5, n=2))
    bench.run()
    outcome = bench.outcome()
    assert [c.index for c in outcome.candidates] == list(range(5))
    assert [c.seed for c in outcome.candidates] == [7, 8, 9, 10, 11]
    assert sorted(outcome.images) == sorted(c.index for c in outcome.candidates if c.rank)
    best = max(outcome.candidates, key=lambda c: c.score.score if c.score else -9)
    assert best.rank == 1
    assert outcome.embeddings.shape == (5, 13)
    assert outcome.latents.shape == (5, 3, 8, 8)
    assert (outcome.work.rows_stepped, outcome.work.rows_unpruned, outcome.work.decodes) == (30, 30, 5)
    kinds = [type(u) for u in bench.updates["gen_a"]]
    assert kinds[0] is Started
    assert kinds[-1] is Succeeded
    assert [u.step for u in bench.updates["gen_a"] if isinstance(u, Stepped)] == [1, 2, 3, 4, 5, 6]
    assert sum(isinstance(u, Finished) for u in bench.updates["gen_a"]) == 5


def test_candidate_i_made_alone_is_candidate_i_of_the_batch() -> None:
    many = alone(spec(n_candidates=8, n=8))
    for i in (0, 3, 7):
        one = alone(spec(n_candidates=1, seed=7 + i))
        np.testing.assert_array_equal(one.images[0], many.images[i])
        assert one.candidates[0].score == many.candidates[i].score


@pytest.mark.parametrize(
    ("seed", "following"), [(2**32 - 1, 0), (2**32, 2**32 + 1), (2**53, 2**53 + 1), (2**64 - 1, 0)]
)
def test_seeds_wrap_round(seed: int, following: int) -> None:
    many = alone(spec(seed=seed, n_candidates=2, n=2))
    assert [c.seed for c in many.candidates] == [seed, following]
    one = alone(spec(seed=following, n_candidates=1))
    np.testing.assert_array_equal(one.images[0], many.images[1])


def test_negatives_steer_the_sampling_and_lower_the_score() -> None:
    plain = alone(spec(n_candidates=6, guidance_scale=1.0))
    steered = alone(spec(n_candidates=6, negative_prompt="green"))
    assert not np.array_equal(plain.latents, steered.latents)
    ranked = alone(spec(n_candidates=6, guidance_scale=1.0, ranking=Ranking(1.0, (Negative("red", 2.0),))))
    np.testing.assert_array_equal(plain.latents, ranked.latents)
    for before, after in zip(plain.candidates, ranked.candidates, strict=True):
        assert before.score is not None
        assert after.score is not None
        assert after.score.similarity == before.score.similarity
        assert after.score.score == pytest.approx(before.score.score - max(0.0, after.score.negatives[0]), abs=1e-6)


def test_mixed_generations_share_calls_and_get_what_they_get_alone() -> None:
    specs = [
        spec("a", n_candidates=5, steps=4),
        spec("b", n_candidates=1, steps=9, sampler="euler", prompt="a blue boat", seed=3),
        spec("c", n_candidates=3, steps=6, sampler="dpmpp_2m", guidance_scale=1.0, seed=11),
        spec("d", n_candidates=2, steps=3, sampler="euler_ancestral", seed=5),
    ]
    bench = Bench()
    bench.submit(*specs)
    bench.run()
    calls_alone = 0
    for one in specs:
        single = Bench()
        single.submit(one)
        single.run()
        calls_alone += len(single.generator.calls)
        np.testing.assert_array_equal(bench.outcome(one.id).latents, single.outcome(one.id).latents)
        assert bench.outcome(one.id).candidates == single.outcome(one.id).candidates
    assert len(bench.generator.calls) < calls_alone
    assert sum(bench.generator.calls) == sum(s.n_candidates * s.steps for s in specs)


def test_pruning_keeps_the_best_previews_and_saves_steps() -> None:
    bench = Bench()
    bench.submit(spec(n_candidates=8, steps=10, n=1, checkpoints=(Checkpoint(3, 4), Checkpoint(6, 2))))
    bench.run()
    outcome = bench.outcome()
    assert outcome.work.rows_stepped == 8 * 3 + 4 * 3 + 2 * 4
    assert outcome.work.previews == 12
    assert outcome.work.decodes == 2
    assert [(len(u.indices), u.step) for u in bench.updates["gen_a"] if isinstance(u, Pruned)] == [(4, 3), (2, 6)]
    pruned = [c for c in outcome.candidates if c.pruned_at_step]
    assert len(pruned) == 6
    assert all(c.score_is_preview and c.score and c.rank is None and c.softmax is None for c in pruned)
    whole = alone(spec(n_candidates=8, steps=10))
    for survivor in (c for c in outcome.candidates if not c.pruned_at_step):
        assert survivor.score == whole.candidates[survivor.index].score


def test_a_look_prunes_nothing() -> None:
    looked = alone(spec(checkpoints=(Checkpoint(2), Checkpoint(4))))
    assert looked.work.previews == 8
    assert [c.score for c in looked.candidates] == [c.score for c in alone(spec()).candidates]


def test_diversity_returns_the_very_pictures_that_were_scored() -> None:
    outcome = alone(spec(n_candidates=12, n=3, ranking=Ranking(diversity=0.9)))
    whole = alone(spec(n_candidates=12, n=12))
    assert len(outcome.images) == 3
    for candidate in (c for c in outcome.candidates if c.rank):
        np.testing.assert_array_equal(outcome.images[candidate.index], whole.images[candidate.index])
    assert outcome.work.decodes == 12


def test_min_score_may_leave_nothing_to_return() -> None:
    outcome = alone(spec(ranking=Ranking(min_score=1.0)))
    assert all(c.rank is None for c in outcome.candidates)


def test_cancel_frees_rows_at_the_next_tick() -> None:
    bench = Bench()
    bench.submit(spec("a", n_candidates=8), spec("b", n_candidates=2))
    for _ in range(4):
        bench.tick()
    stepped = bench.core.rows_stepped
    bench.core.cancel("a")
    bench.tick()
    assert isinstance(bench.updates["a"][-1], Cancelled)
    assert bench.core.live == 2
    bench.run()
    assert isinstance(bench.updates["b"][-1], Succeeded)
    assert bench.core.rows_stepped - stepped <= 2 * 6
    bench.core.cancel("a")
    assert bench.core.idle


def test_a_failing_tick_fails_only_the_generations_in_it() -> None:
    bench = Bench(EngineConfig(buckets=(4,)), fail_on_call=0)
    bench.submit(spec("a", n_candidates=4), spec("b", n_candidates=4, width=32))
    bench.run()
    ends = {name: bench.ends(name) for name in "ab"}
    failed = [e for es in ends.values() for e in es if isinstance(e, Failed)]
    assert len(failed) == 1
    assert isinstance(failed[0].error, EngineFailed)
    assert "RuntimeError" in failed[0].error.detail
    assert sum(isinstance(e, Succeeded) for es in ends.values() for e in es) == 1


def test_out_of_memory_halves_the_bucket_and_the_generation_still_ends() -> None:
    bench = Bench(max_rows=3)
    bench.submit(spec(n_candidates=9))
    bench.run()
    assert max(bench.generator.sizes) <= 3
    np.testing.assert_array_equal(bench.outcome().latents, alone(spec(n_candidates=9)).latents)


@pytest.mark.parametrize("deterministic", [False, True])
def test_out_of_memory_at_the_smallest_batch_is_a_typed_failure(deterministic: bool) -> None:
    bench = Bench(EngineConfig(max_failing_ticks=9), max_rows=0)
    bench.submit(spec(deterministic=deterministic))
    bench.run()
    (end,) = bench.ends("gen_a")
    assert isinstance(end, Failed)
    assert isinstance(end.error, OutOfDeviceMemory)


def test_a_decode_that_did_not_fit_once_leaves_the_engine_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()

    def full(*_: object, **__: object) -> None:
        raise OutOfMemory("full")

    with monkeypatch.context() as short:
        short.setattr(bench.generator, "decode", full)
        bench.submit(spec("a", n_candidates=1))
        bench.run()
    bench.submit(spec("b", n_candidates=3), spec("innocent", n_candidates=1, width=32))
    bench.run()
    (end,) = bench.ends("a")
    assert isinstance(end, Failed)
    assert isinstance(end.error, OutOfDeviceMemory)
    assert len(bench.outcome("b").images) == 1
    assert len(bench.outcome("innocent").images) == 1


def test_failures_in_a_row_kill_the_engine() -> None:
    class Broken(FakeGenerator):
        def step(self, rows: Sequence[StepRow], size: int) -> list[Latent]:
            raise RuntimeError("device-side assert")

    core = EngineCore(Models(Broken(), FakeScorer()), EngineConfig(max_failing_ticks=2))
    core.submit(spec("a"), 0.0)
    core.submit(spec("b", width=32), 0.0)
    for _ in range(3):
        core.tick()
    with pytest.raises(TooManyFailures):
        core.tick()


@pytest.mark.parametrize("blind", [1, 4])
def test_a_score_that_is_not_a_number_is_never_first(blind: int) -> None:
    core = EngineCore(Models(FakeGenerator(), BlindScorer(blind)), EngineConfig())
    core.submit(spec(n=4), 0.0)
    updates = []
    while not core.idle:
        updates += [u for _, u in core.tick()]
    last = updates[-1]
    if blind == 4:
        assert isinstance(last, Failed)
        return
    assert isinstance(last, Succeeded)
    first = last.outcome.candidates[0]
    assert first.score is None
    assert first.rank is None
    assert [n.code for n in last.outcome.notices] == ["score_not_a_number"]
    assert sorted(c.rank for c in last.outcome.candidates if c.rank) == [1, 2, 3]


def test_deterministic_generations_always_run_in_the_same_batch_size() -> None:
    bench = Bench(EngineConfig(deterministic_rows=4))
    bench.submit(spec("a", n_candidates=6, deterministic=True), spec("b", n_candidates=3, deterministic=True, seed=90))
    bench.submit(spec("c", n_candidates=7))
    bench.run()
    lone = Bench()
    lone.submit(spec("a", n_candidates=6, deterministic=True))
    lone.run()
    assert set(lone.generator.sizes) == {4}
    np.testing.assert_array_equal(bench.outcome("a").latents, lone.outcome("a").latents)


def test_truncated_texts_are_told_for_generator_and_scorer() -> None:
    long = " ".join(["red"] * 40)
    outcome = alone(spec(prompt=long, negative_prompt=long.replace("red", "blue")))
    assert [n.code for n in outcome.notices] == ["prompt_truncated"] * 4
    assert [n.data["model"] for n in outcome.notices] == ["generator", "generator", "scorer", "scorer"]
    assert all(n.data["dropped"] and n.data["limit"] < n.data["tokens"] for n in outcome.notices)


def test_a_one_off_call_is_made_between_ticks() -> None:
    bench = Bench()
    bench.submit(spec())
    seen: list[int] = []
    bench.core.add_call(lambda generator, scorer: seen.append(len(scorer.embed_texts(["red"]))))
    bench.tick()
    assert seen == [1]
    assert not bench.generator.calls


def test_one_off_calls_and_generations_take_turns() -> None:
    bench = Bench()
    bench.submit(spec(steps=4))
    made: list[int] = []
    for i in range(20):
        bench.core.add_call(lambda generator, scorer, i=i: made.append(i))  # type: ignore[misc]
    while not bench.ends("gen_a"):
        bench.tick()
    assert 0 < len(made) < 20
    bench.run()
    assert made == list(range(20))


def test_a_wave_that_the_device_cannot_hold_fails_its_generation_only() -> None:
    class Full(FakeGenerator):
        def noise(self, seed: int, width: int, height: int, schedule: Schedule) -> FakeLatent:
            if seed >= 8:
                raise OutOfMemory("no room")
            return super().noise(seed, width, height, schedule)

    core = EngineCore(Models(Full(), FakeScorer()), EngineConfig())
    core.submit(spec("a", n_candidates=64, wave=8, seed=0), 0.0)
    core.submit(spec("b", n_candidates=2, seed=1), 0.0)
    ends = {}
    while not core.idle:
        ends.update({name: u for name, u in core.tick() if isinstance(u, Succeeded | Failed)})
    assert isinstance(ends["a"], Failed)
    assert isinstance(ends["b"], Succeeded)


SPECS = st.builds(
    lambda n, extra, steps, guided, sampler, seed, width, deterministic, cuts, owner: spec(
        n_candidates=n + extra,
        n=n,
        steps=steps,
        guidance_scale=3.0 if guided else 1.0,
        sampler=sampler,
        seed=seed,
        width=width,
        deterministic=deterministic,
        owner=owner,
        checkpoints=tuple(
            Checkpoint(at, max(n, (n + extra) // (2 + i))) for i, at in enumerate(sorted(cuts)) if at < steps
        ),
    ),
    n=st.integers(1, 4),
    extra=st.integers(0, 20),
    steps=st.integers(1, 7),
    guided=st.booleans(),
    sampler=st.sampled_from(["euler", "ddim", "ddim_quadratic", "dpmpp_2m", "euler_ancestral"]),
    seed=st.integers(0, 2**64 - 1),
    width=st.sampled_from([32, 64]),
    deterministic=st.booleans(),
    cuts=st.sets(st.integers(1, 6), max_size=2),
    owner=st.sampled_from(["", "x", "y"]),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(SPECS, min_size=1, max_size=5), st.lists(st.integers(0, 60), max_size=5), st.integers(1, 40))
def test_no_row_is_lost_or_doubled_and_every_generation_ends(
    drawn: list[GenerationSpec], arrivals: list[int], live_rows: int
) -> None:
    bench = Bench(EngineConfig(live_rows=live_rows, buckets=(1, 4, 8)))
    specs = [spec(f"g{i}", **_fields(s)) for i, s in enumerate(drawn)]
    due = dict(enumerate(arrivals))
    for tick in range(10_000):
        for i, one in enumerate(specs):
            if due.get(i, 0) == tick:
                bench.submit(one)
        if bench.core.idle and tick > 60:
            break
        bench.tick()
    expected = 0
    for one in specs:
        assert len(bench.ends(one.id)) == 1
        outcome = bench.outcome(one.id)
        assert len(outcome.candidates) == one.n_candidates
        assert sum(c.rank is not None for c in outcome.candidates) == one.n
        assert outcome.work.rows_stepped <= outcome.work.rows_unpruned
        assert outcome.candidates == alone(one).candidates
        expected += outcome.work.rows_stepped
    assert sum(bench.generator.calls) == bench.core.rows_stepped == expected
    assert bench.core.live == 0


def _fields(one: GenerationSpec) -> dict[str, object]:
    names = [n for n in one.__slots__ if n != "id"]
    return {n: getattr(one, n) for n in names}


@pytest.mark.parametrize("own", [True, False])
def test_a_calibration_of_these_weights_decides_who_goes_on(own: bool) -> None:
    steps, weights = 6, "1" if own else "2"
    half, turned, nothing = ((value,) * steps for value in (0.5, -1.0, 0.0))
    known = Calibration(weights, "1", "ddim", steps, 3.0, half, half, turned, nothing)
    cut = spec(n_candidates=6, n=1, checkpoints=(Checkpoint(3, 2),))
    core = EngineCore(Models(FakeGenerator(), FakeScorer(), known), EngineConfig())
    core.submit(cut, 0.0)
    last = None
    while not core.idle:
        last = core.tick()[-1:] or last
    assert last is not None
    assert isinstance(last[0][1], Succeeded)
    kept = {c.index for c in last[0][1].outcome.candidates if not c.pruned_at_step}
    plain = {c.index for c in alone(cut).candidates if not c.pruned_at_step}
    assert not kept & plain if own else kept == plain, "a weight of -1 turns the order round"
