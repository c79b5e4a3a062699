"""Comparing adapters of a tiny pipeline, and serving what tuning wrote."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.errors import ModelUnsupported
from models.loras import LoraFolder
from models.protocols import Pixels
from models.protocols.values import WholeImages
from models.synthetic.generator import FakeGenerator
from models.tuning import state
from models.tuning.compare import BASE, Adapter, compare, lora_folder
from models.tuning.rewards import Scores
from models.tuning.run import tune
from models.tuning.settings import TuningError, TuningSettings
from tests.contract.tuning_kit import QUICK, opinion, red_share, redness, task, tiny

pytestmark = [pytest.mark.torch, pytest.mark.slow]

FAMILY = "stable_diffusion_3"
OPINIONS = opinion("redness", redness), opinion("red share", red_share)
RACE = TuningSettings(evaluated=2, rows=4, steps=2, guidance=1.0)
PROMPTS = list("abcdefgh")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loras") / "reds"
    tune(task(tiny(FAMILY), out, replace(QUICK, iterations=1)))
    return out


def test_a_server_offers_the_result_by_its_folder(tuned: Path) -> None:
    folder = LoraFolder(tuned.parent)
    assert folder.names == ("reds",)
    assert folder.file("reds") == tuned / state.ADAPTER


def test_an_adapter_races_the_base(tuned: Path) -> None:
    pair = Adapter.of("a", str(tuned)), Adapter.of("b", BASE)
    with lora_folder(pair) as folder:
        found = compare(tiny(FAMILY, folder), pair, PROMPTS, OPINIONS, RACE)
    for name in ("pairs", "best"):
        low, high = found[name]["interval"]
        assert 0 <= low <= found[name]["win_rate"] <= high <= 1
    assert found["difference"]["mean"] != 0
    assert (found["prompts"], found["candidates"]) == (8, 2)


def test_equal_adapters_win_half(tuned: Path) -> None:
    pair = Adapter.of("a", str(tuned)), Adapter.of("b", str(tuned / state.ADAPTER))
    with lora_folder(pair) as folder:
        found = compare(tiny(FAMILY, folder), pair, PROMPTS, OPINIONS, RACE)
    assert (found["pairs"]["win_rate"], found["best"]["win_rate"]) == (0.5, 0.5)


def test_candidates_without_a_number_decide_nothing(tuned: Path) -> None:
    def holed(prompt: str, images: Pixels) -> Scores:
        found = red_share(prompt, images)
        found[0] = np.nan
        return found

    pair = Adapter.of("a", str(tuned)), Adapter.of("b", str(tuned / state.ADAPTER))
    with lora_folder(pair) as folder:
        found = compare(tiny(FAMILY, folder), pair, PROMPTS, (OPINIONS[0], opinion("holed", holed)), RACE)
    assert (found["pairs"]["win_rate"], found["best"]["win_rate"]) == (0.5, 0.5)
    assert found["difference"]["mean"] == 0.0


def test_rates_without_a_pair_are_null(tuned: Path) -> None:
    def one_side(prompt: str, images: Pixels) -> Scores:
        found = red_share(prompt, images)
        found[calls.pop()] = np.nan
        return found

    calls = [1, 0] * len(PROMPTS)
    pair = Adapter.of("a", str(tuned)), Adapter.of("b", BASE)
    with lora_folder(pair) as folder:
        found = compare(tiny(FAMILY, folder), pair, PROMPTS, (OPINIONS[0], opinion("one side", one_side)), RACE)
    assert found["pairs"] == {"win_rate": None, "interval": None, "prompts": 0}
    assert found["best"]["prompts"] == len(PROMPTS)


def test_an_adapter_of_another_revision_is_refused(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / state.ADAPTER).write_bytes((tuned / state.ADAPTER).read_bytes())
    (tmp_path / state.REPORT).write_text(json.dumps({"generator": {"revision": "other"}}))
    pair = Adapter.of("a", str(tmp_path)), Adapter.of("b", BASE)
    with pytest.raises(TuningError, match="was tuned on revision other"), lora_folder(pair) as folder:
        compare(tiny(FAMILY, folder), pair, PROMPTS, OPINIONS, RACE)


def test_an_adapter_of_another_base_is_refused(tuned: Path, tmp_path: Path) -> None:
    (tmp_path / state.ADAPTER).write_bytes((tuned / state.ADAPTER).read_bytes())
    pair = Adapter.of("a", str(tmp_path)), Adapter.of("b", BASE)
    with pytest.raises(ValueError, match="cannot be used with this model"), lora_folder(pair) as folder:
        compare(tiny("latent_consistency", folder), pair, PROMPTS, OPINIONS, RACE)


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    for place in (str(tmp_path), str(tmp_path / "none"), __file__):
        with pytest.raises(TuningError, match="is no adapter"):
            Adapter.of("a", place)


def test_generators_that_cannot_race_adapters_are_refused(tmp_path: Path) -> None:
    fake = FakeGenerator()
    (tmp_path / "a.safetensors").touch()
    pair = Adapter.of("a", str(tmp_path / "a.safetensors")), Adapter.of("b", BASE)
    with pytest.raises(ModelUnsupported, match="takes no LoRA adapters"):
        compare(fake, pair, PROMPTS, OPINIONS, RACE)
    vars(fake)["_info"] = replace(fake.info, whole_images=WholeImages())
    with pytest.raises(ModelUnsupported, match="is remote"):
        compare(fake, (pair[1], pair[1]), PROMPTS, OPINIONS, RACE)


def test_few_prompts_are_refused() -> None:
    pair = Adapter.of("a", BASE), Adapter.of("b", BASE)
    with pytest.raises(TuningError, match="1 different prompts are too few"):
        compare(tiny(FAMILY), pair, ["a", "a"], OPINIONS, RACE)
