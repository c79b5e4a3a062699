"""Wall time over HTTP against the straight script, and the cost of contention."""

from __future__ import annotations

import statistics

import httpx

from tests.bench import server
from tests.bench.kit import Figure, paired
from tests.bench.straight import Straight

PROMPT = "a red apple on a white background"
SCRIPT = "diffusers + open_clip script"


def best_of(client: httpx.Client, script: Straight, n: int, pruning: str, runs: int, at_most: float) -> Figure:
    """One request for the best of n, over HTTP, against the script that makes all n."""
    seeds, work = iter(range(1_000_000)), dict[str, int]()

    def ours() -> None:
        work.update(server.generate(client, PROMPT, n_candidates=n, n=1, pruning=pruning, seed=next(seeds))["work"])

    def theirs() -> None:
        script.best_of(PROMPT, n, next(seeds))

    value, detail = paired(ours, theirs, runs)
    detail["rows_stepped"], detail["rows_unpruned"] = work["rows_stepped"], work["rows_unpruned"]
    word = "pruned" if pruning == "auto" else "unpruned"
    return Figure(f"best of {n}, {word}: wall time", value, SCRIPT, at_most=at_most, detail=detail)


def beside_large(client: httpx.Client, runs: int) -> Figure:
    """A one-candidate request beside a 64-candidate one, against the same alone."""
    url, small = str(client.base_url), {"prompt": PROMPT, "n_candidates": 1}
    large = {"prompt": "a blue car", "n_candidates": 64, "pruning": "off"}

    def alone() -> float:
        return server.at_once(url, [small])[0]

    alone()
    whole = server.at_once(url, [large])[0]
    moments = [whole * (run + 0.5) / (runs + 1) for run in range(runs)]
    pairs = [(server.beside(url, large, small, moment), alone()) for moment in moments]
    ratios = [a / b for a, b in pairs]
    medians = {name: round(statistics.median(p[i] for p in pairs), 3) for i, name in enumerate(("beside_s", "alone_s"))}
    detail = {"runs": runs, "ratios": [round(r, 3) for r in ratios], **medians, "large_s": round(whole, 3)}
    return Figure("1 candidate beside 64: time to its result", statistics.median(ratios), "alone", 3.0, detail=detail)


def throughput(client: httpx.Client, clients: int, runs: int, at_least: float | None = None) -> Figure:
    """Images a second of some one-candidate clients at once, against the same one after the other."""
    url = str(client.base_url)
    bodies = [{"prompt": PROMPT, "n_candidates": 1}] * clients
    value, detail = paired(lambda: server.one_by_one(url, bodies), lambda: server.at_once(url, bodies), runs)
    return Figure(
        f"{clients} clients at once: images a second", value, "one at a time", at_least=at_least, detail=detail
    )
