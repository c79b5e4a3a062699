"""Replicas of one database that serve several models, the same ones or different ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.servers import PATIENCE_S, PostgreSQL
from tests.system.replicas import ASYNC, Replica, asked, ended, figures, replicas

pytestmark = [pytest.mark.timeout(900), pytest.mark.slow]

BOTH = ("alpha", "beta")


def _models(folder: Path, *names: str) -> dict[str, str]:
    """Settings with a file of synthetic models of these names."""
    tables = "".join(f'[models.{name}]\ngenerator = "fake"\nscorer = "fake"\n' for name in names)
    file = folder / f"{'-'.join(names)}.toml"
    file.write_text(tables)
    return {"MODELS": str(file), "MODEL_ALIASES": ""}


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)])
def database(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    if request.param == "sqlite":
        yield {}
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    yield {"DATABASE_URL": server.database()}


def test_requests_find_the_replica_that_has_their_model(database: dict[str, str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        pair = [
            stack.enter_context(replicas(tmp_path, 1, None, {**database, **_models(tmp_path, name)}))[0]
            for name in BOTH
        ]
        asyncio.run(_crosswise(pair))


async def _crosswise(pair: list[Replica]) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        for model, holder in zip(BOTH, pair, strict=True):
            expected = await _made(client, holder, model)
            for replica in pair:
                assert figures(await _made(client, replica, model)) == figures(expected)
        answers = await asyncio.gather(
            *(
                client.post(f"{pair[turn % 2].url}/v1/generations", json=_body(turn), headers=ASYNC)
                for turn in range(24)
            )
        )
        for turn, answer in enumerate(answers):
            assert answer.status_code == 202, answer.text
            done = await ended(client, pair[(turn + 1) % 2].url, answer.json()["id"])
            assert (done["status"], done["model"]) == ("succeeded", _body(turn)["model"])
        unknown = await client.post(f"{pair[0].url}/v1/generations", json=asked(7, model="gamma"))
        assert unknown.status_code == 404
        listed = (await client.get(f"{pair[0].url}/v1/models")).json()["data"]
        assert {one["id"]: one["serving"]["here"] for one in listed if "serving" in one} == {
            "alpha": True,
            "beta": False,
        }


async def _made(client: httpx.AsyncClient, replica: Replica, model: str) -> dict[str, Any]:
    answer = await client.post(f"{replica.url}/v1/generations", json=asked(7, model=model))
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body["model"] == model
    return body


def _body(turn: int) -> dict[str, Any]:
    return asked(turn, model=BOTH[turn // 2 % 2])


@pytest.mark.soak
def test_work_of_both_models_outlives_a_killed_replica(database: dict[str, str], tmp_path: Path) -> None:
    with replicas(tmp_path, 2, None, {**database, **_models(tmp_path, *BOTH)}) as pair:
        asyncio.run(_killed(pair))


async def _killed(pair: list[Replica]) -> None:
    async with httpx.AsyncClient(timeout=PATIENCE_S) as client:
        expected = {model: figures(await _made(client, pair[0], model)) for model in BOTH}
        bodies = [asked(7, model=BOTH[turn % 2]) for turn in range(60)]
        names = []
        for turn, body in enumerate(bodies):
            answer = await client.post(f"{pair[0].url}/v1/generations", json=body, headers=ASYNC)
            assert answer.status_code == 202, answer.text
            names.append(answer.json()["id"])
            if turn == 40:
                await asyncio.to_thread(pair[1].kill)
        await asyncio.to_thread(pair[0].kill)
        await asyncio.to_thread(pair[1].start)
        for name, body in zip(names, bodies, strict=True):
            done = await ended(client, pair[1].url, name)
            assert (done["status"], done["model"]) == ("succeeded", body["model"])
            assert figures(done) == expected[body["model"]]
