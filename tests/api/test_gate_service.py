"""FLUX behind the gate and by its native loop, served: raced, pruned, stored, refined, cancelled."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.protocols import Models
from models.synthetic.scorer import FakeScorer
from tests.api.kit import House, running, until

pytestmark = [pytest.mark.torch, pytest.mark.timeout(400)]

SIZE = 32
ASKED = {"prompt": "a red apple", "n_candidates": 6, "n": 1, "steps": 4, "seed": 7, "size": f"{SIZE}x{SIZE}"}
LEVELS = 2


class Served:
    """The service and the stock pipeline that it runs."""

    def __init__(self, path: str) -> None:
        self.pipe: Any = None
        self.path = path

    def load(self) -> Models:
        """On the engine's thread."""
        from models.generators.gate.generator import PipelineGate
        from models.generators.native import NativeGenerator
        from models.runtime.placement import select_device
        from tests.contract.families import FAMILIES

        self.pipe = FAMILIES["flux"].build("flux")
        defaults = {"width": SIZE, "height": SIZE, "steps": 4}
        kind: Any = {"gate": PipelineGate, "native": NativeGenerator}[self.path]
        return Models(kind(self.pipe, select_device("cpu"), id="tiny-flux", defaults=defaults), FakeScorer())

    def stock(self, prompt: str, seed: int, steps: int) -> Any:
        import torch

        with torch.inference_mode():
            drawn = torch.Generator().manual_seed(seed)
            return self.pipe(
                prompt, num_inference_steps=steps, width=SIZE, height=SIZE, guidance_scale=3.5, generator=drawn
            ).images[0]


@pytest.fixture(scope="module", params=["gate", "native"])
def served(request: pytest.FixtureRequest) -> Served:
    return Served(request.param)


@pytest.fixture(scope="module")
def house(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with running(tmp_path_factory.mktemp("gate"), load=served.load, ready_s=240.0, buckets=(4,)) as house:
        yield house


def made(house: House, **asked: Any) -> dict[str, Any]:
    answer = house.post(json={**ASKED, **asked}, timeout=60)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def picture(house: House, generation: str, index: int) -> Any:
    answer = house.client.get(f"/v1/generations/{generation}/images/{index}", params={"format": "png"})
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"), np.int16)


def test_the_model_says_what_it_is(house: House) -> None:
    (model,) = [each for each in house.client.get("/v1/models").json()["data"] if each["id"] == "tiny-flux"]
    found = model["generator"]
    assert (found["guidance"], found["negative_prompts"], found["sampler"]) == ("embedded", False, "flow_match_euler")
    assert found["prediction_type"] == "flow"


def test_a_pruned_race_returns_the_stock_pipelines_picture(house: House, served: Served) -> None:
    body = made(house, pruning=[{"at": 2, "keep": 2}])
    pruned = [each["index"] for each in body["candidates"] if each["pruned_at_step"] == 2]
    assert len(pruned) == 4
    assert body["work"]["rows_stepped"] == 6 * 2 + 2 * 2
    (winner,) = [each for each in body["candidates"] if each["rank"] == 1]
    wanted = np.asarray(served.stock(str(ASKED["prompt"]), winner["seed"], 4).convert("RGB"), np.int16)
    assert np.abs(picture(house, body["id"], winner["index"]) - wanted).max() <= LEVELS
    assert picture(house, body["id"], pruned[0]).shape == (SIZE, SIZE, 3), "decoded from what was stored"


def test_a_negative_prompt_that_cannot_steer_is_told(house: House) -> None:
    body = made(house, n_candidates=1, negative_prompt="blue")
    assert "negative_prompt_not_steering" in [warning["code"] for warning in body["warnings"]]


def test_requests_of_other_prompts_and_steps_share_calls(house: House) -> None:
    engine = house.app.state.engine
    before = engine.stats()
    with ThreadPoolExecutor(4) as pool:
        prompts = ("a red apple", "two green cars in a street", "dog", "a blue boat")
        asked = [
            pool.submit(made, house, prompt=prompt, n_candidates=2, steps=5 + i) for i, prompt in enumerate(prompts)
        ]
        bodies = [each.result() for each in asked]
    after = engine.stats()
    rows, calls = after.rows_stepped - before.rows_stepped, after.denoiser_calls - before.denoiser_calls
    assert rows == sum(body["work"]["rows_stepped"] for body in bodies)
    assert rows / calls > 2, "no call held rows of several requests"


def test_a_picture_is_refined(house: House) -> None:
    root = made(house, n_candidates=2)
    url = f"/v1/generations/{root['id']}/refine"
    answer = house.post(url, json={"index": 0, "strength": 0.25, "n_candidates": 2}, timeout=60)
    assert answer.status_code == 200, answer.text
    assert answer.json()["work"]["rows_stepped"] == 2 * 1
    near, far = (np.abs(picture(house, body["id"], 0) - picture(house, root["id"], 0)).mean() for body in
                 (answer.json(), made(house, n_candidates=1, seed=99)))  # fmt: skip
    assert near < far


def test_a_cancelled_request_leaves_no_run(house: House) -> None:
    import gc

    from models.generators.gate.stage import CandidateRun

    queued = house.post(json={**ASKED, "steps": 150, "n_candidates": 4}, headers={"prefer": "respond-async"})
    assert queued.status_code == 202
    until(lambda: house.app.state.engine.stats().running > 0, 30)
    assert house.client.delete(queued.headers["location"]).status_code < 300
    until(lambda: house.live == 0, 30)
    made(house, n_candidates=1)
    runs = (each for each in gc.get_objects() if type(each) is CandidateRun)
    assert all(run.lost for run in runs)
