"""Modular pipelines by hub id and by folder: a local cache in the place of the hub, read by the real client offline."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from models import registry
from models.errors import ModelNotFound, ModelUnsupported
from models.load_options import LoadOptions
from tests.contract.families import FAMILIES

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB_ID = "owner/tiny-flux"

LOAD = """
import sys
from models import registry
from models.errors import ModelError
from models.protocols import StepRow
try:
    made = registry.load_models(sys.argv[1], "fake", "cpu").generator
except ModelError as error:
    print(type(error).__name__, error)
    sys.exit(3)
schedule = made.schedule(made.info.sampler, 1, 32, 32)
(prompt,) = made.encode(["a red apple"])
(latent,) = made.step([StepRow(made.noise(3, 32, 32, schedule), prompt, None, 3.5, schedule, 0, 3)], 1)
print(made.info.id, tuple(made.decode([latent]).shape))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modular") / "saved"
    FAMILIES["modular_flux"].build("modular_flux").save_pretrained(str(folder), overwrite_modular_index=True)
    return folder


def hub(cache: Path, saved: Path, *, points_at: str = HUB_ID) -> Path:
    """The client's cache with this pipeline as the hub has it; returns the snapshot's folder."""
    repository = cache / f"models--{HUB_ID.replace('/', '--')}"
    snapshot = repository / "snapshots" / REVISION
    shutil.copytree(saved, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(REVISION)
    point(snapshot, points_at)
    return snapshot


def point(folder: Path, place: str) -> None:
    index = json.loads((folder / "modular_model_index.json").read_text())
    for part in index.values():
        if isinstance(part, list):
            part[2]["pretrained_model_name_or_path"] = place
    (folder / "modular_model_index.json").write_text(json.dumps(index))


def loading(cache: Path, name: str = HUB_ID) -> tuple[int, str]:
    environment = {**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, name],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert found.returncode in {0, 3}, found.stderr
    return found.returncode, found.stdout.strip().splitlines()[-1]


@pytest.mark.soak
def test_a_modular_pipeline_comes_from_the_hub(tmp_path: Path, saved: Path) -> None:
    hub(tmp_path, saved)
    assert loading(tmp_path) == (0, f"{HUB_ID} (1, 32, 32, 3)")


@pytest.mark.soak
def test_a_missing_part_and_a_missing_repository_are_told(tmp_path: Path, saved: Path) -> None:
    shutil.rmtree(hub(tmp_path, saved) / "vae")
    code, told = loading(tmp_path)
    assert code == 3
    assert told == f"ModelNotFound generator '{HUB_ID}': parts of the modular pipeline are missing or unreadable: vae"
    code, told = loading(tmp_path, "owner/nothing")
    assert (code, told) == (
        3,
        "ModelNotFound generator 'owner/nothing': not on the hub, or the hub is unreachable; "
        "check its name and your connection, or use a folder",
    )


def test_a_folder_may_be_moved(tmp_path: Path, saved: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(saved, moved)
    point(moved, "/nowhere/before")
    assert registry.load_models(str(moved), "fake", "cpu").generator.info.id == "moved"
    for options, told in (
        (LoadOptions(gguf="x.gguf"), "takes no GGUF file"),
        (LoadOptions(quantization="bitsandbytes-nf4"), "bitsandbytes does not quantise modular"),
    ):
        with pytest.raises(ModelUnsupported, match=told):
            registry.load_models(str(moved), "fake", "cpu", options=options)
    (moved / "modular_model_index.json").write_text("{}")
    with pytest.raises((ModelUnsupported, ModelNotFound), match="generator 'moved'"):
        registry.load_models(str(moved), "fake", "cpu")
