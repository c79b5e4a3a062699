"""The rules of import hold, torch stays behind its border, and the packages are ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import app
import frontrunner
import models

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "open_clip", "timm", "accelerate")


def test_import_contracts_are_kept() -> None:
    found = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout


def test_the_service_starts_without_torch() -> None:
    imported = "app.main, app.cli, app.cli.serve, models.synthetic.generator, models.synthetic.scorer"
    imported += ", models.generators.remote.generator"
    code = f"import sys, {imported}; print({HEAVY} & sys.modules.keys())"
    code = code.replace(f"{HEAVY}", f"set({HEAVY})")
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_the_packages_are_this_repositorys() -> None:
    for package in (app, frontrunner, models):
        assert package.__file__ is not None
        assert Path(package.__file__).is_relative_to(ROOT)
