"""`python -m tests.bench.device --check`: does the embedded pack do on a device what it does on the host?

Every check says what it found. On a host those of a GPU's memory and of its asynchronous calls prove nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import registry
from models.families import Mode
from models.load_options import LoadOptions, NumberFormat
from models.protocols import Models, OutOfMemory, StepRow
from models.runtime.placement import select_device
from tests.api.kit import House, running, until

PACK = "pictogram"
PROMPTS = ("a red apple on a white background", "a blue car", "two yellow stars on a black background")
RACE = {"n_candidates": 8, "n": 1, "steps": 8, "seed": 7, "pruning": "off"}
EQUAL, NEAR = 0.01, 0.05
"""How far scores may be apart: in float32, and in half precision."""

HEADROOMS_MIB = (4, 24, 44, 64, 104, 204, 404)
"""Memory that a device is given above what it holds; a cache takes it in steps of 20 MiB."""

Found = dict[str, Any]


def run(device: str, told: dict[str, Found], store: Callable[[], None]) -> None:
    """Make all checks; `told` has `ok`, `seconds` and figures of each, and is stored after each."""
    modes: tuple[Mode, ...] = ("auto", "gate")
    expected = {mode: _on_host(mode) for mode in modes}
    full, gate = _loaded(device, "float32"), _loaded(device, "float32", mode="gate")
    quick = _loaded(device, "auto")
    _note(told, store, "a step ends with the device", lambda: _step_ends(quick, device))
    for name, models, near in (("float32", full, EQUAL), ("half", quick, NEAR), ("gate", gate, EQUAL)):
        wanted, pruned = expected["gate" if name == "gate" else "auto"]
        with _serving(models) as house:
            _note(told, store, f"{name}: winners and scores", partial(_same_winners, house, wanted, near))
            _note(told, store, f"{name}: previews", partial(_previews, house, pruned, near))
            _note(told, store, f"{name}: mixed equals alone", partial(_mixed, house, near))
            if name == "half":
                _note(told, store, "cancel", partial(_cancel, house))
                _note(told, store, "steering", partial(_steering, house))
                _note(told, store, "memory", partial(_memory, house, models, device))


def _on_host(mode: Mode) -> tuple[dict[str, Found], Found]:
    """Races by prompt and a pruned one on the host; the gate steps at other times than the native loop."""
    with _serving(_loaded("cpu", "float32", mode=mode)) as house:
        races = {prompt: made(house, prompt) for prompt in PROMPTS}
        return races, made(house, PROMPTS[0], pruning=[{"at": 4, "keep": 2}])


def made(house: House, prompt: str, **changes: Any) -> Found:
    """A race's answer."""
    answer = house.post(json={**RACE, "prompt": prompt, **changes})
    if answer.status_code != 200:
        raise RuntimeError(answer.text[:300])
    result: Found = answer.json()
    return result


def scores(answer: Found) -> list[float]:
    """The scores of the candidates, in order of their index."""
    return [each["score"] for each in sorted(answer["candidates"], key=lambda each: int(each["index"]))]


def compare(wanted: Found, found: Found, near: float) -> Found:
    """Whether scores are within `near`, and the winner is as good as the wanted one within that."""
    expected, got = np.asarray(scores(wanted)), np.asarray(scores(found))
    best = int(found["data"][0]["index"])
    off = float(np.abs(expected - got).max())
    lost = float(expected.max() - expected[best])
    same = best == wanted["data"][0]["index"]
    return {"ok": off <= near and lost <= near, "off": round(off, 5), "lost": round(lost, 5), "same_winner": same}


def _loaded(device: str, dtype: NumberFormat, mode: Mode = "auto") -> Models:
    return registry.load_models(PACK, PACK, device, mode=mode, options=LoadOptions(dtype=dtype))


@contextmanager
def _serving(models: Models) -> Iterator[House]:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), load=lambda: models) as house:
        yield house


def _note(told: dict[str, Found], store: Callable[[], None], name: str, check: Callable[[], Found]) -> None:
    began = time.perf_counter()
    try:
        found = check()
    except Exception as error:  # the next checks are made all the same
        found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:400]}
    told[name] = {**found, "seconds": round(time.perf_counter() - began, 2)}
    print("ok    " if found["ok"] else "FAILED", name, told[name], flush=True)
    store()


def _same_winners(house: House, wanted: Mapping[str, Found], near: float) -> Found:
    each = [compare(answer, made(house, prompt), near) for prompt, answer in wanted.items()]
    return {
        "ok": all(one["ok"] for one in each),
        "same_winners": sum(one["same_winner"] for one in each),
        "of": len(each),
        "off": max(one["off"] for one in each),
    }


def _previews(house: House, wanted: Found, near: float) -> Found:
    found = made(house, PROMPTS[0], pruning=[{"at": 4, "keep": 2}])
    work = {name: found["work"][name] for name in ("rows_stepped", "previews", "decodes")}
    alike = [mine["work"] for mine in (wanted, found)]
    off = abs(found["data"][0]["score"] - wanted["data"][0]["score"])
    kept = [{c["index"] for c in each["candidates"] if not c["score_is_preview"]} for each in (wanted, found)]
    same_work = all(alike[0][name] == alike[1][name] for name in work)
    return {"ok": same_work and off <= near, "off": round(off, 5), "same_kept": kept[0] == kept[1], **work}


def _mixed(house: House, near: float) -> Found:
    """Requests that differ in everything, at once and alone; deterministic ones have equal bytes."""
    asked: list[Found] = [
        {"steps": 8, "sampler": "ddim", "guidance_scale": 1.0},
        {"steps": 12, "sampler": "dpmpp_2m", "negative_prompt": "a tree"},
        {"steps": 6, "deterministic": True},
    ]
    if len(house.app.state.engine.generator.samplers) == 1:
        asked = [{name: value for name, value in each.items() if name != "sampler"} for each in asked]
    alone = [made(house, prompt, **each) for prompt, each in zip(PROMPTS, asked, strict=True)]
    with ThreadPoolExecutor(len(asked)) as pool:
        jobs = [pool.submit(made, house, prompt, **each) for prompt, each in zip(PROMPTS, asked, strict=True)]
        together = [job.result() for job in jobs]
    off = [float(np.abs(np.asarray(scores(a)) - scores(b)).max()) for a, b in zip(alone, together, strict=True)]
    images = [house.client.get(each[-1]["data"][0]["url"]).content for each in (alone, together)]
    equal = images[0] == images[1]
    return {"ok": max(off) <= near and equal, "off": round(max(off), 5), "deterministic_bytes_equal": equal}


def _cancel(house: House) -> Found:
    """A long race that is cancelled leaves the device to the next one."""
    asked = {**RACE, "prompt": PROMPTS[0], "n_candidates": 64, "steps": 100}
    answer = house.post(json=asked, headers={"prefer": "respond-async"})
    if answer.status_code != 202:
        raise RuntimeError(answer.text[:300])
    queued = answer.json()
    stats = house.app.state.engine.stats
    until(lambda: stats().rows_stepped and stats().running)
    stepped = stats().rows_stepped
    until(lambda: stats().rows_stepped > stepped)
    began = time.perf_counter()
    house.client.delete(f"/v1/generations/{queued['id']}")
    until(lambda: not house.live)
    freed = time.perf_counter() - began
    status = house.client.get(f"/v1/generations/{queued['id']}").json().get("status", "gone")
    after = made(house, PROMPTS[1])
    return {"ok": status != "succeeded" and after["status"] == "succeeded", "freed_s": round(freed, 3), "is": status}


def _steering(house: House) -> Found:
    plain, moved = (made(house, PROMPTS[0], steering={"scale": scale}) for scale in (0.0, 0.05))
    gain = float(np.mean(scores(moved)) - np.mean(scores(plain)))
    rows = moved["work"]["rows_steered"]
    return {"ok": rows > 0 and gain > 0, "rows_steered": rows, "gain": round(gain, 4)}


def _memory(house: House, models: Models, device: str) -> Found:
    """On a device with too little memory for a full call, a race ends as well, in smaller calls."""
    where = select_device(device).device
    if where.type != "cuda":
        return {"ok": True, "skipped": "only CUDA can be given less memory"}
    plain = made(house, PROMPTS[0], n_candidates=32)
    generator, refused = models.generator, list[int]()
    kept = generator.step, generator.decode

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(rows: Any, *more: Any, **named: Any) -> Any:
            try:
                return call(rows, *more, **named)
            except OutOfMemory:
                refused.append(len(rows))
                raise

        return counting

    vars(generator).update(step=counted(kept[0]), decode=counted(kept[1]))
    total = torch.cuda.get_device_properties(where).total_memory
    try:
        for headroom in HEADROOMS_MIB:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + headroom * 2**20) / total)
            refused.clear()
            answer = house.post(json={**RACE, "prompt": PROMPTS[0], "n_candidates": 32})
            if answer.status_code == 200:
                break
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        for name in ("step", "decode"):
            vars(generator).pop(name, None)
    if answer.status_code != 200:
        return {"ok": False, "headroom_mib": headroom, "error": answer.text[:300]}
    told = compare(plain, answer.json(), NEAR)
    return {**told, "ok": told["ok"] and bool(refused), "headroom_mib": headroom, "refused_rows": refused}


def _step_ends(models: Models, device: str) -> Found:
    """Nothing of a step is left to do when it returns, so its seconds are its own."""
    generator, placement = models.generator, select_device(device)
    info = generator.info
    schedule = generator.schedule(info.sampler, 8, info.width, info.height)
    text = generator.encode([PROMPTS[0]])[0]
    rows = [
        StepRow(generator.noise(seed, info.width, info.height, schedule), text, None, 1.0, schedule, 0, seed)
        for seed in range(32)
    ]
    generator.step(rows, 32)
    placement.wait()
    began = time.perf_counter()
    generator.step(rows, 32)
    stepped = time.perf_counter()
    placement.wait()
    left = time.perf_counter() - stepped
    seconds = stepped - began
    return {"ok": left <= 0.1 * seconds, "step_ms": round(1000 * seconds, 2), "left_ms": round(1000 * left, 3)}
