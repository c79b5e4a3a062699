"""The scorer as a search engine's model: embeddings for OpenAI's client, re-ranking for Cohere's and Jina's."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from tests.api.kit import House, is_problem

EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"


def _uri(colour: str, *, bare: bool = False) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return ("" if bare else "data:image/png;base64,") + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{house.url}/v1", api_key="none", max_retries=0) as it:
        yield it


def test_the_openai_package_reads_them(client: openai.OpenAI) -> None:
    """It asks for base64 by itself, and gives floats."""
    answer = client.embeddings.create(model="fake", input=["red", "blue"])
    assert (answer.object, answer.model, answer.usage.total_tokens) == ("list", "fake", 0)
    assert [one.index for one in answer.data] == [0, 1]
    floats = client.embeddings.create(model="fake", input="red", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-6)
    for one in answer.data:
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)


def test_images_and_texts_share_a_space(client: openai.OpenAI, house: House) -> None:
    mixed: list[Any] = [_uri("red"), "red", _uri("blue"), {"image": _uri("red", bare=True)}, {"text": "red"}]
    answer = house.post(EMBEDDINGS, json={"input": mixed}).json()
    vectors = np.array([one["embedding"] for one in answer["data"]])
    assert vectors[0] @ vectors[1] > vectors[2] @ vectors[1]
    assert vectors[3] == pytest.approx(vectors[0])
    assert vectors[4] == pytest.approx(vectors[1])
    ranked = house.post("/v1/rank", json={"prompt": "red", "images": [_uri("red"), _uri("blue")]}).json()
    assert ranked["data"][0]["similarity"] == pytest.approx(vectors[0] @ vectors[1], abs=1e-5)
    alone = client.embeddings.create(model="fake", input=_uri("red"))
    assert alone.data[0].embedding == pytest.approx(vectors[0], abs=1e-6)


@pytest.mark.parametrize("name", ["text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"])
def test_openais_names_mean_the_scorer(client: openai.OpenAI, house: House, name: str) -> None:
    answer = client.embeddings.create(model=name, input="red")
    own = client.embeddings.create(model="fake", input="red")
    assert answer.data[0].embedding == pytest.approx(own.data[0].embedding)
    (warning,) = (answer.model_extra or {})["warnings"]
    assert (answer.model, warning["code"], warning["model"]) == ("fake", "model_aliased", "fake")
    assert own.model_extra == {"warnings": []}


@pytest.mark.parametrize("name", ["rerank-v3.5", "rerank-multilingual-v3.0", "jina-reranker-v2-base-multilingual"])
def test_names_of_re_rankers_mean_the_scorer(house: House, name: str) -> None:
    ranked = house.post(RERANK, json={"query": "red", "documents": ["red"], "model": name}).json()
    assert [one["code"] for one in ranked["warnings"]] == ["model_aliased"]


def test_a_long_text_is_told(house: House) -> None:
    answer = house.post(EMBEDDINGS, json={"input": "red " * 200}).json()
    assert [w["code"] for w in answer["warnings"]] == ["prompt_truncated"]


@pytest.mark.parametrize(
    ("asked", "status", "code", "pointer"),
    [
        ({"input": [1, 2, 3]}, 422, "invalid_request", "#/input"),
        ({"input": []}, 422, "invalid_request", "#/input"),
        ({"input": ""}, 422, "invalid_request", "#/input"),
        ({"input": ["red", " "]}, 422, "invalid_request", "#/input/1"),
        ({"input": ["red", "data:image/png;base64,AAAA"]}, 400, "bad_image", "#/input/1"),
        ({"input": {"image": "http://example.com/a.png"}}, 400, "bad_image", "#/input"),
        ({"input": {}}, 422, "invalid_request", "#/input"),
        ({"input": "red", "model": "unknown"}, 404, "not_found", "#/model"),
        ({"input": "red", "dimensions": 7}, 422, "invalid_request", "#/dimensions"),
        ({"input": "red", "encoding_format": "int8"}, 422, "invalid_request", "#/encoding_format"),
        ({}, 422, "invalid_request", "#/input"),
    ],
)
def test_embeddings_that_are_refused(house: House, asked: dict[str, Any], status: int, code: str, pointer: str) -> None:
    is_problem(house.post(EMBEDDINGS, json=asked), status, code, pointer)


def test_many_texts_and_too_many_images(house: House) -> None:
    many = [f"red {i}" for i in range(200)]
    assert len(house.post(EMBEDDINGS, json={"input": many}).json()["data"]) == 200
    images = [_uri("red")] * 65
    is_problem(house.post(EMBEDDINGS, json={"input": images}), 422, "invalid_request", "#/input/64")


def test_documents_are_ordered_by_the_query(house: House) -> None:
    documents = ["blue", {"text": "red"}, "green and blue"]
    answer = house.post(RERANK, json={"model": "fake", "query": "red", "documents": documents, "top_n": 2})
    body = answer.json()
    assert body["results"][0]["index"] == 1
    assert len(body["results"]) == 2
    scores = [r["relevance_score"] for r in body["results"]]
    assert scores == sorted(scores, reverse=True)
    assert {"id", "model", "results", "meta", "usage", "warnings", "object"} == body.keys()
    assert "null" not in answer.text
    assert "document" not in body["results"][0]


def test_images_by_a_text_and_by_an_image(house: House) -> None:
    images = [_uri("blue"), {"image": _uri("red", bare=True)}]
    for query in ("red", _uri("red"), {"image": _uri("red")}):
        body = house.post(RERANK, json={"query": query, "documents": images, "return_documents": True}).json()
        assert [r["index"] for r in body["results"]] == [1, 0]
        assert body["results"][1]["document"] == {"image": images[0]}
        assert body["warnings"] == []
    mixed = house.post(RERANK, json={"query": "red", "documents": ["red", _uri("red")], "priority": 1}).json()
    assert [w["code"] for w in mixed["warnings"]] == ["unsupported_parameter", "mixed_documents"]


@pytest.mark.parametrize(
    ("asked", "status", "code", "pointer"),
    [
        ({"query": "red", "documents": []}, 422, "invalid_request", "#/documents"),
        ({"query": "", "documents": ["x"]}, 422, "invalid_request", "#/query"),
        ({"query": "red", "documents": ["x"], "top_n": 0}, 422, "invalid_request", "#/top_n"),
        ({"query": "red", "documents": [{"image": "!"}]}, 400, "bad_image", "#/documents/0"),
        ({"query": "red", "documents": ["x"], "model": "unknown"}, 404, "not_found", "#/model"),
        ({"query": "red", "documents": ["x"], "rank_fields": ["a"]}, 422, "invalid_request", "#/rank_fields/0"),
    ],
)
def test_rerankings_that_are_refused(house: House, asked: dict[str, Any], status: int, code: str, pointer: str) -> None:
    is_problem(house.post(RERANK, json=asked), status, code, pointer)


def test_jinas_fields_are_taken_or_named(house: House) -> None:
    asked = {"input": ["red", {"image": _uri("red")}], "model": "jina-clip-v2"}
    usual = {"normalized": True, "embedding_type": "float", "truncate": True, "late_chunking": False}
    plain = house.post(EMBEDDINGS, json={**asked, **usual}).json()
    assert [warning["code"] for warning in plain["warnings"]] == ["model_aliased"]
    text = house.post(EMBEDDINGS, json={**asked, "embedding_type": "base64"}).json()["data"][0]["embedding"]
    found = np.frombuffer(base64.b64decode(text), "<f4")
    assert found == pytest.approx(plain["data"][0]["embedding"], abs=1e-6)
    other = {"normalized": False, "task": "retrieval.query", "late_chunking": True, "truncate": False}
    told = house.post(EMBEDDINGS, json={**asked, **other}).json()["warnings"]
    assert {warning.get("param") for warning in told if warning["code"] == "unsupported_parameter"} == other.keys()
    is_problem(
        house.post(EMBEDDINGS, json={**asked, "embedding_type": "ubinary"}), 422, "invalid_request", "#/embedding_type"
    )
    ranked = house.post(RERANK, json={"query": "red", "documents": [{"text": "red"}], "rank_fields": ["text"]})
    assert (ranked.status_code, ranked.json()["warnings"]) == (200, [])


@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]], ["red", 7]])
def test_token_ids_are_refused_with_what_to_set(house: House, ids: list[Any]) -> None:
    told = is_problem(house.post(EMBEDDINGS, json={"input": ids}), 422, "invalid_request", "#/input")
    assert "check_embedding_ctx_length=False" in told["detail"]
    assert len(told["errors"]) == 1
