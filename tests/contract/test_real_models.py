"""The device bench at tiny size, the sizes of the true configurations, and the gate's figures at tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]

# Parameters of the denoisers; SD3.5-medium has 0.23 more in a fixed table of positions.
BILLIONS = {
    "sdxl": (2.57, 0.02),
    "sd3.5-medium": (2.24, 0.02),
    "flux.1-schnell": (11.9, 0.1),
    "z-image-turbo": (6.15, 0.2),
}


@pytest.mark.parametrize("name", BILLIONS)
def test_the_true_configurations_have_the_published_sizes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memory: on torch's meta device."""
    import torch

    from tests.bench import device, real_models

    def empty(kind: Any, config: Any, where: Any, dtype: Any) -> Any:
        with torch.device("meta"):
            return (kind(**config) if isinstance(config, dict) else kind(config)).to(dtype)

    monkeypatch.setattr(real_models, "_random", empty)
    pipe = real_models.MODELS[name].build(torch.device("meta"), torch.bfloat16, False)
    wanted, near = BILLIONS[name]
    found = sum(each.numel() for each in device.denoiser(pipe).parameters()) / 1e9
    assert found == pytest.approx(wanted, abs=near)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.soak) for name in BILLIONS])
def test_the_device_bench_runs_at_tiny_size(name: str) -> None:
    from tests.bench import device
    from tests.bench.real_models import MODELS

    found = device.measure(name, MODELS[name], "cpu", tiny=True)
    steps = MODELS[name].steps
    assert (found["unpruned"]["rows_stepped"], found["unpruned"]["decodes"]) == (16 * steps, 16)
    at = max(1, steps // 2)
    assert (found["pruned"]["rows_stepped"], found["pruned"]["decodes"]) == (16 * at + 4 * (steps - at), 4)
    for kind in ("unpruned", "pruned"):
        assert found[kind]["of_script"] == pytest.approx(found[kind]["seconds"] / found["script"]["seconds"], abs=1e-3)
        assert found[kind]["memory_gib"] > 0


@pytest.mark.soak
def test_the_gates_figures_are_ratios_to_the_stock_pipeline() -> None:
    from tests.bench import gate

    one, mixed = gate.figures(1, gate.pipeline(width=64, layers=1))
    assert one.value is not None
    assert (one.at_most, one.value > 0) == (1.03, True)
    assert mixed.detail is not None
    assert mixed.detail["longest"] <= mixed.detail["calls"] <= sum(gate.STEPS)
    assert mixed.at_least == pytest.approx(0.95 * mixed.detail["bare_gain"], abs=1e-3)


def test_a_short_bench_begins_only_what_ends_in_time() -> None:
    """On 4e14 operations a second: 8 candidates of all models within 170 seconds, of the first two within 100."""
    from tests.bench import device
    from tests.bench.real_models import MODELS

    assert list(MODELS)[:2] == ["z-image-turbo", "flux.1-schnell"]
    quick = [device.estimated_seconds(model, device.QUICK) for model in MODELS.values()]
    assert sum(quick[:2]) < 100
    assert sum(quick) < 170
    model = MODELS["z-image-turbo"]
    assert device.QUICK.row_steps(model) == 2 * 8 * (8 + 2) + (8 * 4 + 2 * 4) + (8 + 2)
    assert device.FULL.row_steps(model) == 2 * (2 * 16 * 8) + 2 * (16 * 4 + 4 * 4)


def test_results_are_kept_of_models_that_fail_or_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.bench import device

    def measure(name: str, model: Any, on: str, tiny: bool, effort: Any, found: Any, store: Any) -> None:
        found["script"] = {"seconds": 1.0}
        store()
        assert json.loads(out.read_text())["models"][name] == found
        raise RuntimeError("a kernel refuses")

    out = tmp_path / "results" / "device.json"
    monkeypatch.setattr(device, "measure", measure)
    names = ["z-image-turbo", "flux.1-schnell"]
    argv = ["device", "--device", "cpu", "--quick", "--seconds", "50", "--out", str(out), "--models", *names]
    monkeypatch.setattr("sys.argv", argv)
    clock = iter([0.0, 1.0, 40.0, 41.0])
    monkeypatch.setattr(device, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    device.main()
    first, second = (json.loads(out.read_text())["models"][name] for name in names)
    assert first == {"script": {"seconds": 1.0}, "skipped": "RuntimeError: a kernel refuses"}
    assert second["skipped"].endswith("and 10 s are left")


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # diffusers' own conversion
def test_random_weights_that_make_no_numbers_break_no_race() -> None:
    """Half precision may overflow: the images are black, and the race is measured."""
    from dataclasses import replace

    import torch

    from tests.bench import device
    from tests.bench.real_models import MODELS

    def build(*given: Any) -> Any:
        pipe = MODELS["flux.1-schnell"].build(*given)
        with torch.no_grad():
            pipe.vae.decoder.conv_out.bias.fill_(torch.nan)
            pipe.transformer.proj_out.bias.fill_(torch.nan)
        return pipe

    effort = device.Effort(candidates=4, first_steps=1)
    found = device.measure("broken", replace(MODELS["flux.1-schnell"], build=build), "cpu", True, effort)
    assert (found["unpruned"]["decodes"], found["pruned"]["decodes"]) == (4, 1)


@pytest.mark.soak
def test_the_device_check_holds_on_a_host(tmp_path: Path) -> None:
    from tests.bench import device_check

    told = dict[str, Any]()
    device_check.run("cpu", told, lambda: None)
    assert all(each["ok"] for each in told.values()), told
    assert told["float32: winners and scores"]["same_winners"] == 3
    assert told["memory"]["skipped"]


def test_a_device_that_scores_otherwise_fails_the_check() -> None:
    from tests.bench import device_check

    def answer(*scores: float) -> dict[str, Any]:
        best = max(range(len(scores)), key=lambda index: scores[index])
        rows = [{"index": index, "score": score} for index, score in enumerate(scores)]
        return {"candidates": rows, "data": [{"index": best}]}

    wanted = answer(0.1, 0.5, 0.3)
    near = device_check.compare(wanted, answer(0.105, 0.495, 0.3), 0.01)
    assert (near["ok"], near["same_winner"]) == (True, True)
    far = device_check.compare(wanted, answer(0.1, 0.3, 0.5), 0.05)
    assert (far["ok"], far["same_winner"], far["lost"]) == (False, False, 0.2)
