"""Reward tuning of tiny pipelines: losses, adapter files, resumption, and tasks that cannot work."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from models.generators.native import NativeGenerator
from models.protocols import StepRow
from models.tuning import state
from models.tuning.learning import policies
from models.tuning.learning.losses import NoisyRows
from models.tuning.learning.trainer import Lesson, Trainer
from models.tuning.run import TuningRun, tune
from models.tuning.sampling import StoredField
from models.tuning.settings import TuningError
from models.tuning.task import Prompts
from tests.contract.families import FAMILIES
from tests.contract.tuning_kit import QUICK, contrast, opinion, red_share, redness, task, tiny

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
    assert report["prompts"] == {"trained": ["a", "b"], "selection": ["c", "d"], "verdict": ["e", "f"]}
    assert report["differences"]["random"]["prompts"] == 2
    lines = [json.loads(line) for line in (tuned.out / state.LOG).read_text().splitlines()]
    assert [line["iteration"] for line in lines if "loss" in line] == list(range(1, report["iterations"] + 1))


def test_the_result_is_chosen_without_the_prompts_of_the_verdict(tmp_path: Path) -> None:
    asked = list[str]()

    def watched(prompt: str, images: Any) -> Any:
        asked.append(prompt)
        return red_share(prompt, images)

    run = TuningRun(task(tiny("stable_diffusion_3"), tmp_path, referee=opinion("red share", watched)), lambda *_: None)
    run.begin()
    while run.stop is None:
        run.advance()
    assert set(asked) == {"c", "d"}
    asked.clear()
    run.finish()
    assert set(asked) == {"e", "f"}


def test_a_finished_run_returns_its_report(tuned: Tuned) -> None:
    def unused(prompt: str, images: Any) -> Any:
        raise AssertionError("nothing is left to score")

    def again() -> Any:
        return tune(task(tiny(tuned.family), tuned.out, reward=opinion("redness", unused)))

    assert again() == json.loads((tuned.out / state.REPORT).read_text())
    (tuned.out / state.REPORT).write_text(json.dumps({**tuned.report, "options": {}}))
    with pytest.raises(AssertionError, match="nothing is left"):
        again()
    (tuned.out / state.REPORT).write_text(json.dumps(tuned.report))


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


def test_the_adapter_is_as_readable_as_any_new_file(tuned: Tuned) -> None:
    assert (tuned.out / state.ADAPTER).stat().st_mode == (tuned.out / state.REPORT).stat().st_mode


def test_stored_fields_teach_without_sampling(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(3, 4, 8, 8)).astype(np.float16)
    stored = [StoredField("gen_a:0,1,2", "a", lambda: latents, 1.0, votes={1: True, 2: False})]
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
        (lambda _prompt, images: np.ones(len(images)), "constant within each of the 1 prompts"),
        (lambda _prompt, images: np.full(len(images), np.nan), "scored no candidate"),
    ],
)
def test_useless_rewards_are_refused(score: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(TuningError, match=why):
        tune(task(tiny("stable_diffusion_3"), tmp_path, reward=opinion("odd", score)))


def test_a_dislike_alone_teaches_distillation_nothing(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float16)
    stored = [StoredField("gen_a:0,1", "a", lambda: latents, 1.0, votes={1: False})]
    flat = opinion("flat", lambda _prompt, images: np.ones(len(images)))
    with pytest.raises(TuningError, match="constant within each"):
        tune(task(tiny("stable_diffusion_3"), tmp_path, replace(QUICK, method="bon"), stored=stored, reward=flat))


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
    prompts = Prompts(("a", "b", "c", "d"), ("e", "f", "g"), ("h", "i"))
    referee = opinion("contrast", contrast)
    report = tune(task(tiny("latent_consistency"), tmp_path, hacked, prompts=prompts, referee=referee))
    assert report["stop"]["rule"] in {"referee", "diversity", "artefacts", "best"}
    assert report["iterations"] < hacked.iterations
    rewards = [row["reward"] for row in report["measurements"]]
    assert rewards[-1] > rewards[0]
    assert report["verdict"] == "reject"


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

    def unused(prompt: str, images: Any) -> Any:
        raise AssertionError("nothing is left to score")

    assert tune(task(tiny("stable_diffusion_3"), tmp_path, reward=opinion("redness", unused))) == report


@pytest.mark.parametrize(("family", "guidance"), [("stable_diffusion_xl", 3.0), ("flux", 3.0)])
def test_training_predicts_what_sampling_predicts(family: str, guidance: float, tmp_path: Path) -> None:
    """A candidate that is what guided sampling estimates teaches nothing: guidance is not applied twice."""
    import torch

    settings = replace(QUICK, method="bon", guidance=guidance, kl=0.0)
    generator = tiny(family)
    run = TuningRun(task(generator, tmp_path, settings), lambda *_: None)
    sampling, trainer, sampler = (vars(run)[name] for name in ("_sampler", "_trainer", "_sampler"))
    schedule = sampling.sampling.schedule
    text, negative = sampler.texts("a", guidance)
    assert (negative is not None) == (family == "stable_diffusion_xl")
    noise = generator.noise(1, FAMILIES[family].size, FAMILIES[family].size, schedule)
    (made,) = generator.step([StepRow(noise, text, negative, guidance, schedule, 0, 1)], 1)
    t, c_in, _, _, c, d = (torch.tensor([value], dtype=torch.float32) for value in schedule.table[0][:6])
    columns = [each[:, None, None, None] for each in (c, d)]
    rows = NoisyRows(noise.x[None], made.x0[None], columns[0], columns[1], torch.ones(1))
    lesson = Lesson(text, made.x0[None], np.ones(1), guidance, negative)
    unguided = replace(lesson, guidance=1.0, negative=None)
    losses = [float(trainer.loss(rows, [each], t, c_in).detach()) for each in (lesson, unguided)]
    assert losses[0] < 1e-4 < 1e-3 < losses[1]


def test_stored_fields_teach_at_their_own_guidance(tmp_path: Path) -> None:
    latents = np.random.default_rng(0).normal(size=(2, 4, 8, 8)).astype(np.float16)
    stored = [
        StoredField("gen_a:0,1", "a", lambda: latents, 2.5, "blurred", {0: True}),
        StoredField("gen_b:0,1", "b", lambda: None, 2.5),
    ]
    settings = replace(QUICK, prompts=2)
    run = TuningRun(task(tiny("stable_diffusion_xl"), tmp_path, settings, stored=stored), lambda *_: None)
    run.begin()
    (lesson,), facts = run._lessons(1)
    assert (lesson.guidance, facts["gone"]) == (2.5, 1)
    wanted = tiny("stable_diffusion_xl").encode(["blurred"], negative=True)[0]
    assert lesson.negative is not None
    assert all(bool((one == other).all()) for one, other in zip(lesson.negative.state, wanted.state, strict=True))
    stored.pop(0)
    with pytest.raises(TuningError, match="are gone or damaged"):
        run._lessons(1)


def test_what_was_not_measured_is_null_in_the_report(tmp_path: Path) -> None:
    def silent(prompt: str, images: Any) -> Any:
        found = redness(prompt, images)
        return np.full(len(found), np.nan) if prompt in "cef" else found

    others = {"silent": opinion("silent", silent)}
    tune(task(tiny("stable_diffusion_3"), tmp_path, replace(QUICK, iterations=1), others=others))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    report = json.loads((tmp_path / state.REPORT).read_text(), parse_constant=refuse)
    for line in (tmp_path / state.LOG).read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    assert report["differences"]["silent"] == {"mean": None, "interval": None, "prompts": 0}
    assert report["final"]["base"]["silent"] is None
    assert report["final"]["base"]["unmeasured"] == {"silent": 2, "silent_best": 2}
    assert report["measurements"][0]["silent"] is not None
    assert report["measurements"][0]["unmeasured"] == {"silent": 1, "silent_best": 1}


def test_a_folder_of_another_task_is_refused(tuned: Tuned) -> None:
    changed = task(tiny(tuned.family), tuned.out, replace(QUICK, rate=1e-3))
    with pytest.raises(TuningError, match=r"another task \(settings: rate\)"):
        tune(changed)


def test_a_folder_of_another_base_is_refused(tuned: Tuned) -> None:
    generator = tiny(tuned.family)
    vars(generator)["_info"] = replace(generator.info, revision="other")
    with pytest.raises(TuningError, match=r"another task \(generator\)"):
        tune(task(generator, tuned.out))
