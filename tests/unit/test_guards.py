"""Guards: words that count, statistics of artefacts, and the field that they change."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain import Flag, Ranking, Score
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.ranking import scoring
from app.errors import EngineFailed
from app.service.candidates.guards import FINALISTS, MAX_READINGS, Field, GuardedRanking, ImageGuards, Pixels
from models.guards import artefacts
from models.guards.names import parse_guards
from models.guards.typographic import blur, unquoted_words, written_words
from models.protocols import Models
from models.protocols.guards import ARTEFACT, TYPOGRAPHIC, ArtefactLimits, TextInImage
from tests.synthetic_models import InstrumentedGenerator
from tests.typographic import BLUE, RED, LabelReader, ReadingScorer, pasted, prompt_of, read_label, thing


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red apple on the table", {"red", "apple", "table"}),
        ('a sign with "fresh bread" over a bakery', {"sign", "bakery"}),
        ("a bakery with “fresh bread” and «свежий хлеб»", {"bakery"}),
        ("a shirt that says hello world, on a beach", {"shirt", "beach"}),
        ("the dog's toy and the dogs' house", {"dog", "toy", "dogs", "house"}),
        ('a dog and the word "dog"', set()),
        ("вывеска с надписью кафе, улица", {"вывеска", "улица"}),
        ("42 !? 🍎", set()),
        ("", set()),
    ],
)
def test_words_that_should_be_shown_and_not_written(prompt: str, words: set[str]) -> None:
    assert unquoted_words(prompt) == words


@pytest.mark.parametrize(
    ("text", "confidence", "found"),
    [
        ("APPLE", 0.9, True),
        ("red app1e", 0.9, True),  # red
        ("aple", 0.9, True),
        ("greenapplepie", 0.9, True),
        ("bored", 0.9, False),
        ("pear", 0.9, False),
        ("APPLE", 0.4, False),
        ("", 0.9, False),
    ],
)
def test_a_word_is_found_in_what_was_read(text: str, confidence: float, found: bool) -> None:
    seen = TextInImage(text, confidence, (0, 0, 10, 10))
    assert bool(written_words([seen], frozenset({"red", "apple"}))) is found


def test_blurring_leaves_the_rest_as_it_was() -> None:
    image = pasted(thing(BLUE), "apple")
    (seen,) = LabelReader().read(image)
    blurred = blur(image, [seen])
    assert read_label(image) == "apple"
    assert read_label(blurred) is None
    margin = 40
    assert (blurred[: seen.box[1] - margin] == image[: seen.box[1] - margin]).all()
    assert blur(image[:3, :3], [TextInImage("x", 1.0, (0, 0, 3, 3))]).shape == (3, 3, 3)


def _pictures(count: int = 60) -> list[NDArray[np.uint8]]:
    """Discs in random colours with a little noise."""
    drawn = np.random.default_rng(3)
    discs = [thing(tuple(drawn.integers(40, 215, 3)), 64).astype(float) for _ in range(count)]
    return [np.clip(disc + drawn.normal(0, 1.5, disc.shape), 0, 255).astype(np.uint8) for disc in discs]


def _tiled(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.tile(image[::4, ::4], (4, 4, 1))


def _noisy(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(1).normal(0, 15, image.shape)
    return np.asarray(np.clip(image + noise, 0, 255), np.uint8)


def _saturated(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    grey = image.mean(axis=2, keepdims=True)
    return np.asarray(np.clip(grey + 12 * (image - grey), 0, 255), np.uint8)


def test_limits_of_random_images_flag_what_differs_from_them() -> None:
    usual, others = _pictures()[:40], _pictures()[40:]
    limits = artefacts.fit_limits([artefacts.measure(image) for image in usual])
    assert [artefacts.reasons(artefacts.measure(image), limits) for image in others] == [()] * len(others)
    for image in others:
        assert "noisy" in artefacts.reasons(artefacts.measure(_noisy(image)), limits)
        assert "tiled" in artefacts.reasons(artefacts.measure(_tiled(image)), limits)
        assert artefacts.reasons(artefacts.measure(np.full_like(image, 128)), limits) == ("blank",)
    burnt = [artefacts.reasons(artefacts.measure(_saturated(image)), limits) for image in others]
    assert sum("saturated" in each for each in burnt) > len(burnt) / 2
    with pytest.raises(ValueError, match="at least one image"):
        artefacts.fit_limits([])


def test_without_a_calibration_only_blank_images_are_flagged() -> None:
    for image in _pictures(4):
        assert artefacts.reasons(artefacts.measure(_noisy(image)), ArtefactLimits()) == ()
        assert artefacts.reasons(artefacts.measure(np.zeros_like(image)), ArtefactLimits()) == ("blank",)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (1, 2000), (17, 5), (300, 700), (1024, 1024)])
def test_images_of_any_size_are_measured(size: tuple[int, int]) -> None:
    found = artefacts.measure(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    assert all(np.isfinite(value) for value in (found.contrast, found.saturation, found.noise, found.tiling))


def test_the_setting_names_guards() -> None:
    assert parse_guards(" artefact ,") == (ARTEFACT,)
    assert parse_guards("") == ()
    with pytest.raises(ValueError, match="not 'nsfw'"):
        parse_guards("artefact,nsfw")


def _scores(vectors: NDArray[np.float32], query: scoring.Query) -> list[Score | None]:
    return list(scoring.score_images(vectors, query))


async def _placed(
    images: list[NDArray[np.uint8]], ranking: Ranking, n: int, guards: tuple[str, ...], reader: LabelReader | None
) -> tuple[Field, tuple[int, ...], int]:
    """The field after its guards, the returned indices, and the images that were scored again."""
    scorer, rescored = ReadingScorer(), list[int]()
    engine = LocalEngine(lambda: Models(InstrumentedGenerator(), scorer), EngineConfig(warmup_s=0), lambda _: None)
    engine.start()
    while not engine.stats().ready:
        await asyncio.sleep(0.005)
    prompt = prompt_of("apple")
    query = scoring.build_query(ranking, scorer.embed_texts([prompt])[0].vector, np.zeros((0, 13), np.float32), ())
    vectors = scorer.embed_images(np.stack(images))
    field = Field(_scores(vectors, query), vectors, range(len(images)))

    async def image_at(index: int) -> Pixels:
        rescored.append(index)
        return images[index]

    try:
        guarding = ImageGuards(engine, reader)
        placed = await guarding.place(field, GuardedRanking(prompt, query, ranking, n), guards, image_at)
    finally:
        await engine.close(1)
    return field, placed.returned, len(rescored)


def test_the_lower_score_of_an_image_with_text_counts() -> None:
    images = [thing(RED), pasted(thing(BLUE), "apple"), thing(BLUE)]
    off, first, _ = asyncio.run(_placed(images, Ranking(), 1, (), None))
    assert first == (1,)
    reader = LabelReader()
    field, best, _ = asyncio.run(_placed(images, Ranking(), 1, (TYPOGRAPHIC,), reader))
    assert best == (0,)
    assert reader.calls == 2  # the attack, then the new winner
    assert field.flags == {1: (Flag(TYPOGRAPHIC, ("apple",)),)}
    before, after = off.scores[1], field.scores[1]
    assert before is not None
    assert after is not None
    assert after.score < before.score
    assert (field.embeddings[[0, 2]] == off.embeddings[[0, 2]]).all()
    assert (field.embeddings[1] != off.embeddings[1]).any()


def test_a_veto_excludes_what_is_flagged_and_may_leave_nothing() -> None:
    images = [pasted(thing(RED), "apple"), pasted(thing(BLUE), "apple")]
    asked = replace(Ranking(), veto=(TYPOGRAPHIC,))
    field, best, _ = asyncio.run(_placed(images, asked, 2, (TYPOGRAPHIC,), LabelReader()))
    assert best == ()
    assert set(field.flags) == {0, 1}
    _, kept, _ = asyncio.run(_placed(images, Ranking(), 2, (TYPOGRAPHIC,), LabelReader()))
    assert kept == (0, 1)


def test_only_finalists_are_read_and_a_field_of_text_ends() -> None:
    many = [thing(RED) for _ in range(FINALISTS + 4)]
    reader = LabelReader()
    asyncio.run(_placed(many, Ranking(), len(many), (TYPOGRAPHIC,), reader))
    assert reader.calls == FINALISTS
    attacks = [pasted(thing(BLUE), "apple") for _ in range(MAX_READINGS + 10)]
    field, _, reads = asyncio.run(
        _placed(attacks, replace(Ranking(), veto=(TYPOGRAPHIC,)), 1, (TYPOGRAPHIC,), LabelReader())
    )
    assert reads == MAX_READINGS
    assert [notice.code for notice in field.notices] == ["guard_incomplete"]


def test_without_a_reader_the_ranking_says_so() -> None:
    field, best, _ = asyncio.run(_placed([thing(RED)], Ranking(), 1, (TYPOGRAPHIC,), None))
    assert best == (0,)
    assert [notice.code for notice in field.notices] == ["guard_incomplete"]


def test_an_image_that_cannot_be_scored_again_keeps_its_score(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise EngineFailed("fake failure")

    monkeypatch.setattr(LocalEngine, "embed_images", fail)
    field, best, _ = asyncio.run(_placed([pasted(thing(BLUE), "apple")], Ranking(), 1, (TYPOGRAPHIC,), LabelReader()))
    assert best == (0,)
    assert set(field.flags) == {0}
    assert [notice.code for notice in field.notices] == ["guard_incomplete"]


def test_a_reader_that_fails_keeps_the_ranking_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(LabelReader):
        def read(self, image: NDArray[np.uint8]) -> tuple[TextInImage, ...]:
            raise OSError("/opt/models/det.onnx is damaged")

    field, best, _ = asyncio.run(_placed([thing(RED)], Ranking(), 1, (TYPOGRAPHIC,), Broken()))
    assert best == (0,)
    assert [notice.code for notice in field.notices] == ["guard_incomplete"]
    assert "/opt" not in field.notices[0].detail
    assert "det.onnx is damaged" in caplog.text


def test_a_large_upload_is_measured_without_a_copy() -> None:
    image = np.random.default_rng(1).integers(0, 256, (4000, 4000, 3), np.uint8)
    tracemalloc.start()
    try:
        found = artefacts.measure(image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < image.nbytes / 2
    assert found.contrast > 2
