"""LoRA adapters: the same latents as the stock pipeline with them, and the bare model's bits without."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from models.errors import ModelUnsupported
from models.load_options import LoadOptions
from models.loras import Lora, LoraFolder
from models.protocols import StepRow, StepwiseGenerator
from tests.contract.adapter_kit import save_adapter, stock_pipe
from tests.contract.families import FAMILIES
from tests.contract.gate_kit import Job, recording

pytestmark = pytest.mark.torch

LATENTS = 2e-5
JOB = Job(steps=3)
FILM, INK = (Lora("film", 0.8),), (Lora("ink", 1.0),)
BOTH = (*FILM, Lora("ink", -0.5))


@dataclass
class Adapted:
    """A family with two adapters, behind one path."""

    family: str
    folder: Path
    generator: StepwiseGenerator

    def rows(self, loras: tuple[Lora, ...], job: Job = JOB) -> list[StepRow]:
        """One candidate before its first step."""
        family, generator = FAMILIES[self.family], self.generator
        generator.adapt(loras)
        schedule = generator.schedule(generator.info.sampler, job.steps, family.size, family.size)
        negative = generator.encode([job.negative], negative=True)[0] if generator.info.negative_prompts else None
        latent = generator.noise(job.seed, family.size, family.size, schedule)
        prompt = generator.encode([job.prompt])[0]
        return [StepRow(latent, prompt, negative, family.guidance, schedule, 0, job.seed)]

    def step(self, rows: list[StepRow], loras: tuple[Lora, ...]) -> list[StepRow]:
        """The same rows, one step on."""
        self.generator.adapt(loras)
        latents = self.generator.step(rows, len(rows))
        return [replace(row, latent=latent, step=row.step + 1) for row, latent in zip(rows, latents, strict=True)]

    def made(self, loras: tuple[Lora, ...], job: Job = JOB) -> Any:
        """The finished latent of one candidate."""
        rows = self.rows(loras, job)
        for _ in range(job.steps):
            rows = self.step(rows, loras)
        return rows[0].latent

    def stock(self, loras: tuple[Lora, ...], job: Job = JOB) -> NDArray[np.float32]:
        """The last sample of the stock pipeline with the same adapters, in its own packing."""
        import torch

        pipe = stock_pipe(self.family, self.folder, {lora.name: lora.weight for lora in loras})
        family, seen = FAMILIES[self.family], list[Any]()
        vars(pipe)["scheduler"] = recording(pipe.scheduler, seen)
        texts = {"negative_prompt": job.negative} if self.generator.info.negative_prompts else {}
        with torch.inference_mode():
            pipe(
                job.prompt,
                num_inference_steps=job.steps,
                guidance_scale=family.guidance,
                width=family.size,
                height=family.size,
                generator=torch.Generator().manual_seed(job.seed),
                **texts,
            )
        made: NDArray[np.float32] = seen[-1].numpy()
        return made


def generator_of(family: str, path: str, loras: LoraFolder | None) -> StepwiseGenerator:
    from models.generators.adapters import Adapters
    from models.generators.gate.generator import PipelineGate
    from models.generators.native import NativeGenerator
    from models.runtime.placement import prepare_process, select_device

    prepare_process()
    pipe = FAMILIES[family].build(family)
    size = FAMILIES[family].size
    kind: Any = {"gate": PipelineGate, "native": NativeGenerator}[path]
    made: StepwiseGenerator = kind(
        pipe,
        select_device("cpu"),
        id=family,
        defaults={"width": size, "height": size},
        arguments=dict(FAMILIES[family].arguments),
        adapters=Adapters(pipe, loras),
    )
    return made


def sample(family: str, path: str, latent: Any) -> NDArray[np.float32]:
    """A latent's x in the packing of the pipeline's own loop."""
    if family != "flux" or path == "gate":
        return np.asarray(latent.x)
    from models.generators.families.base import pack

    return np.asarray(pack(latent.x[None]))


@pytest.fixture(scope="module", params=["stable_diffusion", "stable_diffusion_xl", "flux"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(family)
    save_adapter(family, made / "film.safetensors", 1)
    save_adapter(family, made / "ink.safetensors", 2, texts=family != "flux")
    return made


@pytest.fixture(scope="module", params=["native", "gate"])
def path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def adapted(family: str, path: str, folder: Path) -> Adapted:
    return Adapted(family, folder, generator_of(family, path, LoraFolder(folder)))


@pytest.mark.parametrize("loras", [FILM, INK, BOTH], ids=["film", "ink", "both"])
def test_equals_the_stock_pipeline_with_the_same_adapters(adapted: Adapted, path: str, loras: Any) -> None:
    wanted = adapted.stock(loras)
    latent = copy.copy(adapted.made(loras))
    seen = sample(adapted.family, path, latent)
    assert float(np.abs(seen - wanted.reshape(seen.shape)).max()) <= LATENTS * max(1.0, float(np.abs(wanted).max()))


def test_without_adapters_it_is_the_bare_model_to_the_bit(adapted: Adapted, path: str) -> None:
    bare = Adapted(adapted.family, adapted.folder, generator_of(adapted.family, path, None))
    assert bare.generator.info.loras is None
    assert adapted.generator.info.loras == ()
    wanted = np.asarray(bare.made(()).x)
    for loras in (FILM, INK):
        assert not np.array_equal(np.asarray(adapted.made(loras).x), wanted)
        np.testing.assert_array_equal(np.asarray(adapted.made(()).x), wanted)


def test_turns_of_two_requests_do_not_mix(adapted: Adapted) -> None:
    alone = {loras: np.asarray(adapted.made(loras).x) for loras in (FILM, INK, ())}
    rows = {loras: adapted.rows(loras) for loras in alone}
    for _ in range(JOB.steps):
        rows = {loras: adapted.step(these, loras) for loras, these in rows.items()}
    for loras, these in rows.items():
        np.testing.assert_array_equal(np.asarray(these[0].latent.x), alone[loras])


def test_a_replaced_file_is_read_again(adapted: Adapted, tmp_path: Path) -> None:
    path = adapted.folder / "copy.safetensors"
    shutil.copy(adapted.folder / "film.safetensors", path)
    lora = (Lora("copy", 0.8),)
    first = np.asarray(adapted.made(lora).x)
    np.testing.assert_array_equal(first, np.asarray(adapted.made(FILM).x))
    shutil.copy(adapted.folder / "ink.safetensors", path)
    os.utime(path, ns=(1, 1))
    np.testing.assert_array_equal(np.asarray(adapted.made((Lora("copy", 1.0),)).x), np.asarray(adapted.made(INK).x))
    path.unlink()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("unknown", "no LoRA adapter 'unknown'"),
        ("../film", "no LoRA adapter"),
        ("film.safetensors", "no LoRA adapter"),
        ("", "no LoRA adapter"),
        ("broken", "damaged"),
        ("empty", "damaged"),
        ("other", "cannot be used with this model"),
    ],
)
def test_what_cannot_be_used_is_refused_and_harms_nothing(
    adapted: Adapted, tmp_path: Path, name: str, why: str
) -> None:
    folder = adapted.folder
    (folder / "broken.safetensors").write_bytes((folder / "film.safetensors").read_bytes()[:1000])
    (folder / "empty.safetensors").write_bytes(b"")
    if not (folder / "other.safetensors").exists():
        save_adapter("flux" if adapted.family != "flux" else "stable_diffusion", folder / "other.safetensors", 3)
    before = np.asarray(adapted.made(FILM).x)
    with pytest.raises(ValueError, match=why):
        adapted.generator.adapt((Lora("ink"), Lora(name)))
    np.testing.assert_array_equal(np.asarray(adapted.made(FILM).x), before)
    bare = np.asarray(adapted.made(()).x)
    assert not np.array_equal(bare, before)


def test_an_adapter_of_a_larger_model_is_refused(tmp_path: Path) -> None:
    save_adapter("stable_diffusion_xl", tmp_path / "xl.safetensors", 1)
    generator = generator_of("stable_diffusion", "native", LoraFolder(tmp_path))
    with pytest.raises(ValueError, match="made for another one"):
        generator.adapt((Lora("xl"),))
    with pytest.raises(ValueError, match="takes no LoRA"):
        generator_of("stable_diffusion", "native", None).adapt((Lora("xl"),))


def test_the_least_recently_used_adapter_is_unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from models.generators import adapters

    monkeypatch.setattr(adapters, "LOADED", 1)
    for seed, name in enumerate(("film", "ink")):
        save_adapter("stable_diffusion", tmp_path / name / "pytorch_lora_weights.safetensors", seed)
    assert LoraFolder(tmp_path).names == ("film", "ink")
    made = Adapted("stable_diffusion", tmp_path, generator_of("stable_diffusion", "native", LoraFolder(tmp_path)))
    first = np.asarray(made.made(FILM).x)
    made.made(INK)
    np.testing.assert_array_equal(np.asarray(made.made(FILM).x), first)
    assert not np.array_equal(np.asarray(made.made(()).x), first)


def test_adapters_of_the_start_are_loaded_at_once(tmp_path: Path) -> None:
    from models import registry

    FAMILIES["stable_diffusion"].build("stable_diffusion").save_pretrained(tmp_path / "sd")
    save_adapter("stable_diffusion", tmp_path / "loras" / "film.safetensors", 1)
    found, absent = (LoadOptions(loras=LoraFolder.of(tmp_path / "loras", text)) for text in ("film:0.8", "ink"))
    models = registry.load_models(str(tmp_path / "sd"), "fake", "cpu", options=found)
    assert models.generator.info.loras == FILM
    with pytest.raises(ModelUnsupported, match="no LoRA adapter 'ink'"):
        registry.load_models(str(tmp_path / "sd"), "fake", "cpu", options=absent)
