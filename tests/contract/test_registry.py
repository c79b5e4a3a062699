"""Names become models, or errors that say which name and nothing of the machine."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from models import families, registry
from models.errors import ModelNotFound, ModelUnsupported, PackCorrupt
from models.families import Family, Source
from models.pack import PACKS, packs
from models.protocols import StepwiseGenerator
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from tests.contract.conftest import Workshop

needs_torch = pytest.mark.torch


def test_fakes_need_no_torch() -> None:
    load = "from models import registry; registry.load_models('fake', 'fake')"
    script = f"import sys; {load}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)


def test_one_entry_adds_a_family(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(FakeGenerator):
        """A generator of another family."""

    family: Family[StepwiseGenerator] = Family(
        "mine", lambda source: source.name == "mine", lambda *_: Mine(), needs_torch=False
    )
    monkeypatch.setattr(families, "GENERATORS", (family, *families.GENERATORS))
    assert isinstance(registry.load_models("mine", "fake").generator, Mine)
    assert type(registry.load_models("fake", "fake").generator) is FakeGenerator


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("pictogram", "pictogram"),
        ("owner/model", "owner/model"),
        ("hf-hub:owner/model", "hf-hub:owner/model"),
        ("ViT-B-32/laion2b_s34b_b79k", "ViT-B-32/laion2b_s34b_b79k"),
        ("ViT-B-32//some/where/weights.pt", "ViT-B-32/weights.pt"),
        ("local-dir:/some/where/clip", "clip"),
        ("/some/where/sd", "sd"),
    ],
)
def test_labels_name_no_place(name: str, called: str) -> None:
    assert Source(name).label == called


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_is_held_off_while_models_are_loaded_and_left_as_it_was(
    collects: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[bool]()

    def refuse(*_: object) -> StepwiseGenerator:
        seen.append(gc.isenabled())
        raise ModelUnsupported("none of these")

    monkeypatch.setattr(families, "GENERATORS", (Family("refusing", lambda _: True, refuse),))
    was = gc.isenabled()
    (gc.enable if collects else gc.disable)()
    try:
        with pytest.raises(ModelUnsupported, match="none of these"):
            registry.load_models("pictogram", "pictogram")
        assert (seen, gc.isenabled()) == ([False], collects)
    finally:
        (gc.enable if was else gc.disable)()


@needs_torch
def test_a_pack_shares_its_text_encoder_and_has_two_revisions(workshop: Workshop) -> None:
    generator: Any = workshop.pack.generator
    scorer: Any = workshop.pack.scorer
    assert scorer._model.text.transformer is generator._family.pipe.text_encoder
    pack = packs()["pictogram"]
    assert (generator.info.revision, scorer.info.revision) == (pack.revision, pack.scorer_revision)
    assert (generator.info.id, generator.info.steps, generator.info.sampler) == ("pictogram", 16, "ddim_quadratic")


@needs_torch
def test_numpy_keeps_no_threads_awake_beside_the_models(workshop: Workshop) -> None:
    from threadpoolctl import threadpool_info, threadpool_limits

    from models.runtime import placement

    assert workshop.pack.scorer.info.dimensions == 256
    threadpool_limits(2, user_api="blas")
    placement.prepare_process()
    assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}


@needs_torch
def test_a_pack_in_a_folder_brings_its_calibration(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(PACKS / "pictogram", folder)
    models = registry.load_models(str(folder), str(folder), "cpu")
    assert models.calibration is not None
    assert models.calibration.generator == models.generator.info.revision


@needs_torch
@pytest.mark.parametrize("own", [True, False])
def test_a_given_calibration_of_other_weights_does_not_displace_that_of_the_pack(
    own: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = json.loads((PACKS / "pictogram" / "pack.json").read_text())["calibration"]
    changes = {"guidance_scale": 7.0} if own else {"generator": "2"}
    given = tmp_path / "given.json"
    given.write_text(json.dumps(data | changes))
    models = registry.load_models("pictogram", "pictogram", "cpu", calibration=given)
    assert models.calibration is not None
    assert models.calibration.guidance_scale == (7.0 if own else data["guidance_scale"])
    assert models.calibration.matches(models.generator.info, models.scorer.info)
    assert ("measured with other weights" in caplog.text) is not own


@needs_torch
def test_real_and_fake_may_be_mixed() -> None:
    models = registry.load_models("fake", "pictogram", "cpu")
    assert isinstance(models.generator, FakeGenerator)
    assert models.scorer.info.id == "pictogram"
    assert isinstance(registry.load_models("fake", "fake", "nowhere").scorer, FakeScorer)


@needs_torch
@pytest.mark.parametrize(
    "broken", ["generator/unet/diffusion_pytorch_model.safetensors", "scorer/open_clip_config.json"]
)
def test_a_corrupt_pack_is_refused_by_both(tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(PACKS / "pictogram", folder)
    content = bytearray((folder / broken).read_bytes())
    content[-2] ^= 1
    (folder / broken).write_bytes(content)
    for names in ((str(folder), "fake"), ("fake", str(folder))):
        with pytest.raises(PackCorrupt, match=f"{broken} does not match") as error:
            registry.load_models(*names, "cpu")
        assert str(tmp_path) not in str(error.value)


@needs_torch
def test_a_folder_is_called_by_its_name(workshop: Workshop, tmp_path: Path) -> None:
    workshop.pipe("sd-epsilon").save_pretrained(tmp_path / "mine", safe_serialization=True)
    workshop.scorer("tiny")
    models = registry.load_models(str(tmp_path / "mine"), str(workshop.clip_folder), "cpu")
    assert (models.generator.info.id, models.scorer.info.id) == ("mine", "clip")
    assert models.generator.info.revision == workshop.generator("sd-epsilon").info.revision


@needs_torch
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("nothing", "fake"),
            "generator 'nothing' not found; use a folder, a hub id OWNER/NAME or one of fake, pictogram",
        ),
        (("/no/such/place", "fake"), "generator 'place' not found; use a folder"),
        (("no-owner/no-model", "fake"), "generator 'no-owner/no-model': not on the hub, or the hub is unreachable"),
        (("fake", "nothing"), "scorer 'nothing': not found; use a pack"),
        (("fake", "ViT-B-32/no-such-tag"), "scorer 'ViT-B-32/no-such-tag': no such model"),
        (("fake", "hf-hub:no-owner/no-model"), "scorer 'hf-hub:no-owner/no-model': no such model"),
        (("fake", "local-dir:/no/such/place"), "scorer 'place': no such model"),
    ],
)
def test_unknown_names_are_named(names: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    logging.disable()
    with pytest.raises(ModelNotFound, match=message) as error:
        registry.load_models(*names, "cpu")
    logging.disable(logging.NOTSET)
    assert "/no/such" not in str(error.value)


@needs_torch
def test_a_hub_id_is_read_from_the_cache_without_a_network(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    commit, cached = "0" * 40, tmp_path / "models--owner--model"
    workshop.pipe("sdxl").save_pretrained(cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    info = registry.load_models("owner/model", "fake", "cpu").generator.info
    assert (info.id, info.revision) == ("owner/model", workshop.generator("sdxl").info.revision)
    (cached / "snapshots" / commit / "model_index.json").write_text(json.dumps({"_class_name": "IFPipeline"}))
    with pytest.raises(ModelUnsupported, match="IFPipeline"):
        registry.load_models("owner/model", "fake", "cpu")


@needs_torch
def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    shutil.copytree(PACKS / "pictogram" / "generator", tmp_path / "half")
    (tmp_path / "half" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(
        ModelNotFound, match="generator 'half': the folder of the StableDiffusionPipeline lacks"
    ) as error:
        registry.load_models(str(tmp_path / "half"), "fake", "cpu")
    assert str(tmp_path) not in str(error.value)


@needs_torch
def test_a_scorer_with_another_activation_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="ViT-B-32-quickgelu/openai"):
        registry.load_models("fake", "ViT-B-32/openai", "cpu")


@needs_torch
def test_an_absent_device_is_refused() -> None:
    with pytest.raises(ModelUnsupported, match="device 'xpu:7'"):
        registry.load_models("fake", "pictogram", "xpu:7")


@needs_torch
def test_what_would_clip_latents_is_refused(workshop: Workshop) -> None:
    from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler

    from models.generators.samplers import DiffusersSamplers

    schedules = DiffusersSamplers(EulerDiscreteScheduler.from_config({"clip_sample": True}))
    assert schedules.samplers == (
        "euler",
        "ddim_quadratic",
        "dpmpp_2m",
        "euler_ancestral",
        "unipc",
        "dpmpp_2m_sde",
        "tcd",
    )
    with pytest.raises(ValueError, match="unknown sampler 'ddim'"):
        schedules("ddim", 4, 32, 32)
    assert "ddim" in DiffusersSamplers(EulerDiscreteScheduler()).samplers
    with pytest.raises(ModelUnsupported, match="DDIMScheduler"):
        DiffusersSamplers(DDIMScheduler(thresholding=True))
    assert DiffusersSamplers(LCMScheduler(clip_sample=False)).default == "lcm"


@needs_torch
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize(
    ("scheduler", "default"),
    [
        ("UniPCMultistepScheduler", "unipc"),
        ("HeunDiscreteScheduler", "heun"),
        ("KDPM2DiscreteScheduler", "kdpm2"),
        ("DDPMScheduler", "ddpm"),
        ("LMSDiscreteScheduler", "dpmpp_2m"),
        ("PNDMScheduler", "dpmpp_2m"),
    ],
)
def test_the_default_is_the_models_own_scheduler_or_the_nearest(
    scheduler: str, default: str, caplog: pytest.LogCaptureFixture
) -> None:
    import diffusers

    from models.generators.samplers import DiffusersSamplers

    with caplog.at_level(logging.WARNING):
        made = DiffusersSamplers(getattr(diffusers, scheduler).from_config({"clip_sample": False}))
    assert made.default == default
    warned = [record.getMessage() for record in caplog.records]
    replaced = scheduler in {"LMSDiscreteScheduler", "PNDMScheduler"}
    assert [default in line and "is not used" in line for line in warned] == [True] * replaced
    assert (default in made.second_order) == (default in {"heun", "kdpm2"})


@needs_torch
def test_second_order_samplers_need_a_finite_first_sigma() -> None:
    import diffusers

    from models.generators.samplers import DiffusersSamplers

    cosine = {"beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing"}
    made = DiffusersSamplers(diffusers.HeunDiscreteScheduler.from_config(cosine))
    assert (made.default, made.second_order) == ("euler", ())


@needs_torch
def test_a_full_device_is_told_apart() -> None:
    import torch

    from models.protocols import OutOfMemory
    from models.runtime.placement import memory_guard

    with pytest.raises(OutOfMemory), memory_guard():
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(OutOfMemory), memory_guard():
        raise torch.OutOfMemoryError("full")
    with pytest.raises(OutOfMemory), memory_guard():
        raise MemoryError
    with pytest.raises(RuntimeError, match="other"), memory_guard():
        raise RuntimeError("other")


@needs_torch
def test_previews_may_have_a_decoder_of_their_own(workshop: Workshop, tmp_path: Path) -> None:
    import diffusers
    import numpy as np
    import torch

    from models.protocols import to_host
    from tests.contract.loop import finish, levels, start

    torch.manual_seed(0)
    blocks = {f"{side}_block_out_channels": (16, 16) for side in ("encoder", "decoder")}
    counts = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    diffusers.AutoencoderTiny(**blocks, **counts).save_pretrained(tmp_path / "tiny")
    workshop.pipe("sdxl").save_pretrained(tmp_path / "sdxl")
    generator = registry.load_models(str(tmp_path / "sdxl"), "fake", "cpu", str(tmp_path / "tiny")).generator
    latents = finish(generator, [start(generator, 0, steps=1)])
    image, preview = (to_host(generator.decode(latents, preview=kind)) for kind in (False, True))
    assert image.shape == preview.shape == (1, 32, 32, 3)
    assert levels(image, preview) > 2
    plain = workshop.generator("sdxl")
    assert np.array_equal(image, to_host(plain.decode(latents)))
    assert generator.info.revision.startswith(f"{plain.info.revision}+"), "calibrations are of both"
