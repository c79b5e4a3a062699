"""LoRA adapters on quantised and compiled models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.loras import Lora, LoraFolder
from models.protocols import StepwiseGenerator
from tests.contract.adapter_kit import save_adapter
from tests.contract.test_acceleration import drawn, flux, gguf_file, loaded

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]

__all__ = ["flux"]

FILM, WEAK = (Lora("film", 1.0),), (Lora("film", 0.3),)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> LoraFolder:
    made = tmp_path_factory.mktemp("loras")
    save_adapter("flux", made / "film.safetensors", 1)
    save_adapter("flux", made / "ink.safetensors", 2)
    return LoraFolder(made)


def adapted(generator: StepwiseGenerator, loras: tuple[Lora, ...]) -> Any:
    """The latent of one candidate with these adapters."""
    generator.adapt(loras)
    try:
        return drawn(generator)[0]
    finally:
        generator.adapt(())


def alike(one: Any, other: Any) -> float:
    """The cosine of two changes of a latent."""
    return float((one * other).sum() / (np.linalg.norm(one) * np.linalg.norm(other)))


def check_quantised(flux: Path, folder: LoraFolder, mode: str, **options: Any) -> None:
    usual, generator = loaded(flux, mode, loras=folder), loaded(flux, mode, loras=folder, **options)
    bare, plain = adapted(generator, ()), adapted(usual, ())
    strong, weak = adapted(generator, FILM), adapted(generator, WEAK)
    assert alike(strong - bare, adapted(usual, FILM) - plain) > 0.95, "the adapter does what it does unquantised"
    assert 0 < np.abs(weak - bare).max() < np.abs(strong - bare).max()
    assert (adapted(generator, FILM) == strong).all()
    assert np.abs(adapted(generator, (Lora("ink"),)) - strong).max() > 1e-4
    assert (adapted(generator, ()) == bare).all(), "afterwards it is the bare model"
    assert (bare == adapted(loaded(flux, mode, **options), ())).all()


@pytest.mark.parametrize("mode", ["gate", "native"])
def test_adapters_change_a_model_in_eight_bits(flux: Path, folder: LoraFolder, mode: str) -> None:
    pytest.importorskip("torchao")
    check_quantised(flux, folder, mode, quantization="torchao-int8")


@pytest.mark.parametrize("mode", ["gate", "native"])
def test_adapters_change_a_model_from_a_gguf_file(flux: Path, folder: LoraFolder, mode: str, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    gguf_file(flux, tmp_path / "flux-q8.gguf")
    check_quantised(flux, folder, mode, gguf=str(tmp_path / "flux-q8.gguf"))


@pytest.mark.parametrize("mode", [pytest.param("gate", marks=pytest.mark.soak), "native"])
def test_rows_with_adapters_run_uncompiled(
    flux: Path, folder: LoraFolder, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    graphs: list[int] = []
    own = torch.nn.Module.compile

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(len(inputs))
        return graph.forward

    def compile(module: Any, *args: Any, **given: Any) -> None:
        own(module, *args, **{**given, "backend": counted})

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    torch._dynamo.reset()
    generator, usual = loaded(flux, mode, loras=folder, compile=True), loaded(flux, mode, loras=folder)
    bare = adapted(generator, ())
    assert graphs, "bare rows are compiled"
    made = len(graphs)
    strong = adapted(generator, FILM)
    assert np.abs(strong - adapted(usual, FILM)).max() <= 1e-4 * np.abs(strong).max()
    for weight in np.linspace(-1, 1, 12):
        adapted(generator, (Lora("film", float(weight)), Lora("ink", 0.5)))
    assert len(graphs) == made, "no weight of an adapter compiles anything"
    assert np.abs(adapted(generator, ()) - bare).max() <= 1e-6 * np.abs(bare).max()
    again = len(graphs)
    assert again <= 2 * made, "the layers that adapters change are compiled once more"
    for _ in range(3):
        adapted(generator, FILM)
        adapted(generator, ())
    assert len(graphs) == again
