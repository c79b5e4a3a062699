"""The devices of a process: how they are written, and which engine they lead to."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.engine.cluster.devices import parse_devices, worker_names
from app.engine.cluster.engine import ClusterEngine
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.model_loading import make_engine
from app.settings import Settings, format_errors
from tests.unit import cluster_kit as kit


@pytest.mark.parametrize(
    ("text", "devices", "names"),
    [
        ("", (), ()),
        ("cuda:0,cuda:1", ("cuda:0", "cuda:1"), ("cuda:0", "cuda:1")),
        (" cpu*2 ", ("cpu", "cpu"), ("cpu#1", "cpu#2")),
        ("cuda:3, cpu*2,cuda:3", ("cuda:3", "cpu", "cpu", "cuda:3"), ("cuda:3#1", "cpu#1", "cpu#2", "cuda:3#2")),
        ("auto*1", ("auto",), ("auto",)),
    ],
)
def test_devices_are_listed_or_counted(text: str, devices: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert parse_devices(text) == devices
    assert worker_names(devices) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu0", "'gpu0' is no device; use auto, cpu"),
        ("cuda:0;cuda:1", "is no device"),
        ("cuda:-1", "is no device"),
        ("cpu*", "is no device"),
        ("cpu*two", "is no device"),
        ("cpu * 2", "is no device"),
        ("cpu*0", "the count must be from 1 to 64"),
        ("cpu*65", "the count must be from 1 to 64"),
        ("cpu*40,cuda:0*40", "names 80 workers; use at most 64"),
        (",", "names no device; use auto, cpu"),
    ],
)
def test_settings_refuse_other_words_and_name_the_accepted_ones(text: str, message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        Settings(devices=text)
    (line,) = format_errors(refused.value)
    assert line.startswith("FRONTRUNNER_DEVICES: ")
    assert message in line


@pytest.mark.parametrize(
    ("given", "kind", "loaded"),
    [
        ({}, LocalEngine, ["auto"]),
        ({"device": "cuda:1"}, LocalEngine, ["cuda:1"]),
        ({"devices": "cuda:2"}, LocalEngine, ["cuda:2"]),
        ({"device": "cuda", "devices": "cuda:0,cuda:1"}, ClusterEngine, ["cuda:0", "cuda:1"]),
    ],
)
def test_only_several_devices_make_a_cluster(given: dict[str, str], kind: type, loaded: list[str]) -> None:
    settings = Settings(**given)  # type: ignore[arg-type]
    engine = make_engine(settings, lambda *_: kit.models(), EngineConfig(), lambda _: None, attempts=2)
    assert type(engine) is kind
    assert list(settings.workers) == loaded
