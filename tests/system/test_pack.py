"""The embedded pack end to end: what the service answers over HTTP, recomputed with the libraries' own classes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.cli.local_server import running_service

pytestmark = [
    pytest.mark.torch,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*deprecated.*:FutureWarning"),
]

PROMPT = "a red apple on a white background"
SEED = 7
BASE: dict[str, Any] = {"prompt": PROMPT, "seed": SEED, "steps": 6, "pruning": "off"}


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running_service() as url, httpx.Client(base_url=url, timeout=240, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def script() -> Any:
    pytest.importorskip("torch")
    from tests.bench.straight import Straight

    return Straight()


def made(client: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = client.post("/v1/generations", json={**BASE, **body})
    assert answer.status_code == 200, answer.text
    result: dict[str, Any] = answer.json()
    return result


def picture(client: httpx.Client, generation: dict[str, Any], index: int) -> Image.Image:
    answer = client.get(f"/v1/generations/{generation['id']}/images/{index}")
    assert answer.status_code == 200, answer.text
    return Image.open(io.BytesIO(answer.content)).convert("RGB")


def apart(one: Image.Image, two: Image.Image) -> int:
    """Largest difference of any channel of any pixel."""
    return int(np.abs(np.asarray(one, np.int16) - np.asarray(two, np.int16)).max())


def test_every_sampler_draws_the_prompt(client: httpx.Client) -> None:
    """A sampler that is offered makes images: Heun's method does not, from this model's nearly infinite first sigma."""
    model, *_ = client.get("/v1/models").json()["data"]
    offered = model["generator"]["samplers"]
    assert "heun" not in offered
    scores = {each: made(client, sampler=each, steps=16, n_candidates=1)["data"][0] for each in offered}
    assert len(scores) >= 8
    assert {name: image["score"] for name, image in scores.items() if image["score"] < 0.4} == {}


@pytest.mark.parametrize(
    ("prompt", "language"),
    [
        ("красное яблоко на белом фоне", "ru"),
        ("яблоко красного цвета, фон белый", "ru"),
        ("krasnoe yabloko na belom fone", "ru-Latn"),
        ("🍎 on a white background", "emoji"),
        ("a red aple on a white background", "en"),
    ],
)
def test_other_languages_draw_what_the_english_caption_draws(client: httpx.Client, prompt: str, language: str) -> None:
    asked = {"n_candidates": 3, "n": 1, "deterministic": True}
    english, other = made(client, **asked), made(client, prompt=prompt, **asked)
    assert (other["prompt"], other["prompt_language"], other["understood"]) == (prompt, language, PROMPT)
    assert (english["prompt_language"], english["understood"]) == (None, None)
    fields = [[dict(each) for each in one["candidates"]] for one in (other, english)]
    for field, text in zip(fields, (prompt, PROMPT), strict=True):
        assert all(each.pop("wording").startswith(f"{text}, ") for each in field)
    assert fields[0] == fields[1]
    assert apart(picture(client, other, 0), picture(client, english, 0)) == 0


def test_every_route_reads_russian(client: httpx.Client) -> None:
    result = made(client, n_candidates=3, prompt="a red apple", negative_prompt="синий фон", guidance_scale=4.0)
    codes = {(w["code"], w.get("understood")) for w in result["warnings"]}
    assert ("prompt_translated", "on a blue background") in codes
    again = client.post(f"/v1/generations/{result['id']}/rerank", json={"ranking": {"prompt": "зелёная машина"}}).json()
    assert (again["prompt_language"], again["understood"]) == ("ru", "a green car")
    vectors = client.post("/v1/embeddings", json={"input": ["красное яблоко", "a red apple", "квазар"]}).json()
    first, second, _ = (np.asarray(each["embedding"]) for each in vectors["data"])
    np.testing.assert_array_equal(first, second)
    assert [w["words"] for w in vectors["warnings"] if w["code"] == "words_not_understood"] == [["квазар"]]
    documents = {"query": "кот", "documents": ["a dog", "кошка", "a car"]}
    assert client.post("/v1/rerank", json=documents).json()["results"][0]["index"] == 1
    file = {"images": ("apple.png", client.get(f"/v1/generations/{result['id']}/images/0").content)}
    ranked = client.post("/v1/rank", data={"prompt": "красное яблоко"}, files=file).json()
    assert (ranked["prompt_language"], ranked["understood"]) == ("ru", "a red apple")


def test_scores_agree_with_open_clip_on_the_returned_files(client: httpx.Client, script: Any) -> None:
    negative = "a green leaf"
    result = made(client, n_candidates=6, n=6, negative_prompt=negative, guidance_scale=4.0)
    pictures = [picture(client, result, d["index"]) for d in result["data"]]
    similarity = script.similarities(pictures, PROMPT)
    penalty = np.maximum(script.similarities(pictures, negative), 0)
    for i, told in enumerate(result["data"]):
        assert told["similarity"] == pytest.approx(float(similarity[i]), abs=0.01)
        assert told["penalty"] == pytest.approx(float(penalty[i]), abs=0.01)
        assert told["score"] == pytest.approx(told["similarity"] - 0.5 * told["penalty"], abs=1e-6)
    scores = [d["score"] for d in result["data"]]
    assert scores == sorted(scores, reverse=True)


def test_the_images_are_those_of_the_stock_pipeline(client: httpx.Client, script: Any) -> None:
    result = made(client, n_candidates=4, n=4, guidance_scale=4.0, sampler="ddim", variants=[PROMPT])
    stock = script.best_of(PROMPT, 4, SEED, steps=6, guidance_scale=4.0)
    for image, index in zip(stock.images, stock.indices, strict=True):
        assert apart(image, picture(client, result, index)) <= 2
    assert [d["index"] for d in result["data"]] == stock.indices


def test_a_candidate_made_alone_is_the_one_of_the_batch(client: httpx.Client) -> None:
    many = made(client, n_candidates=16, n=1)
    for index in (0, 5, 15):
        alone = made(client, n_candidates=1, seed=SEED + index)
        assert apart(picture(client, alone, 0), picture(client, many, index)) <= 2


def test_deterministic_is_the_same_to_the_last_bit_whatever_the_company(client: httpx.Client) -> None:
    whole = {"n_candidates": 5, "n": 5, "deterministic": True}
    alone = made(client, **whole)
    with ThreadPoolExecutor(3) as pool:
        others = [pool.submit(made, client, **{**whole, "seed": 90 + i, "prompt": "a blue car"}) for i in range(2)]
        plain = pool.submit(made, client, n_candidates=7, prompt="a dog")
        company = made(client, **whole)
        for other in (*others, plain):
            other.result()
    pruned = made(client, **{**whole, "n": 2}, pruning=[{"at": 3, "keep": 2}])
    assert company["candidates"] == alone["candidates"]
    survivors = [c for c in pruned["candidates"] if c["pruned_at_step"] is None]
    assert len(survivors) == 2
    for survivor in survivors:
        assert survivor["score"] == alone["candidates"][survivor["index"]]["score"]
        assert apart(picture(client, pruned, survivor["index"]), picture(client, alone, survivor["index"])) == 0


def test_clients_at_once_get_what_they_get_alone_in_no_more_calls(client: httpx.Client) -> None:
    asked: list[dict[str, Any]] = [
        {"prompt": p, "n_candidates": n, "steps": s, "sampler": sampler, "guidance_scale": g, "seed": 10 * n}
        for p, n, s, sampler, g in (
            ("a dog", 1, 8, "ddim", 4.0),
            ("a red car", 5, 6, "euler", 3.0),
            ("a banana", 3, 7, "dpmpp_2m", 1.0),
            ("a blue boat", 2, 5, "ddim", 6.0),
            ("a cat", 4, 6, "dpmpp_2m", 4.0),
            ("a tree", 1, 9, "euler", 1.0),
            ("a cup", 2, 6, "ddim", 2.0),
            ("a clock", 1, 4, "euler", 5.0),
        )
    ]
    before = calls(client)
    alone = [made(client, **one) for one in asked]
    between = calls(client)
    with ThreadPoolExecutor(len(asked)) as pool:
        company = list(pool.map(lambda one: made(client, **one), asked))
    after = calls(client)
    for one, two in zip(alone, company, strict=True):
        scores = [[c["score"] for c in result["candidates"]] for result in (one, two)]
        np.testing.assert_allclose(scores[0], scores[1], atol=2e-3)
        best = one["data"][0]["index"]
        assert apart(picture(client, one, best), picture(client, two, best)) <= 2
    # Fewer where a shared call is cheaper; on instructions so slow that each row costs the same, calls are not shared.
    assert after - between <= between - before


def calls(client: httpx.Client) -> float:
    """Denoiser calls so far."""
    lines = client.get("/metrics").text.splitlines()
    return float(next(x.split()[1] for x in lines if x.startswith("frontrunner_denoiser_calls_total")))


def test_the_probability_follows_what_the_ranking_asks_for(client: httpx.Client) -> None:
    generation = made(client, n_candidates=4, n=4)
    own = [image["probability"] for image in generation["data"]]
    asked = {"ranking": {"prompt": "a blue boat", "min_probability": 0.5}, "n": 4}
    other = client.post(f"/v1/generations/{generation['id']}/rerank", json=asked).json()
    assert min(own) > 0.5
    assert other["data"] == []
    assert max(c["probability"] for c in other["candidates"]) < 0.5
    assert 0 < generation["margin_error"] < 0.1
