"""The Python client, for threads and for coroutines, against a live service."""

from __future__ import annotations

import asyncio
import inspect
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

import frontrunner
from frontrunner import AsyncClient, Client, Event, GenerationFailed, InvalidRequest, NotFound, data_uri
from tests.api.kit import House, running, until
from tests.clients.kit import PROMPT, Breaking, connected
from tests.synthetic_models import InstrumentedGenerator

pytestmark = pytest.mark.slow

BOTH = pytest.mark.parametrize("kind", ["sync", "async"])
SLOW: Any = {"prompt": "a red apple", "n_candidates": 8, "steps": 150}


@pytest.fixture(params=["sync", "async"])
def client(request: pytest.FixtureRequest, house: House) -> Iterator[Client]:
    with connected(request.param, house.url) as it:
        yield it


def _picture(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_generate_waits_and_shows_progress(client: Client) -> None:
    seen: list[Event] = []
    done = client.generate(**PROMPT, n=2, on_event=seen.append)
    assert done["status"] == "succeeded"
    assert [image["rank"] for image in done["data"]] == [1, 2]
    assert [event.id for event in seen] == list(range(1, len(seen) + 1))
    assert (seen[0].kind, seen[-1].kind, seen[-1].generation) == ("queued", "succeeded", done)
    progress = [event.progress for event in seen if event.progress is not None]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert len(progress) > 1
    assert progress[:-1] == [event.data["progress"] for event in seen if "progress" in event.data][: len(progress) - 1]
    assert done == client.get(done["id"])


def test_in_the_background(client: Client) -> None:
    queued = client.submit(**PROMPT)
    assert queued["status"] in {"queued", "running", "succeeded"}
    done = client.wait(queued["id"])
    assert [event.kind for event in client.follow(done["id"], after=1)][-1] == "succeeded"
    assert list(client.follow(done["id"], after=1000)) == []
    client.delete(done["id"])
    with pytest.raises(NotFound) as caught:
        client.get(done["id"])
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    assert caught.value.request_id


def test_a_dialogue(client: Client, house: House) -> None:
    made = client.generate(**PROMPT)
    again = client.rerank(made["id"], ranking={"prompt": "a blue boat"}, n=3)
    assert (again["ranking"]["prompt"], len(again["data"])) == ("a blue boat", 3)
    stored = client.rerank(made["id"], n=2, store=True)
    assert stored["id"] != made["id"]
    refined = client.refine(stored["id"], index=1, strength=0.5, n_candidates=2)
    assert [one["id"] for one in client.lineage(refined["id"])["data"]] == [made["id"], stored["id"], refined["id"]]
    *_, last = client.stream_refine(made["id"], image=data_uri(_picture("red")), n_candidates=1, output_format="webp")
    assert last.generation is not None
    assert last.generation["strength"] == 0.5
    why = client.explain(made["id"], 0, prompt="a red apple, in oil")
    assert [phrase["text"] for phrase in why["phrases"]] == ["a red apple", "in oil"]
    assert client.heat_map(made["id"], 0, "apple").startswith(b"\x89PNG")
    assert client.image(made["id"], 2) == house.client.get(f"/v1/generations/{made['id']}/images/2").content
    small = Image.open(io.BytesIO(client.image(made["id"], 2, file_format="webp", size="32x32")))
    assert (small.format, small.size) == ("WEBP", (32, 32))


def test_lists(client: Client) -> None:
    made = [client.submit(**{**PROMPT, "n_candidates": 1})["id"] for _ in range(3)]
    for one in made:
        client.wait(one)
    first = client.page(limit=2, status=["succeeded", "failed"])
    assert ([one["id"] for one in first["data"]], first["has_more"]) == ([made[2], made[1]], True)
    assert client.page(limit=1, after=first["next"])["data"][0]["id"] == made[0]
    assert client.page(status="queued")["data"] == []
    everything = list(client.generations(status="succeeded", created_after=0))
    assert [one["id"] for one in everything[:3]] == made[::-1]
    assert len(everything) > 2


def test_batches(client: Client) -> None:
    asked: Any = [{**PROMPT, "n_candidates": 1}, {"prompt": "x", "size": "65x64"}]
    with pytest.raises(InvalidRequest) as refused:
        client.submit_batch(requests=asked)
    assert refused.value.errors[0].get("pointer") == "#/requests/1/size"
    batch = client.submit_batch(requests=asked, on_error="skip", idempotency_key=f"batch-{type(client).__name__}")
    done = client.wait_batch(batch["id"], every_s=0.05)
    assert (done["status"], done["counts"]["succeeded"], done["counts"]["refused"]) == ("succeeded", 1, 1)
    assert client.get(done["entries"][0]["id"] or "")["status"] == "succeeded"
    assert client.batches(limit=1)["data"][0]["id"] == batch["id"]
    assert client.cancel_batch(batch["id"])["status"] == "succeeded"
    client.delete_batch(batch["id"])
    with pytest.raises(NotFound):
        client.batch(batch["id"])


def test_taste(client: Client) -> None:
    made = client.generate(**PROMPT)
    voted = client.vote("a.b", generation=made["id"], liked=[0], preferred=[[1, 2]])
    assert client.taste("a.b") == voted
    assert (voted["liked"], voted["preferred"]) == (1, 1)
    client.delete_taste("a.b")
    with pytest.raises(NotFound):
        client.taste("a.b")


def test_images_and_texts_of_ones_own(client: Client, tmp_path: Path) -> None:
    (tmp_path / "blue.png").write_bytes(_picture("blue"))
    images: list[Any] = [tmp_path / "blue.png", _picture("red"), io.BytesIO(b"no image")]
    found = client.rank("red", images, ranking={"negatives": [{"text": "blue"}]}, on_error="skip")
    assert [image["index"] for image in found["data"]] == [1, 0]
    assert [skipped["index"] for skipped in found["skipped"]] == [2]
    assert found["data"][0]["negatives"][0]["text"] == "blue"
    vectors = client.embed(input=["red", {"image": data_uri(_picture("red"))}])
    assert len(vectors["data"]) == 2
    ranked = client.rerank_documents(query="red", documents=["blue", "red"], top_n=1)
    assert [one["index"] for one in ranked["results"]] == [1]
    assert client.models()["data"][0]["id"] == "fake"
    assert client.presets()["data"]


def test_invalid_requests_name_the_field(client: Client) -> None:
    with pytest.raises(InvalidRequest, match="65") as caught:
        client.generate(**PROMPT, size="65x64")
    assert (caught.value.status, caught.value.code) == (422, "invalid_request")
    assert caught.value.errors[0].get("pointer") == "#/size"
    with pytest.raises(InvalidRequest) as unreadable:
        client.rank("x", [b"no image"])
    assert unreadable.value.code == "bad_image"


def test_a_line_separator_in_a_prompt_ends_no_line(client: Client) -> None:
    asked: Any = {**PROMPT, "prompt": "a red\u2028apple"}
    assert client.generate(**asked)["prompt"] == "a red\u2028apple"


@BOTH
def test_a_broken_stream_is_resumed(kind: str, house: House) -> None:
    wire = Breaking(cuts=2)
    with connected(kind, house.url, wire) as client:
        events = list(client.stream(**PROMPT))
    assert [event.id for event in events] == list(range(1, len(events) + 1))
    assert events[-1].kind == "succeeded"
    assert [request.method for request in wire.requests] == ["POST", "GET", "GET"]
    assert [request.headers.get("last-event-id") for request in wire.requests] == [None, "2", "4"]


@BOTH
def test_files_in_events_survive_a_break(kind: str, house: House) -> None:
    wire, before = Breaking(cuts=1), len(house.generator.calls)
    with connected(kind, house.url, wire) as client:
        done = client.generate(**PROMPT, response_format="b64_json")
    assert done["data"][0]["b64_json"]
    assert [request.method for request in wire.requests] == ["POST", "POST"]
    assert len({request.headers["idempotency-key"] for request in wire.requests}) == 1
    assert sum(house.generator.calls[before:]) == 3 * 4


@BOTH
def test_a_stream_that_never_brings_an_event_is_given_up(kind: str, house: House) -> None:
    wire = Breaking(cuts=99, after=0)
    with connected(kind, house.url, wire) as client, pytest.raises(frontrunner.ConnectionFailed, match="broke"):
        list(client.stream(**PROMPT))
    assert len(wire.requests) == 3


@BOTH
def test_closing_a_stream_cancels(kind: str, tmp_path: Path) -> None:
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as house, connected(kind, house.url) as client:
        events = client.stream(**SLOW)
        assert next(events).kind == "queued"
        assert house.live
        events.close()
        until(lambda: house.live == 0)
        submitted = client.submit(**SLOW)
        follower = client.follow(submitted["id"])
        next(follower)
        follower.close()
        assert client.get(submitted["id"])["status"] in {"queued", "running"}


@pytest.mark.anyio
async def test_a_cancelled_task_cancels_its_generation(tmp_path: Path) -> None:
    with running(tmp_path, InstrumentedGenerator(delay_s=0.05)) as house:
        async with AsyncClient(house.url) as client:
            started = asyncio.Event()
            task = asyncio.create_task(client.generate(**SLOW, on_event=lambda _: started.set()))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await asyncio.to_thread(until, lambda: house.live == 0)


@BOTH
def test_a_failed_generation_is_an_error(kind: str, tmp_path: Path) -> None:
    with running(tmp_path, InstrumentedGenerator(fail_on_call=1)) as house, connected(kind, house.url) as client:
        with pytest.raises(GenerationFailed, match=r"gen_") as caught:
            client.generate(**PROMPT)
        assert caught.value.generation["status"] == "failed"
        assert caught.value.code == client.get(caught.value.generation["id"])["error"]["code"]  # type: ignore[index]


def test_under_a_path_and_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={})

    monkeypatch.setenv("FRONTRUNNER_KEY", "fr_1")
    for url, key in (("https://a.example/images/v1/", None), ("https://a.example/images", "fr_2")):
        Client(url, key, http=httpx.Client(transport=httpx.MockTransport(answer))).get("gen_x/../../y")
    assert {str(request.url) for request in sent} == {"https://a.example/images/v1/generations/gen_x%2F..%2F..%2Fy"}
    assert [request.headers["authorization"] for request in sent] == ["Bearer fr_1", "Bearer fr_2"]


def test_both_forms_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = {name.removeprefix("a") if name == "aclose" else name: value for name, value in vars(kind).items()}
        return {
            n: list(inspect.signature(v).parameters) for n, v in found.items() if callable(v) and not n.startswith("_")
        }

    assert methods(Client) == methods(AsyncClient)
    assert len(methods(Client)) > 20


def test_it_needs_httpx_alone() -> None:
    others = {"app", "models", "fastapi", "pydantic", "numpy", "torch"}
    code = f"import sys, frontrunner; print(sorted({others} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
