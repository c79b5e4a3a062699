"""Models that only another replica serves, on every route."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.api.kit import PROMPT, is_problem, running
from tests.models_kit import FakeModel, Shelf


@pytest.mark.slow
def test_no_route_refuses_a_model_that_another_replica_has_just_announced(tmp_path: Path) -> None:
    here, there = Shelf(FakeModel("here")), Shelf(FakeModel("there"))
    title = {"sd_model_checkpoint": "there.safetensors [0123456789]"}
    apple = {"prompt": "a red apple"}
    with running(tmp_path, registry=here.registry) as one:
        roster = one.app.state.services.models._roster
        with running(tmp_path, registry=there.registry):
            made = one.made(model="there", n=1)
            of_parent = f"/v1/generations/{made['id']}/refine"
            for path, body in (
                ("/v1/generations", {**PROMPT, "model": "there"}),
                ("/v1/batches", {"requests": [{**PROMPT, "model": "there"}] * 3}),
                ("/v1/images/generations", {**apple, "model": "there"}),
                ("/sdapi/v1/txt2img", {**apple, "steps": 4, "override_settings": title}),
                ("/sdapi/v1/options", title),
                (of_parent, {"index": 0, "n_candidates": 2, "steps": 4}),
                ("/v1/models/there", None),
                ("/v1/models", None),
                ("/sdapi/v1/sd-models", None),
            ):
                roster._elsewhere = {}  # as the last look found it, before the other replica was ready
                answer = one.client.get(path) if body is None else one.post(path, json=body)
                assert answer.is_success, (path, answer.text)
                assert body is not None or "there" in answer.text
        before = time.monotonic()
        unknown = [{**PROMPT, "model": f"none-{number}"} for number in range(20)]
        problem = is_problem(one.post("/v1/batches", json={"requests": unknown}), 422, "invalid_request")
        assert len(problem["errors"]) == 20
        assert roster._looked > before


@pytest.mark.slow
def test_a_replica_that_stops_withdraws_its_models(tmp_path: Path) -> None:
    here, there = Shelf(FakeModel("here")), Shelf(FakeModel("there"))
    with running(tmp_path, registry=here.registry) as one:
        with running(tmp_path, registry=there.registry):
            assert one.made(model="there", n=1)["model"] == "there"
        listed = [model["id"] for model in one.client.get("/v1/models").json()["data"]]
        assert "there" not in listed
        is_problem(one.post(json={**PROMPT, "model": "there"}), 404, "not_found", "#/model")
