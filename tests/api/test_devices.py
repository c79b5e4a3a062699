"""The service on several devices: the same answers as on one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from app.engine.config import EngineConfig
from app.engine.registry import ModelRegistry
from app.model_loading import make_engine
from app.settings import Settings
from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from models.synthetic.steering import FakeSteering
from tests.api.kit import House, events, running, until
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

ASKED: dict[str, Any] = {
    "n_candidates": 24,
    "n": 3,
    "steps": 8,
    "pruning": [{"at": 3, "keep": 12}, {"at": 5, "keep": 6}],
}


@contextmanager
def on_devices(folder: Path, devices: str, delay_s: float = 0.0) -> Iterator[House]:
    def load(*_: object) -> Models:
        return Models(InstrumentedGenerator(delay_s=delay_s), FakeScorer(), steering=FakeSteering())

    config = EngineConfig(warmup_s=0.0)
    engine = make_engine(Settings(devices=devices), load, config, lambda _: None, attempts=2)
    with running(folder, registry=ModelRegistry.of_one(engine)) as house:
        yield house


def ranking(answer: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [(c["index"], c["seed"], c["rank"], c["score"], c["pruned_at_step"]) for c in answer["candidates"]]


def test_answers_are_those_of_one_device(tmp_path: Path) -> None:
    """Plain, pruned, seen again, ranked again, refined."""
    answers: list[list[Any]] = []
    for devices in ("cpu", "cpu*3"):
        with on_devices(tmp_path / devices[-1], devices) as house:
            found: list[Any] = [ranking(house.made(n_candidates=20)), ranking(made := house.made(**ASKED))]
            url = f"/v1/generations/{made['id']}"
            pruned = next(c["index"] for c in made["candidates"] if c["pruned_at_step"] is not None)
            found += [house.client.get(f"{url}/images/{index}").content for index in (made["data"][0]["index"], pruned)]
            found.append(ranking(house.post(f"{url}/rerank", json={"ranking": {"prompt": "a green pear"}}).json()))
            refined = house.post(f"{url}/refine", json={"index": 0, "strength": 0.5, "n_candidates": 9, "seed": 5})
            assert refined.status_code == 200, refined.text
            found.append(ranking(refined.json()))
            answers.append(found)
    assert answers[0] == answers[1]


def test_streams_cancels_and_metrics_work_over_workers(tmp_path: Path) -> None:
    with on_devices(tmp_path, "cpu*2", delay_s=0.005) as house:
        accept = {"accept": "text/event-stream"}
        streamed = house.post(json={"prompt": "a red apple", "seed": 1, **ASKED}, headers=accept)
        kinds = [kind for kind, _, _ in events(streamed.text)]
        assert kinds[-1] == "succeeded"
        assert kinds.count("pruned") == 2
        long = house.queued(n_candidates=32, steps=100)
        until(lambda: house.app.state.engine.stats().running > 0)
        assert house.client.delete(f"/v1/generations/{long['id']}").is_success
        until(lambda: house.app.state.engine.stats().running == 0)
        metrics = house.client.get("/metrics").text
    assert "frontrunner_workers 2.0" in metrics
    assert "frontrunner_workers_ready 2.0" in metrics
