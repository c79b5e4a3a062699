"""Every implementation of the two protocols, made once a session. torch is imported only by those that need it."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models lose more to waiting threads than they win

from models.families import LoadContext
from models.protocols import Embedder, Models, StepwiseGenerator
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer

FAKES = ["fake-epsilon", "fake-v_prediction", "fake-sample"]
REAL = ["sd-epsilon", "sd-v_prediction", "sd-sample", "sdxl", "pictogram"]


TWINS = ("sd-v_prediction", "sd-sample")
"""Builds that differ from `sd-epsilon` in what they predict.

The fakes differ likewise, so most tests of these builds are in the soak run.
"""


def _torch(names: list[str], soak: Sequence[str] = ()) -> list[Any]:
    return [pytest.param(name, marks=[pytest.mark.torch, *[pytest.mark.soak] * (name in soak)]) for name in names]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The schedulers of diffusers hand torch tensors to NumPy 2 in a way that NumPy warns of."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"))


class Workshop:
    """Builds each model once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pack: Models | None = None
        self._pipes: dict[str, Any] = {}
        self._precise: dict[str, Any] = {}
        self._made: dict[str, Any] = {}

    @property
    def pack(self) -> Models:
        """The embedded pack, through the registry."""
        from models import registry

        self._pack = self._pack or registry.load_models("pictogram", "pictogram", "cpu")
        return self._pack

    def pipe(self, name: str) -> Any:
        """The stock pipeline behind a real generator."""
        if name not in self._pipes:
            self._pipes[name] = self._build(name)
            self._pipes[name].set_progress_bar_config(disable=True)
        return self._pipes[name]

    def precise(self, name: str) -> Any:
        """The same in double precision: what every loop in float32 only approaches."""
        if name not in self._precise:
            made = self._precise[name] = copy.deepcopy(self.pipe(name))
            for part in made.components.values():
                if hasattr(part, "double"):
                    part.double()
        return self._precise[name]

    def _build(self, name: str) -> Any:
        if name == "pictogram":
            from models.generators.pipelines import load
            from models.pack import packs
            from models.runtime.placement import load_text_encoder, prepare_process, select_device

            prepare_process()
            pack, placement = packs()[name], select_device("cpu")
            return load(pack.generator, placement, load_text_encoder(pack, placement))[0]
        from tests.contract import tiny

        kind, _, prediction = name.partition("-")
        return tiny.sdxl(self._folder / name) if kind == "sdxl" else tiny.sd(self._folder / name, prediction)

    def generator(self, name: str) -> StepwiseGenerator:
        """A generator by the names above."""
        if name.startswith("fake-"):
            return FakeGenerator(prediction_type=name.removeprefix("fake-"), token_limit=16)
        if name == "pictogram":
            return self.pack.generator
        if name not in self._made:
            from models.generators.native import NativeGenerator

            self._made[name] = NativeGenerator(self.pipe(name), self._shared(), id=name)
        made: StepwiseGenerator = self._made[name]
        return made

    def scorer(self, name: str) -> Embedder:
        """`fake`, `tiny`, `tiny-hf` or `pictogram`."""
        if name == "fake":
            return FakeScorer()
        if name == "pictogram":
            return self.pack.scorer
        if name == "tiny-hf" and name not in self._made:
            from models.scorers.transformers_clip import load_transformers
            from tests.contract import tiny_scorers

            self._made[name] = load_transformers(tiny_scorers.hf_clip(self._folder / name), name, self._shared())
        if name not in self._made:
            from models.scorers.open_clip import load_open_clip
            from tests.contract import tiny

            self._made[name] = load_open_clip(tiny.clip(self.clip_folder), "tiny", self._shared())
        made: Embedder = self._made[name]
        return made

    def _shared(self) -> Any:
        """The host, its calls shared by two threads; the pack's are made on one."""
        from models.runtime.placement import prepare_process, select_device
        from models.runtime.row_parallel import RowParallel

        prepare_process()
        return replace(select_device("cpu"), parallel=RowParallel(2))

    @property
    def clip_folder(self) -> Path:
        """Where the tiny CLIP is."""
        return self._folder / "clip"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("models"))


@pytest.fixture(params=[*FAKES, *_torch(REAL, TWINS)])
def generator(request: pytest.FixtureRequest, workshop: Workshop) -> StepwiseGenerator:
    """Any generator."""
    return workshop.generator(request.param)


@pytest.fixture(params=_torch(REAL))
def real(request: pytest.FixtureRequest) -> str:
    """The name of a generator that has a stock pipeline."""
    return str(request.param)


@pytest.fixture(params=["fake", *_torch(["tiny", "tiny-hf", "pictogram"])])
def scorer(request: pytest.FixtureRequest, workshop: Workshop) -> Embedder:
    """Any scorer."""
    return workshop.scorer(request.param)


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> LoadContext:
    """What loaders of single models get, without a network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return LoadContext("cpu", "auto", None)
