"""Quantisation, GGUF, compilation, attention, offload: what a CPU can do is done, the rest is checked as a call."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.settings import Settings
from models import registry
from models.errors import ModelNotFound, ModelUnsupported
from models.load_options import CACHES, LoadOptions
from models.protocols import StepRow, StepwiseGenerator, to_host
from tests.contract.families import FAMILIES

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]

SIZE = 32


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX pipeline in a folder."""
    folder = tmp_path_factory.mktemp("accelerated") / "tiny-flux"
    FAMILIES["flux"].build("flux").save_pretrained(folder)
    return folder


def loaded(folder: Path, mode: Any = "gate", **options: Any) -> StepwiseGenerator:
    return registry.load_models(str(folder), "fake", "cpu", mode=mode, options=LoadOptions(**options)).generator


def drawn(generator: StepwiseGenerator) -> Any:
    """The latent of one candidate, and its picture."""
    schedule = generator.schedule(generator.info.sampler, 2, SIZE, SIZE)
    (prompt,) = generator.encode(["a red apple"])
    latent = generator.noise(3, SIZE, SIZE, schedule)
    for step in range(2):
        (latent,) = generator.step([StepRow(latent, prompt, None, 3.5, schedule, step, 3)], 1)
    return generator.dump([latent])[0].astype(np.float32), to_host(generator.decode([latent]))[0]


@pytest.fixture(scope="module")
def plain(flux: Path) -> Any:
    return drawn(loaded(flux))[0]


@pytest.mark.parametrize("mode", ["gate", "native"])
def test_weights_are_stored_in_eight_bits(flux: Path, mode: str) -> None:
    pytest.importorskip("torchao")
    usual, generator = loaded(flux, mode), loaded(flux, mode, quantization="torchao-int8")
    (found, picture), (plain, _) = drawn(generator), drawn(usual)
    difference = np.abs(found - plain).max() / np.abs(plain).max()
    assert 1e-6 < difference < 0.2, "it is the same model, rounded"
    assert picture.shape == (SIZE, SIZE, 3)
    assert generator.info.revision != usual.info.revision, "other weights"


def test_only_the_named_parts_are_quantised(flux: Path) -> None:
    pytest.importorskip("torchao")
    from models.generators import pipelines
    from models.runtime.placement import select_device

    options = LoadOptions(quantization="torchao-int8", quantized_parts=("text_encoder_2",))
    pipe, revision = pipelines.load(flux, select_device("cpu"), options=options)
    kinds = {
        name: {type(each).__name__ for each in getattr(pipe, name).parameters()}
        for name in ("transformer", "text_encoder", "text_encoder_2", "vae")
    }
    assert "Parameter" in kinds["text_encoder_2"]
    assert len(kinds["text_encoder_2"]) == 2, "linear weights are of another kind"
    assert [kinds[name] for name in ("transformer", "text_encoder", "vae")] == [{"Parameter"}] * 3
    assert revision
    with pytest.raises(ModelUnsupported, match="no part 'nose' to quantise; use some of"):
        loaded(flux, quantization="torchao-int8", quantized_parts=("nose",))


def gguf_file(folder: Path, file: Path, without: str = "") -> None:
    """The transformer's weights but one, in eight bits where rows allow it."""
    import gguf
    from safetensors.numpy import load_file

    writer = gguf.GGUFWriter(str(file), "flux")
    tensors = load_file(next((folder / "transformer").glob("*.safetensors")))
    tensors.pop(without, None)
    for name, values in tensors.items():
        kind = gguf.GGMLQuantizationType.Q8_0 if values.ndim == 2 and values.shape[1] % 32 == 0 else None
        data = values if kind is None else gguf.quants.quantize(values, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_replaces_the_denoisers_weights(flux: Path, plain: Any, tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    gguf_file(flux, tmp_path / "flux-q8.gguf")
    found, _ = drawn(loaded(flux, gguf=str(tmp_path / "flux-q8.gguf")))
    difference = np.abs(found - plain).max() / np.abs(plain).max()
    assert 1e-6 < difference < 0.2, "it is the same model, rounded"
    with pytest.raises(ModelNotFound, match=r"GGUF file 'gone\.gguf' not found"):
        loaded(flux, gguf="gone.gguf")
    (tmp_path / "noise.gguf").write_bytes(b"no weights")
    with pytest.raises(ModelUnsupported, match=r"noise\.gguf does not hold the weights of this FluxTransformer2DModel"):
        loaded(flux, gguf=str(tmp_path / "noise.gguf"))
    gguf_file(flux, tmp_path / "part.gguf", without="proj_out.weight")
    with pytest.raises(ModelUnsupported, match=r"part\.gguf does not hold the weights of this FluxTransformer2DModel"):
        loaded(flux, gguf=str(tmp_path / "part.gguf"))


def test_the_repeated_blocks_are_compiled(flux: Path, plain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    compiled: list[str] = []
    own = torch.nn.Module.compile

    def compile(module: Any, *args: Any, **given: Any) -> None:
        compiled.append(type(module).__name__)
        own(module, *args, **{**given, "backend": "aot_eager"})  # all of the compiler but the C++ code

    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    generator = loaded(flux, compile=True)
    assert set(compiled) == {"FluxTransformerBlock", "FluxSingleTransformerBlock"}
    assert np.abs(drawn(generator)[0] - plain).max() <= 2e-3 * np.abs(plain).max()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ModelUnsupported, match=r"needs a C\+\+ compiler"):
        loaded(flux, compile=True)


def test_attention_is_chosen_or_refused(flux: Path, plain: Any) -> None:
    assert np.array_equal(drawn(loaded(flux, attention="native"))[0], plain)
    with pytest.raises(ModelUnsupported, match="attention backend 'nothing'"):
        loaded(flux, attention="nothing")
    with pytest.raises(ModelUnsupported, match="attention backend 'xformers'"):
        loaded(flux, attention="xformers")


def test_a_denoiser_without_a_choice_is_refused(tmp_path: Path) -> None:
    FAMILIES["stable_diffusion"].build("stable_diffusion").save_pretrained(tmp_path / "sd")
    with pytest.raises(ModelUnsupported, match="no choice of attention"):
        loaded(tmp_path / "sd", attention="native")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"offload": "model"}, "the device cpu has none"),
        ({"offload": "sequential"}, "the device cpu has none"),
        ({"quantization": "bitsandbytes-nf4"}, "needs bitsandbytes"),
    ],
)
def test_what_this_machine_lacks_is_told(flux: Path, options: dict[str, Any], told: str) -> None:
    if "quantization" in options and "bitsandbytes" in sys.modules:
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(ModelUnsupported, match=f"generator 'tiny-flux': .*{told}"):
        loaded(flux, **options)


def test_an_apple_device_is_told_where_there_is_none() -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this is one")
    with pytest.raises(ModelUnsupported, match=r"device 'mps' is not available; use auto, cpu, cuda\[:n\] or mps"):
        registry.load_models("pictogram", "fake", "mps")
    assert Settings(device="mps").device == "mps"


def test_the_number_format_is_a_choice(flux: Path) -> None:
    assert loaded(flux, dtype="bfloat16").info.dtype == "bfloat16"
    assert loaded(flux).info.dtype == "float32"


def _on_gpu() -> Any:
    """A placement on a device that this machine need not have."""
    import torch

    from models.runtime.placement import DevicePlacement
    from models.runtime.row_parallel import RowParallel

    return DevicePlacement(torch.device("cuda"), torch.bfloat16, RowParallel(1))


def test_bitsandbytes_quantises_each_part_by_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers
    import transformers

    from models.runtime import acceleration

    monkeypatch.setattr(acceleration, "_require", lambda *_: None)
    for library in (diffusers, transformers):
        monkeypatch.setattr(library.BitsAndBytesConfig, "post_init", lambda _: None)
    parts = {
        "transformer": "diffusers",
        "text_encoder": "transformers",
        "vae": "diffusers",
        "tokenizer": "transformers",
    }
    monkeypatch.setattr(diffusers.PipelineQuantizationConfig, "post_init", lambda _: None)
    given = acceleration.load_arguments(LoadOptions(quantization="bitsandbytes-nf4"), _on_gpu(), parts)
    mapping = given["quantization_config"].quant_mapping
    assert set(mapping) == {"transformer", "text_encoder"}
    assert isinstance(mapping["transformer"], diffusers.BitsAndBytesConfig)
    assert isinstance(mapping["text_encoder"], transformers.BitsAndBytesConfig)
    assert all(each.load_in_4bit and each.bnb_4bit_quant_type == "nf4" for each in mapping.values())
    given = acceleration.load_arguments(LoadOptions(quantization="bitsandbytes-int8"), _on_gpu(), parts)
    assert given["quantization_config"].quant_mapping["transformer"].load_in_8bit


@pytest.mark.parametrize("kind", ["model", "sequential"])
def test_offload_is_asked_of_the_pipeline_for_its_device(kind: str) -> None:
    from models.runtime import acceleration

    calls: list[Any] = []
    pipe = types.SimpleNamespace(components={}, _all_hooks=[], to=lambda _: calls.append("to"))
    setattr(pipe, f"enable_{kind}_cpu_offload", lambda device: calls.append(str(device)))
    acceleration.apply(pipe, LoadOptions(offload=kind), _on_gpu())  # type: ignore[arg-type]
    assert calls == ["cuda"], "it is not moved as a whole"
    with pytest.raises(ModelUnsupported, match=f"has no {kind} offload"):
        acceleration.apply(types.SimpleNamespace(components={}), LoadOptions(offload=kind), _on_gpu())  # type: ignore[arg-type]


def test_one_model_at_a_time_is_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the device `meta` in the place of a GPU: only where weights are counts."""
    import torch
    from accelerate import cpu_offload_with_hook

    from models.runtime import acceleration

    hooks, models, before = [], [torch.nn.Linear(2, 2) for _ in range(3)], None
    for model in models:
        _, before = cpu_offload_with_hook(model, torch.device("meta"), before)
        hooks.append(before)
    acceleration._one_at_a_time(hooks)
    monkeypatch.setattr(type(hooks[0].hook), "init_hook", lambda _, module: module.to_empty(device="cpu"))
    for order in ((0, 1, 2), (1, 0, 2, 1), (2, 2, 0)):
        for each in order:
            models[each](torch.zeros(1, 2, device="meta"))
            assert [model.weight.device.type for model in models] == ["meta" if i == each else "cpu" for i in range(3)]


def test_weights_that_were_offloaded_can_still_have_gradients() -> None:
    """All calls but those of steering are made in inference mode, whose tensors have none."""
    import torch
    from accelerate import cpu_offload_with_hook

    from models.runtime import acceleration

    models = [torch.nn.Linear(2, 2).requires_grad_(False) for _ in range(2)]
    acceleration._one_at_a_time([cpu_offload_with_hook(model, torch.device("meta"))[1] for model in models])
    with torch.inference_mode():
        models[0](torch.zeros(1, 2, device="meta"))
    x = torch.zeros(1, 2, device="meta", requires_grad=True)
    (slope,) = torch.autograd.grad(models[0](x).sum(), x)
    assert slope.shape == x.shape


def test_full_memory_at_the_start_says_what_to_do(flux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    import transformers

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(transformers.T5EncoderModel, "forward", full)
        with pytest.raises(ModelUnsupported, match="does not fit into the memory of cpu; use a smaller model"):
            loaded(flux)
    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(ModelUnsupported, match="does not fit into the memory of cpu; use a smaller model, FRONTRUNNER"):
        loaded(flux)


@pytest.mark.parametrize("name", CACHES)
def test_caches_are_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ValueError, match=CACHES[name][:30]):
        Settings(cache=name)


def test_settings_become_options() -> None:
    usual = Settings().load_options
    made = Settings(quantization="torchao-int8", quantized_parts="transformer, text_encoder", compile=True).load_options
    assert made == replace(
        usual, quantization="torchao-int8", quantized_parts=("transformer", "text_encoder"), compile=True
    )
    assert made.changes_modules
    assert not Settings().load_options.changes_modules
    with pytest.raises(ValueError, match="quantization"):
        Settings(quantization="int3")
    with pytest.raises(ValueError, match="it is no cache of diffusers"):
        Settings(cache="fast")
