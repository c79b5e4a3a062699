"""The size of loaded weights, by which several models share memory."""

from __future__ import annotations

import pytest

from models import registry
from models.families import SharedScorers

pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def test_every_weight_counts_once_on_every_path() -> None:
    native = registry.load_models("pictogram", "pictogram", "cpu", mode="native")
    gate = registry.load_models("pictogram", "pictogram", "cpu", mode="gate")
    assert native.weight_bytes == gate.weight_bytes > registry.estimate_bytes("pictogram") > 0


def test_models_that_name_one_scorer_share_it_and_their_generators_have_names() -> None:
    shared = SharedScorers()
    first, second = (
        registry.load_models("pictogram", "pictogram", "cpu", called=name, shared=shared) for name in ("a", "b")
    )
    assert first.scorer is second.scorer
    assert first.generator is not second.generator
    assert [models.generator.info.id for models in (first, second)] == ["a", "b"]
    assert first.generator.info.revision == second.generator.info.revision
    assert first.calibration == second.calibration is not None
