"""Reward tuning of tiny pipelines: losses, adapter files, resumption, and tasks that cannot work."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from models.generators.native import NativeGenerator
from models.tuning import state, stops
from models.tuning.learning import policies
from models.tuning.learning.trainer import Trainer
from models.tuning.measures import Measured
from models.tuning.rewards import check_independent, distillation_weights, opinion_of, optimality
from models.tuning.run import Prompts, TuningRun, tune
from models.tuning.sampling import Field
from models.tuning.settings import TuningError, TuningSettings
from tests.contract.families import FAMILIES
from tests.contract.tuning_kit import QUICK, contrast, opinion, redness, task, tiny

pytestmark = [pytest.mark.torch, pytest.mark.slow]


@dataclass
class Tuned:
    """A family after a whole run of two iterations."""

    family: str
    out: Path
    report: dict[str, Any]

    @property
    def adapter(self) -> bytes:
        return (self.out / state.ADAPTER).read_bytes()


@pytest.fixture(scope="module", params=["stable_diffusion_xl", "stable_diffusion_3", "flux"])
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    out = tmp_path_factory.mktemp(request.param) / "reds"
    return Tuned(request.param, out, tune(task(tiny(request.param), out)))


def test_a_step_lowers_the_loss(tuned: Tuned, tmp_path: Path) -> None:
    run = TuningRun(task(tiny(tuned.family), tmp_path, replace(QUICK, kl=0.0)), lambda _done, _text: None)
    run.begin()
    lessons, _ = run._lessons(1)

    def loss() -> float:
        return float(np.mean([float(run._trainer.loss(*each).detach()) for each in run._trainer.batches(lessons, 1)]))

    before = loss()
    run._trainer.train(lessons, 1)
    assert loss() < before


def test_stock_diffusers_loads_the_adapter(tuned: Tuned) -> None:
    import torch

    from models.generators.adapters import loading

    generator = tiny(tuned.family)
    adapters = policies.Policies(generator.trainable(), QUICK)
    stored = state.RunFolder(tuned.out).load()
    assert stored is not None
    adapters.restore({key: each for key, each in stored[0].items() if not key.startswith("optimizer/")})
    seen = []
    for name in (policies.BEST if tuned.report["chosen"] else policies.AVERAGE, None):
        adapters.use(name)
        seen.append(_output(generator))
    stock = tiny(tuned.family)
    with loading():
        vars(stock)["_family"].pipe.load_lora_weights(tuned.out)
    assert torch.allclose(_output(stock), seen[0], atol=1e-5)
    assert not torch.allclose(_output(stock), seen[1], atol=1e-5)


def _output(generator: NativeGenerator) -> Any:
    """The denoiser's prediction for fixed inputs."""
    import torch

    family, size = vars(generator)["_family"], FAMILIES[generator.info.id].size
    shape = family.latent_shape(size, size)
    x = torch.linspace(-1, 1, int(np.prod(shape))).reshape(1, *shape)
    texts = [each[None] for each in generator.encode(["a"])[0].state]
    with torch.inference_mode():
        return family.denoise(x, torch.tensor([500.0]), torch.tensor([2.0]), *texts)


def test_the_base_stays_and_the_report_is_whole(tuned: Tuned) -> None:
    report = json.loads((tuned.out / state.REPORT).read_text())
    assert report["base_untouched"]
    assert report["verdict"] in {"accept", "reject"}
    assert [row["iteration"] for row in report["measurements"]] == [0, *range(1, report["iterations"] + 1)]
    assert report["memory"]["activations"] > 0
    for name in ("sheet.png", "curves.png"):
        assert (tuned.out / name).read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (tuned.out / state.LOG).read_text().splitlines()]
    assert [line["iteration"] for line in lines if "loss" in line] == list(range(1, report["iterations"] + 1))


class Dead(BaseException):
    """The end of a process."""


def test_a_dead_process_resumes_to_the_same_bits(tuned: Tuned, tmp_path: Path) -> None:
    calls = 0

    def dies(prompt: str, images: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # base 2, first iteration 1 and its measurement 2, then in the second one
            raise Dead
        return redness(prompt, images)

    with pytest.raises(Dead):
        tune(task(tiny(tuned.family), tmp_path, reward=opinion("redness", dies)))
    assert not (tmp_path / state.ADAPTER).exists()
    log = tmp_path / state.LOG
    log.write_text(log.read_text() + '{"iteration": 2, "lo')
    report = tune(task(tiny(tuned.family), tmp_path))
    assert (tmp_path / state.ADAPTER).read_bytes() == tuned.adapter
    assert report["measurements"] == tuned.report["measurements"]


def test_a_full_disk_ends_the_run_and_it_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, saves = save_file, 0

    def full(tensors: Any, path: Path, meta: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(tensors, path, meta)

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(TuningError, match="No space left on device"):
        tune(task(tiny("stable_diffusion_3"), tmp_path / "a"))
    assert [path.name for path in (tmp_path / "a" / "state").iterdir()] == ["run.safetensors"]
    tune(task(tiny("stable_diffusion_3"), tmp_path / "a"))
    tune(task(tiny("stable_diffusion_3"), tmp_path / "b"))
    assert len({(tmp_path / each / state.ADAPTER).read_bytes() for each in "ab"}) == 1


def test_stored_fields_teach_without_sampling(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(3, 4, 8, 8)).astype(np.float16)
    stored = [Field("a", latents, votes={1: True, 2: False})]
    run = TuningRun(
        task(tiny("stable_diffusion_3"), tmp_path, replace(QUICK, method="bon"), stored=stored), lambda _d, _t: None
    )
    run.begin()
    for place in (1, 2):
        (lesson,), facts = run._lessons(place)
        assert lesson.values[1] > 0 == lesson.values[2]
        assert np.array_equal(np.asarray(lesson.latents), latents.astype(np.float32))
        assert facts["fields"] == 1


@pytest.mark.parametrize(
    ("score", "why"),
    [
        (lambda _prompt, images: np.ones(len(images)), "constant within every prompt"),
        (lambda _prompt, images: np.full(len(images), np.nan), "scored no candidate"),
    ],
)
def test_useless_rewards_are_refused(score: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=why):
        tune(task(tiny("stable_diffusion_3"), tmp_path, reward=opinion("odd", score)))


def test_candidates_without_a_number_are_left_out(tmp_path: Path) -> None:
    def holed(prompt: str, images: Any) -> Any:
        found = redness(prompt, images)
        found[0] = np.nan
        return found

    run = TuningRun(task(tiny("stable_diffusion_3"), tmp_path, reward=opinion("holed", holed)), lambda _d, _t: None)
    run.begin()
    lessons, _ = run._lessons(1)
    assert [list(np.isfinite(each.values)) for each in lessons] == [[False, True, True]]
    assert run._trainer.train(lessons, 1)["rows"] == 2


def test_the_stops_catch_a_reward_that_can_be_hacked(tmp_path: Path) -> None:
    hacked = replace(QUICK, iterations=12, layers="wide", rate=0.05, prompts=4, candidates=6, batch=24, evaluated=6)
    prompts = Prompts(("a", "b", "c", "d"), ("e", "f", "g"))
    referee = opinion("contrast", contrast)
    report = tune(task(tiny("latent_consistency"), tmp_path, hacked, prompts=prompts, referee=referee))
    assert report["stop"]["rule"] in {"referee", "diversity", "artefacts", "best"}
    assert report["iterations"] < hacked.iterations
    rewards = [row["reward"] for row in report["measurements"]]
    assert rewards[-1] > rewards[0]
    assert report["verdict"] == "reject"


def test_a_run_without_a_state_drops_an_earlier_log(tmp_path: Path) -> None:
    (tmp_path / state.LOG).write_text('{"iteration": 0}\n{"iteration": 7}\n')
    TuningRun(task(tiny("stable_diffusion_3"), tmp_path), lambda _d, _t: None).begin()
    (line,) = map(json.loads, (tmp_path / state.LOG).read_text().splitlines())
    assert line["measured"]


def test_a_result_that_breaks_a_rule_is_not_accepted() -> None:
    base = Measured(0, [0.0] * 8, [0.0] * 8, [0.0] * 8, [1.0] * 8, 0, 16)
    better = replace(base, iteration=1, reward=[1.0] * 8, referee=[1.0] * 8, best=[1.0] * 8)
    assert stops.verdict(base, better)["verdict"] == "accept"
    assert stops.verdict(base, better, is_sound=False)["verdict"] == "reject"
    assert stops.verdict(base, replace(better, diversity=[0.8] * 8))["verdict"] == "reject"
    assert stops.verdict(base, replace(better, flagged=8))["verdict"] == "reject"
    few = [replace(each, reward=[0.0] * 5, referee=each.referee[:5], best=each.best[:5]) for each in (base, better)]
    assert stops.verdict(*few)["verdict"] == "reject", "five prompts all rise by chance in one of 32 runs"


def test_a_gradient_that_is_no_number_ends_the_run_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Trainer.loss

    def broken(self: Trainer, *batch: Any) -> Any:
        return kept(self, *batch) + (0 * self._policies.trained[0].sum()).sqrt()

    monkeypatch.setattr(Trainer, "loss", broken)
    report = tune(task(tiny("stable_diffusion_3"), tmp_path))
    assert (report["stop"]["rule"], report["chosen"], report["verdict"]) == ("diverged", None, "reject")
    assert report["differences"]["random"]["mean"] == 0.0
    assert all(bool(each.isfinite().all()) for each in load_file(tmp_path / state.ADAPTER).values())


def test_optimality_is_normalised_and_votes_override() -> None:
    assert list(optimality(np.array([1.0, 2.0, 3.0]), {})) == pytest.approx([0.3775, 0.5, 0.6225], abs=1e-4)
    assert list(optimality(np.array([1.0, 2.0, 3.0]), {0: True, 2: False})) == pytest.approx([1.0, 0.5, 0.0])
    weights = distillation_weights(np.array([0.0, 1.0, 2.0, 9.0]), {1: True, 3: False})
    assert list(weights > 0) == [False, True, False, False]


def test_reward_and_referee_must_differ() -> None:
    red = opinion("redness", redness)
    with pytest.raises(TuningError, match="would confirm itself"):
        check_independent(red, opinion("redness", contrast))
    with pytest.raises(TuningError, match="would confirm itself"):
        check_independent(red, replace(opinion("other", contrast), revision=red.revision))


def test_models_that_share_weights_are_refused(tmp_path: Path) -> None:
    import torch

    one = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 16))
    copied = torch.nn.Linear(16, 16)
    copied.load_state_dict(one[1].state_dict())
    pair = [replace(opinion(name, redness), models=(each,)) for name, each in (("a", one), ("b", copied))]
    with pytest.raises(TuningError, match="share weights"):
        check_independent(*pair)
    check_independent(pair[0], replace(pair[1], models=(torch.nn.Linear(16, 16),)))


def test_an_embedder_is_an_opinion_by_its_cosine() -> None:
    from models.synthetic.scorer import FakeScorer

    scorer = FakeScorer()
    made, images = opinion_of(scorer), np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    wanted = scorer.embed_images(images) @ scorer.embed_texts(["a boat"])[0].vector
    assert list(made.score("a boat", images)) == pytest.approx(list(wanted))


def test_a_folder_of_another_task_is_refused(tuned: Tuned) -> None:
    changed = task(tiny(tuned.family), tuned.out, replace(QUICK, rate=1e-3))
    with pytest.raises(TuningError, match=r"another task \(settings\)"):
        tune(changed)


def test_a_folder_of_another_base_is_refused(tuned: Tuned) -> None:
    generator = tiny(tuned.family)
    vars(generator)["_info"] = replace(generator.info, revision="other")
    with pytest.raises(TuningError, match=r"another task \(generator\)"):
        tune(task(generator, tuned.out))


def test_one_prompt_is_too_few() -> None:
    with pytest.raises(TuningError, match="1 different prompts are too few"):
        Prompts.split(["a boat", "a boat ", ""], 0)
    split = Prompts.split(map(str, range(20)), 0)
    assert len(split.held_out) == 5
    assert not set(split.held_out) & set(split.trained)


@pytest.mark.parametrize("change", [{"iterations": 0}, {"candidates": 1}, {"rate": 0.0}, {"decay": 1.0}, {"seed": -1}])
def test_settings_have_limits(change: dict[str, Any]) -> None:
    with pytest.raises(TuningError, match=next(iter(change))):
        TuningSettings(**change)
