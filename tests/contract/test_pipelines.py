"""Folders become pipelines behind a loop of their own or behind the gate, or a sentence that says why not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from models import families, registry
from models.errors import ModelError, ModelNotFound, ModelUnsupported
from models.protocols import StepwiseGenerator
from models.synthetic.generator import FakeGenerator
from tests.contract.conftest import Workshop
from tests.contract.families import FAMILIES

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole SD3 pipeline on disk."""
    where = tmp_path_factory.mktemp("sd3") / "sd3"
    FAMILIES["stable_diffusion_3"].build("stable_diffusion_3").save_pretrained(where)
    return where


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "sd3"))


def index(tmp_path: Path, kind: Any) -> Path:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    return tmp_path


def kind(generator: Any) -> str:
    return type(generator).__name__


def test_a_family_with_a_native_loop_uses_it(folder: Path) -> None:
    generator = registry.load_models(str(folder), "fake", "cpu").generator
    info = generator.info
    assert kind(generator) == "NativeGenerator"
    assert (info.id, info.guidance, info.prediction_type) == ("sd3", "cfg", "flow")
    assert (info.width, info.height, info.steps, info.guidance_scale) == (16, 16, 28, 7.0)


def test_a_family_without_a_native_loop_is_gated(tmp_path: Path) -> None:
    FAMILIES["ovis_image"].build("ovis_image").save_pretrained(tmp_path / "ovis")
    assert kind(registry.load_models(str(tmp_path / "ovis"), "fake", "cpu").generator) == "PipelineGate"
    with pytest.raises(ModelUnsupported, match="'ovis': the pipeline OvisImagePipeline has no native loop; set"):
        registry.load_models(str(tmp_path / "ovis"), "fake", "cpu", mode="native")


def test_a_default_size_that_the_model_cannot_make_is_refused(tmp_path: Path) -> None:
    FAMILIES["auraflow"].build("auraflow").save_pretrained(tmp_path / "aura")
    with pytest.raises(ModelUnsupported, match="'aura': the pipeline refuses its own defaults"):
        registry.load_models(str(tmp_path / "aura"), "fake", "cpu")


@pytest.mark.parametrize("config", [{"stochastic_sampling": True}, {"_class_name": "FlowMatchHeunDiscreteScheduler"}])
def test_a_scheduler_that_is_no_table_goes_through_the_gate(copied: Path, config: dict[str, Any]) -> None:
    file = copied / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    index_file = copied / "model_index.json"
    kinds = json.loads(index_file.read_text())
    kinds["scheduler"] = ["diffusers", config.get("_class_name", kinds["scheduler"][1])]
    index_file.write_text(json.dumps(kinds))
    assert kind(registry.load_models(str(copied), "fake", "cpu").generator) == "PipelineGate"
    with pytest.raises(
        ModelUnsupported, match=r"'sd3': the scheduler FlowMatch.* needs FRONTRUNNER_GENERATOR_MODE=gate"
    ):
        registry.load_models(str(copied), "fake", "cpu", mode="native")


def test_one_entry_adds_a_native_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def load(pipe: Any, placement: Any, **options: Any) -> StepwiseGenerator:
        given.update(options, kind=kind(pipe), device=str(placement.device))
        return FakeGenerator()

    monkeypatch.setattr(families, "NATIVE_LOOPS", {**families.NATIVE_LOOPS, "StableDiffusion3Pipeline": load})
    assert kind(registry.load_models(str(folder), "fake", "cpu", mode="native").generator) == "FakeGenerator"
    assert kind(given.pop("adapters")) == "Adapters"
    assert given.pop("long_prompts") == "truncate"
    assert given == {"id": "sd3", "preview_decoder": None, "kind": "StableDiffusion3Pipeline", "device": "cpu"}


def test_the_mode_decides_where_both_ways_exist(workshop: Workshop, tmp_path: Path) -> None:
    workshop.pipe("sd-epsilon").save_pretrained(tmp_path / "sd")
    made = {
        mode: registry.load_models(str(tmp_path / "sd"), "fake", "cpu", mode=mode)
        for mode in ("auto", "native", "gate")
    }
    kinds = {mode: kind(models.generator) for mode, models in made.items()}
    assert kinds == {"auto": "NativeGenerator", "native": "NativeGenerator", "gate": "PipelineGate"}


@pytest.mark.parametrize("pipeline", ["LatentConsistencyModelPipeline", "StableDiffusionPipeline"])
def test_a_consistency_model_has_a_native_loop(tmp_path: Path, pipeline: str) -> None:
    import diffusers

    from models.runtime.placement import quiet_libraries

    pipe = FAMILIES["latent_consistency"].build("latent_consistency")
    with quiet_libraries():
        again = getattr(diffusers, pipeline)(**pipe.components, requires_safety_checker=False)
        again.save_pretrained(tmp_path / "lcm")
    generator = registry.load_models(str(tmp_path / "lcm"), "fake", "cpu").generator
    assert kind(generator) == "NativeGenerator"
    assert (generator.info.guidance, generator.info.sampler, generator.info.steps) == ("embedded", "lcm", 4)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("IFPipeline", "several stages"),
        ("StableCascadeCombinedPipeline", "several stages"),
        ("WuerstchenCombinedPipeline", "several stages"),
        ("KandinskyCombinedPipeline", "several stages"),
        ("KandinskyV22CombinedPipeline", "several stages"),
        ("GlmImagePipeline", "several stages"),
        ("StableDiffusionPAGPipeline", "attention"),
        ("FluxControlNetPipeline", "is controlled by other images"),
        ("FluxImg2ImgPipeline", "starts from other images"),
        ("WanPipeline", "makes videos"),
        ("AudioLDM2Pipeline", "makes sound"),
        ("MyPipeline", "has no pipeline class MyPipeline"),
        (["some_module", "MyPipeline"], "has no pipeline class MyPipeline"),
        (["pipeline", "FluxPipeline"], "code of its own"),
        ([], "has no pipeline class"),
        ("UNet2DConditionModel", "has no pipeline class UNet2DConditionModel"),
        ("DDPMPipeline", "takes no prompt"),
    ],
)
def test_what_cannot_run_row_by_row_is_refused_by_a_sentence(tmp_path: Path, name: Any, why: str) -> None:
    with pytest.raises(ModelUnsupported, match=why) as error:
        registry.load_models(str(index(tmp_path, name)), "fake", "cpu")
    assert str(tmp_path) not in str(error.value)


def test_every_text_to_image_pipeline_is_taken_or_refused() -> None:
    from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING

    from models.generators import pipelines

    taken, reasons = [], []
    for known in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values():
        try:
            pipelines.check(known.__name__)
            taken.append(known.__name__)
        except ModelUnsupported as error:
            reasons.append(str(error))
    assert all(re.search("several stages|use a text-to-image|attention", reason) for reason in reasons)
    assert len(taken) >= 25
    assert {"FluxPipeline", "ZImagePipeline", "QwenImagePipeline", "Krea2Pipeline", "SanaPipeline"} <= set(taken)


def test_a_folder_without_an_index_is_no_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"is not a diffusers pipeline: model_index.json is missing"):
        registry.load_models(str(tmp_path), "fake", "cpu")


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_an_unreadable_index_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model_index.json").write_text(text)
    with pytest.raises(ModelNotFound, match=r"cannot read model_index.json"):
        registry.load_models(str(tmp_path), "fake", "cpu")


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_3", "text_encoder_2", "vae", "scheduler"])
def test_a_missing_part_is_named(copied: Path, part: str) -> None:
    shutil.rmtree(copied / part)
    with pytest.raises(ModelNotFound, match=f"'sd3': the folder of the StableDiffusion3Pipeline lacks {part}"):
        registry.load_models(str(copied), "fake", "cpu")


@pytest.mark.parametrize("part", ["tokenizer", "vae", "scheduler"])
def test_a_part_that_the_index_leaves_out_is_named(copied: Path, part: str) -> None:
    file = copied / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {part: [None, None]}))
    with pytest.raises(ModelNotFound, match=f"'sd3': the folder of the StableDiffusion3Pipeline lacks {part}"):
        registry.load_models(str(copied), "fake", "cpu")


@pytest.mark.parametrize("part", ["tokenizer", "tokenizer_3"])
@pytest.mark.parametrize("files", ["tokenizer.json", "*"])
def test_a_tokenizer_without_its_words_is_refused(copied: Path, part: str, files: str) -> None:
    """An empty tokenizer would be made of such a folder, which reads every prompt alike."""
    for file in (copied / part).glob(files):
        file.unlink()
    with pytest.raises(ModelNotFound, match=f"'sd3': the {part} knows no words"):
        registry.load_models(str(copied), "fake", "cpu")


def test_weights_that_lack_a_layer_are_refused(copied: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights[min(weights)]
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelNotFound, match="'sd3': the transformer lacks 1 of"):
        registry.load_models(str(copied), "fake", "cpu")


@pytest.mark.parametrize("mode", ["auto", "gate"])
def test_a_denoiser_of_more_channels_is_refused(workshop: Workshop, tmp_path: Path, mode: families.Mode) -> None:
    import diffusers

    pipe = workshop.pipe("sd-epsilon")
    config = {name: value for name, value in pipe.unet.config.items() if not name.startswith("_")}
    parts = {**pipe.components, "unet": diffusers.UNet2DConditionModel(**config | {"in_channels": 9})}
    diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "nine")
    with pytest.raises(ModelUnsupported, match="'nine': "):
        registry.load_models(str(tmp_path / "nine"), "fake", "cpu", mode=mode)


def test_a_single_file_is_no_pipeline(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"0")
    with pytest.raises(ModelUnsupported, match=r"'model.safetensors' is a single file; save it as a folder") as error:
        registry.load_models(str(tmp_path / "model.safetensors"), "fake", "cpu")
    assert str(tmp_path) not in str(error.value)


@pytest.mark.parametrize("mode", ["native", "gate"])
def test_a_preview_decoder_of_other_latents_is_refused(folder: Path, tmp_path: Path, mode: families.Mode) -> None:
    import diffusers

    config = diffusers.AutoencoderKL.load_config(folder / "vae")
    diffusers.AutoencoderTiny(latent_channels=config["latent_channels"] + 1).save_pretrained(tmp_path / "tiny")
    with pytest.raises(ModelUnsupported, match=r"'sd3': the preview decoder takes latents of \d+ channels, not"):
        registry.load_models(str(folder), "fake", "cpu", str(tmp_path / "tiny"), mode=mode)
    with pytest.raises(ModelUnsupported, match="preview decoder 'vae': its class is AutoencoderKL; use an Auto"):
        registry.load_models(str(folder), "fake", "cpu", str(folder / "vae"), mode=mode)


@pytest.mark.parametrize(
    "file", ["transformer/diffusion_pytorch_model.safetensors", "tokenizer/tokenizer.json", "vae/config.json"]
)
def test_a_broken_part_is_refused(copied: Path, file: str) -> None:
    (copied / file).write_bytes(b"\0" * 50)
    with pytest.raises(ModelError, match="'sd3'") as error:
        registry.load_models(str(copied), "fake", "cpu")
    assert str(copied) not in str(error.value)


def test_a_model_that_does_not_fit_into_memory_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import diffusers

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(diffusers.StableDiffusion3Pipeline, "to", full)
    with pytest.raises(ModelUnsupported, match="does not fit into the memory of cpu"):
        registry.load_models(str(folder), "fake", "cpu")


REFUSALS: dict[families.Mode, dict[tuple[int, int], str]] = {
    "gate": {
        (0, 16): "`steps` must be at least 1, not 0",
        (3, 4096): "Width (4096) cannot be greater than `pos_embed_max_size`: 96.",
    },
    "native": {
        (0, 16): "`steps` must be 1..1000, not 0",
        (3, 20): "width and height must be multiples of 8, not 20 x 16",
    },
}
"""What a model says to steps and a width that it cannot make."""


@pytest.mark.parametrize("mode", REFUSALS)
def test_sizes_and_steps_that_a_model_cannot_make(folder: Path, mode: families.Mode) -> None:
    generator = registry.load_models(str(folder), "fake", "cpu", mode=mode).generator
    sampler = generator.info.sampler
    assert generator.schedule(sampler, 3, 32, 16).steps == 3
    with pytest.raises(ValueError, match=rf"^unknown sampler 'ddim'; use (one of )?{sampler}$"):
        generator.schedule("ddim", 3, 16, 16)
    for (steps, width), why in REFUSALS[mode].items():
        with pytest.raises(ValueError, match=f"^{re.escape(why)}$"):
            generator.schedule(sampler, steps, width, 16)


def test_gated_previews_may_have_a_decoder_of_their_own(workshop: Workshop, tmp_path: Path) -> None:
    import diffusers
    import numpy as np
    import torch

    from models.protocols import StepRow, to_host
    from tests.contract.gate_kit import levels

    torch.manual_seed(0)
    blocks = {f"{side}_block_out_channels": (16, 16) for side in ("encoder", "decoder")}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**blocks, **counts).save_pretrained(tmp_path / "tiny")
    workshop.pipe("sdxl").save_pretrained(tmp_path / "sdxl")
    made = [
        registry.load_models(str(tmp_path / "sdxl"), "fake", "cpu", decoder, mode="gate").generator
        for decoder in (None, str(tmp_path / "tiny"))
    ]
    pictures = []
    for generator in made:
        schedule = generator.schedule("euler", 2, 32, 32)
        (text,) = generator.encode(["a red apple"])
        row = StepRow(generator.noise(3, 32, 32, schedule), text, None, 1.0, schedule, 0, 3)
        latents = generator.step([row], 1)
        pictures.append([to_host(generator.decode(latents, preview=kind))[0] for kind in (False, True)])
    (plain, _), (image, preview) = pictures
    np.testing.assert_array_equal(plain, image)
    assert levels(image, preview) > 2
    assert made[1].info.revision.startswith(f"{made[0].info.revision}+"), "calibrations are of both"
