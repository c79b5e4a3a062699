"""How long an answer takes that needs no sampling, and what those who only look on cost."""

from __future__ import annotations

import asyncio
import statistics

import httpx

from tests.bench import server
from tests.bench.kit import Figure, seconds

PROMPT = "a red apple on a white background"
CALLS = 30


def rerank(client: httpx.Client, candidates: int, at_most: float) -> Figure:
    """Milliseconds of a re-ranking by two texts that the scorer has not met."""
    made = server.generate(client, PROMPT, n_candidates=candidates, n=1, steps=1, pruning="off")
    address = f"/v1/generations/{made['id']}/rerank"

    def ask(call: int) -> None:
        texts = f"a green pear {candidates} {call}", f"a car {candidates} {call}"
        body = {"ranking": {"prompt": texts[0], "negatives": [{"text": texts[1]}]}}
        client.post(address, json=body).raise_for_status()

    ask(-1)
    took = [1000 * seconds(lambda call=call: ask(call)) for call in range(CALLS)]  # type: ignore[misc]
    name = f"re-ranking {candidates} by two new texts, ms"
    return Figure(name, statistics.median(took), "over HTTP, texts encoded", at_most, detail={"runs": CALLS})


def watched(client: httpx.Client, tabs: int, runs: int) -> Figure:
    """Time of the engine on 16 candidates while `tabs` clients stream them, against one client.

    All of them share the cores with the engine.
    """
    url = str(client.base_url)
    _engine_ms(url, 1)
    pairs = [(_engine_ms(url, tabs), _engine_ms(url, 1)) for _ in range(runs)]
    ratios = sorted(a / b for a, b in pairs)
    detail = {"runs": runs, "ratios": [round(r, 3) for r in ratios], "alone_ms": round(pairs[0][1], 1)}
    name = f"{tabs} streams of one generation: time of the engine"
    return Figure(name, statistics.median(ratios), "one stream", 1.05, detail=detail)


def _engine_ms(url: str, tabs: int) -> float:
    """From the first device call of a generation to its last while so many watch."""
    body = {"prompt": PROMPT, "n_candidates": 16, "pruning": "off"}

    async def look(client: httpx.AsyncClient, address: str) -> None:
        async with client.stream("GET", f"{address}/events") as stream:
            async for _ in stream.aiter_raw():
                pass

    async def main() -> float:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=server.TIMEOUT, limits=limits) as client:
            made = await client.post("/v1/generations", json=body, headers={"prefer": "respond-async"})
            made.raise_for_status()
            address: str = made.headers["location"]
            await asyncio.gather(*(look(client, address) for _ in range(tabs)))
            timings = (await client.get(address)).json()["timings"]
            return float(timings["total_ms"] - timings["queue_ms"])

    return asyncio.run(main())
