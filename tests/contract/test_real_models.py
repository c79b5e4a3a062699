"""The device bench at tiny size, the sizes of the true configurations, and the gate's figures at tiny size."""

from __future__ import annotations

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
    found = sum(each.numel() for each in device._denoiser(pipe).parameters()) / 1e9
    assert found == pytest.approx(wanted, abs=near)


@pytest.mark.parametrize(
    "name", [name if name == "sdxl" else pytest.param(name, marks=pytest.mark.soak) for name in BILLIONS]
)
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


def test_the_gates_figures_are_ratios_to_the_stock_pipeline() -> None:
    from tests.bench import gate

    one, mixed = gate.figures(1, gate.pipeline(width=64, layers=1))
    assert (one.at_most, one.value > 0) == (1.03, True)
    assert mixed.detail is not None
    assert mixed.detail["longest"] <= mixed.detail["calls"] <= sum(gate.STEPS)
    assert mixed.at_least == pytest.approx(0.95 * mixed.detail["bare_gain"], abs=1e-3)
