"""The use cases on the fakes with real stores: a database file and a folder of images."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from PIL import Image
from sqlalchemy import text

from app import imaging
from app.domain import Checkpoint, EventKind, Negative, Provenance, Ranking, Status
from app.errors import FrontrunnerError, InvalidRequest, NotFound, NotReady, Overloaded, StoreUnavailable
from app.service import CandidateArrays, GenerationParams, GenerationService, Img2ImgService, Limits
from app.service.candidates.keys import blob_prefix
from app.service.generations import admission
from models.loras import Lora
from tests.unit.service_kit import house

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.usefixtures("quick_polls")]


async def test_a_generation_is_answered_recorded_and_logged(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        queued = await h.service.submit(GenerationParams("a red apple", n_candidates=6, n=2, seed=7, steps=4))
        assert queued.status is Status.QUEUED
        done = await h.service.wait(queued.id)
        assert done.status is Status.SUCCEEDED
        assert len(done.candidates) == 6
        assert [c.rank for c in done.best] == [1, 2]
        assert await h.service.get(queued.id) == done
        events = [e async for e in h.service.watch(queued.id)]
        assert [e.seq for e in events] == list(range(1, len(events) + 1))
        kinds = [e.kind for e in events]
        assert kinds[:2] == [EventKind.QUEUED, EventKind.STARTED]
        assert kinds[-1] is EventKind.SUCCEEDED
        assert kinds.count(EventKind.CANDIDATE) == 6
        resumed = [e.seq async for e in h.service.watch(queued.id, after=events[-3].seq)]
        assert resumed == [e.seq for e in events[-2:]]
        assert h.service.outcomes() == {"succeeded": 1}


@pytest.mark.slow
async def test_a_watcher_sees_lines_while_they_are_written(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.1) as h:
        queued = await h.service.submit(GenerationParams("a red apple", n_candidates=2, steps=20, partial_images=2))
        seen: list[EventKind] = []
        async for event in h.service.watch(queued.id):
            seen.append(event.kind)
            if event.kind is EventKind.PREVIEW:
                assert event.data["image"].startswith("data:image/webp;base64,")
        assert seen.count(EventKind.PREVIEW) == 4
        assert seen.count(EventKind.STEP) > 3


async def test_results_survive_a_restart(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        name = await h.made(n_candidates=4, n=1)
        before = await h.service.image(name, 0, "png")
        record = await h.service.get(name)
    async with house(tmp_path) as h:
        assert await h.service.get(name) == record
        assert (await h.service.image(name, 0, "png")).data == before.data
        assert [e.kind async for e in h.service.watch(name)][-1] is EventKind.SUCCEEDED


async def test_every_candidate_has_an_image_returned_or_not(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        name = await h.made(n_candidates=6, n=2)
        whole = await h.made(n_candidates=6, n=6)
        for index in range(6):
            one = imaging.decode_upload((await h.service.image(name, index, "png")).data, 10**6, None)
            two = imaging.decode_upload((await h.service.image(whole, index, "png")).data, 10**6, None)
            assert np.abs(one.astype(int) - two.astype(int)).max() <= 2


async def test_latents_are_decoded_by_the_weights_that_made_them(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        name = await h.made(n_candidates=4, n=1)
        made = await h.service.get(name)
        kept = made.best[0].index
        other = (kept + 1) % 4
        await h.service.image(name, other, "webp")
        h.generator._info = replace(h.generator.info, revision="2")
        engine, images = h.service._engine, h.service._images
        refiner = Img2ImgService(engine, CandidateArrays(engine, h.blobs), images, h.blobs, Limits())
        for form, index in (("jpeg", kept), ("webp", other)):
            assert (await h.service.image(name, index, form)).data, "made of a picture that was stored"
        for forgotten in (
            h.service.image(name, other, "jpeg"),
            refiner.from_candidate(GenerationParams("x"), made, other, 0.5),
        ):
            with pytest.raises(NotFound, match="weights"):
                await forgotten
        before = replace(made, model_revision="")
        assert (await refiner.from_candidate(GenerationParams("x"), before, other, 0.5)).start is not None, (
            "of before they were kept"
        )


async def test_images_come_in_other_formats_and_sizes(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        name = await h.made(n_candidates=3, n=3)
        for form in ("png", "webp", "jpeg"):
            image = await h.service.image(name, 1, form)
            assert image.media_type == f"image/{form}"
            assert image == await h.service.image(name, 1, form)
        small = await h.service.image(name, 1, "png", (32, 32))
        assert imaging.decode_upload(small.data, 10**6, None).shape == (32, 32, 3)
        with pytest.raises(InvalidRequest, match="size enlarges the image beyond the limit: request at most "):
            await h.service.image(name, 1, "png", (5000, 5000))
        with pytest.raises(NotFound):
            await h.service.image(name, 3, "png")


async def test_a_png_says_how_it_was_made(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        name = await h.made(n_candidates=3, negative_prompt="green", provenance=Provenance.METADATA)
        record = await h.service.get(name)
        winner = record.best[0]
        with Image.open(BytesIO((await h.service.image(name, winner.index, "png")).data)) as picture:
            texts = dict(picture.text)  # type: ignore[attr-defined]
        told = next(json.loads(t) for t in texts.values() if t.startswith("{"))
        assert told["seed"] == winner.seed
        assert told["prompt"] == "a red apple"
        assert told["negative_prompt"] == "green"
        assert f"Seed: {winner.seed}" in texts["parameters"]


async def test_defaults_are_filled_in_and_told(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        spec = (await h.service.submit(GenerationParams("x"))).spec
        assert (spec.width, spec.height, spec.steps, spec.sampler, spec.guidance_scale) == (64, 64, 8, "ddim", 2.0)
        assert spec.n_candidates == 16
        assert 0 <= spec.seed < 2**32
        wide = (await h.service.submit(GenerationParams("x", n=20, width=32, height=16))).spec
        assert (wide.n_candidates, wide.width, wide.height) == (20, 32, 16)


async def test_auto_without_a_calibration_says_so(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        asked = await h.service.submit(GenerationParams("x", pruning="auto"))
        assert asked.spec.checkpoints == ()
        assert [n.code for n in asked.warnings] == ["pruning_uncalibrated"]
        assert not (await h.service.submit(GenerationParams("x", pruning="off"))).warnings


@pytest.mark.parametrize(
    ("params", "pointer"),
    [
        ({"prompt": "  "}, "#/prompt"),
        ({"prompt": "x" * 5000}, "#/prompt"),
        ({"prompt": "a\x00b"}, "#/prompt"),
        ({"prompt": "\ud800"}, "#/prompt"),
        ({"negative_prompt": "x" * 5000}, "#/negative_prompt"),
        ({"n_candidates": 65}, "#/n_candidates"),
        ({"n_candidates": 2, "n": 3}, "#/n"),
        ({"steps": 0}, "#/steps"),
        ({"steps": 999}, "#/steps"),
        ({"guidance_scale": float("nan")}, "#/guidance_scale"),
        ({"guidance_scale": float("inf")}, "#/guidance_scale"),
        ({"seed": -1}, "#/seed"),
        ({"seed": 2**64}, "#/seed"),
        ({"width": 60}, "#/size"),
        ({"height": 4096}, "#/size"),
        ({"sampler": "magic"}, "#/sampler"),
        ({"model": "other"}, "#/model"),
        ({"pruning": (Checkpoint(3, 8), Checkpoint(2, 4))}, "#/pruning/1"),
        ({"ranking": Ranking(negatives=(Negative("x"),) * 17)}, "#/ranking/negatives"),
        ({"ranking": Ranking(negatives=(Negative("ok"), Negative(" ")))}, "#/ranking/negatives/1/text"),
        ({"ranking": Ranking(negatives=(Negative("ok", float("inf")),))}, "#/ranking/negatives/0/weight"),
        ({"ranking": Ranking(negative_weight=-1)}, "#/ranking/negative_weight"),
        ({"ranking": Ranking(diversity=2)}, "#/ranking/diversity"),
        ({"ranking": Ranking(min_score=float("nan"))}, "#/ranking/min_score"),
    ],
)
async def test_a_draft_that_cannot_be_made_is_refused_with_a_pointer(
    tmp_path: Path, params: dict[str, Any], pointer: str
) -> None:
    async with house(tmp_path) as h:
        with pytest.raises(FrontrunnerError) as refused:
            await h.service.submit(GenerationParams(**{"prompt": "x", **params}))
        assert refused.value.pointer == pointer
        assert refused.value.status in {404, 422}
        assert h.service.stats().held == 0


async def test_cancel_and_forget(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.02) as h:
        running = await h.service.submit(GenerationParams("x", steps=150))
        with pytest.raises(NotReady):
            await h.service.image(running.id, 0, "png")
        cancelled = await h.service.cancel(running.id)
        assert cancelled.status is Status.CANCELLED
        assert sum(h.generator.calls) < 150 * 16
        name = await h.made(n_candidates=2)
        await h.service.delete(name)
        with pytest.raises(NotFound):
            await h.service.get(name)
        assert not list((tmp_path / "blobs").rglob(f"*{name}*/*"))
        other = await h.service.submit(GenerationParams("x", steps=150))
        await h.service.delete(other.id)
        for missing in (h.service.get, h.service.wait, h.service.cancel, h.service.delete):
            with pytest.raises(NotFound):
                await missing(other.id)


async def test_a_generation_forgotten_by_another_process_leaves_nothing(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.05) as h:
        running = await h.service.submit(GenerationParams("x", steps=40, n_candidates=2))
        await h.records.delete(running.id)
        while list(h.service._recordings):
            await asyncio.sleep(0.02)
        assert await h.records.get(running.id) is None
        assert await h.blobs.get(f"{blob_prefix(running.id)}field.npz") is None


async def test_another_process_can_wait_and_watch(tmp_path: Path) -> None:
    async with house(tmp_path, delay_s=0.02) as one, house(tmp_path) as two:
        running = await one.service.submit(GenerationParams("x", steps=20, n_candidates=2))
        waited, events = await asyncio.gather(two.service.wait(running.id), _all(two.service, running.id))
        assert waited.status is Status.SUCCEEDED
        assert events[-1] is EventKind.SUCCEEDED


async def _all(service: GenerationService, name: str) -> list[EventKind]:
    return [e.kind async for e in service.watch(name)]


async def test_sweep_forgets_the_old(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        old = [await h.made(n_candidates=2) for _ in range(2)]
        age = text("UPDATE generations SET created = created - 7200")
        await h.records.connections.write(lambda connection: connection.execute(age))
        new = await h.made(n_candidates=1)
        assert await h.service.purge_expired(retention_s=3600) == 2
        for name in old:
            with pytest.raises(NotFound):
                await h.service.get(name)
        assert (await h.service.get(new)).status is Status.SUCCEEDED


async def test_a_store_that_fails_for_a_while_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as h:
        failures = iter([True, True])
        put = h.blobs.put

        async def flaky(key: str, data: bytes) -> None:
            if next(failures, False):
                raise StoreUnavailable("disk full")
            await put(key, data)

        monkeypatch.setattr(h.blobs, "put", flaky)
        monkeypatch.setattr("app.service.generations.recorder.STORE_RETRY_DELAYS_S", (0.01, 0.01, 0.01))
        name = await h.made(n_candidates=2)
        assert (await h.service.get(name)).status is Status.SUCCEEDED
        assert (await h.service.image(name, 0, "png")).data


async def test_who_waits_is_told_when_a_result_cannot_be_stored_and_it_is_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.service.generations.recorder.STUCK_S", 0.01)
    monkeypatch.setattr("app.service.generations.recorder.STORE_RETRY_DELAYS_S", (0.05,) * 1000)
    monkeypatch.setattr("app.stores.instrumentation.HOLD_S", 0.0)
    async with house(tmp_path) as h:
        full = True
        put = obstore.put_async

        async def flaky(*given: Any) -> Any:
            if full:
                raise OSError("no space left on device")
            return await put(*given)

        monkeypatch.setattr(obstore, "put_async", flaky)
        asked = await h.service.submit(GenerationParams("x", n_candidates=2, steps=2))
        with pytest.raises(StoreUnavailable, match="retried"):
            await h.service.wait(asked.id)
        with pytest.raises(StoreUnavailable, match="retried"):
            await _all(h.service, asked.id)
        assert await h.service.unready_reason() == "store"
        full = False
        async with asyncio.timeout(20):
            while not (await h.service.get(asked.id)).status.is_final:
                await asyncio.sleep(0.01)
        assert (await _all(h.service, asked.id))[-1] is EventKind.SUCCEEDED
        assert (await h.service.wait(asked.id)).status is Status.SUCCEEDED
        assert await h.service.unready_reason() is None


async def test_a_picture_that_cannot_be_kept_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as h:
        name = await h.made(n_candidates=2)

        async def full(*_: object) -> None:
            raise OSError("no space left on device")

        monkeypatch.setattr(obstore, "put_async", full)
        assert (await h.service.image(name, 1, "webp")).data
        assert await h.service.unready_reason() == "store"


@pytest.mark.slow
async def test_place_counts_those_ahead(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.made(n_candidates=2)
        h.generator.delay_s = 0.06
        first = await h.service.submit(GenerationParams("x", n_candidates=5, steps=30))
        second = await h.service.submit(GenerationParams("x", n_candidates=3, steps=30))
        assert h.service.queue_position(first).position == 0
        place = h.service.queue_position(second)
        assert place.position == 5
        assert place.eta_seconds is not None
        assert place.eta_seconds > 0


async def test_ready_says_in_one_word_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as h:
        assert await h.service.unready_reason() is None

        async def silent() -> None:
            raise StoreUnavailable("gone")

        monkeypatch.setattr(h.records, "ping", silent)
        assert await h.service.unready_reason() == "store"


@pytest.mark.slow
async def test_a_full_replica_refuses_before_it_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path, delay_s=0.1) as h:
        capacity, most = h.service.stats().capacity, h.service.limits.candidates
        for _ in range(capacity // most):
            await h.service.submit(GenerationParams("x", n_candidates=most, steps=100))

        def planned(*_: object) -> None:
            raise AssertionError("a refusal needs no plan")

        monkeypatch.setattr(admission, "build_spec", planned)
        with pytest.raises(Overloaded):
            await h.service.submit(GenerationParams("x", n_candidates=most))
        h.generator.delay_s = 0.0


async def test_a_request_names_few_adapters(tmp_path: Path) -> None:
    loras = tuple(Lora(str(number)) for number in range(9))
    async with house(tmp_path) as h:
        with pytest.raises(InvalidRequest, match="9 adapters were sent; send at most 8"):
            await h.service.prepare(GenerationParams("x", loras=loras))
