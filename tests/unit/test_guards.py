"""Guards: words that count, statistics of artefacts, and the field that they change."""

from __future__ import annotations

import asyncio
import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain import Flag, Ranking, Score, ScorerUse
from app.engine.config import EngineConfig
from app.engine.local import LocalEngine
from app.engine.ranking import scoring
from app.errors import EngineFailed
from app.service.candidates.guards import FINALISTS, MAX_READINGS, ImageGuards, Inspected
from app.service.ranking.ensemble import Ensembles
from app.service.ranking.field import FieldRanking
from app.service.ranking.panel_scores import Judgeable
from models.errors import ScoringFailed
from models.guards import artefacts
from models.guards.names import parse_guards
from models.guards.typographic import blur, unquoted_words, written_words
from models.protocols import Embedder, Models, Pixels, Scorer, ScorerInfo, ScoringInfo
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


@dataclass
class Placed:
    """A field after its guards: what they found, the scores, and the returned indices, best first."""

    found: Inspected
    field: Judgeable
    best: tuple[int, ...]
    reads: int


async def _placed(
    images: list[NDArray[np.uint8]],
    ranking: Ranking,
    n: int,
    guards: tuple[str, ...],
    reader: LabelReader | None,
    members: tuple[Embedder | Scorer, ...] = (),
) -> Placed:
    scorer, rescored = ReadingScorer(), list[int]()
    models = Models(InstrumentedGenerator(), scorer, members=members)
    engine = LocalEngine(lambda: models, EngineConfig(warmup_s=0), lambda _: None)
    engine.start()
    while not engine.stats().ready:
        await asyncio.sleep(0.005)
    prompt = prompt_of("apple")
    query = scoring.build_query(ranking, scorer.embed_texts([prompt])[0].vector, np.zeros((0, 13), np.float32), ())
    vectors = scorer.embed_images(np.stack(images))
    ensembles, found = Ensembles(engine), Inspected(range(len(images)))
    collector = ensembles.collector(ranking, prompt)
    await collector.add(images)
    field = collector.field(_scores(vectors, query), vectors)
    ranked = FieldRanking(engine, ensembles, field, query, prompt, ranking, n)

    async def image_at(index: int) -> Pixels:
        rescored.append(index)
        return images[index]

    try:
        placed = await ImageGuards(engine, reader).place(ranked, found, guards, image_at)
    finally:
        await engine.close(1)
    return Placed(found, replace(field, scores=list(ranked.verdict.scores)), placed.returned, len(rescored))


class SecondReader(ReadingScorer):
    """A member that falls for labels too."""

    @property
    def info(self) -> ScorerInfo:
        return replace(super().info, id="second")


class ReadingJudge:
    """A judge that sees nothing but labels; counts its images."""

    info = ScoringInfo("judge", "1", "cpu")

    def __init__(self) -> None:
        self.seen = 0

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        self.seen += len(images)
        return np.asarray([read_label(image) is not None and text == prompt_of("apple") for image in images], "f4")


@pytest.mark.parametrize("name", ["second", "judge"])
def test_the_lower_score_of_every_member_counts(name: str) -> None:
    """The main scorer has no weight: only members decide, and they fall for the label as well."""
    images = [thing(RED), pasted(thing(BLUE), "apple"), thing(BLUE)]
    judge = ReadingJudge()
    asked = Ranking(scorers=(ScorerUse("fake", 0.0), ScorerUse(name, 1.0)))
    unguarded = asyncio.run(_placed(images, asked, 3, (), None, (SecondReader(), judge)))
    assert unguarded.best[0] == 1
    guarded = asyncio.run(_placed(images, asked, 3, (TYPOGRAPHIC,), LabelReader(), (SecondReader(), judge)))
    assert guarded.best[0] == 0
    before, after = (each.field.scores[1] for each in (unguarded, guarded))
    assert before is not None
    assert after is not None
    assert after.members[name] < before.members[name]
    assert judge.seen == (3 + 3 + 1 if name == "judge" else 0), "the others, and the blurred image once more"


def test_a_member_that_fails_on_the_blurred_image_is_left_out() -> None:
    class Failing(ReadingJudge):
        def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
            if self.seen:
                raise ScoringFailed("timeout", "the endpoint gave no answer.")
            return super().score(images, text)

    images = [thing(RED), pasted(thing(BLUE), "apple"), thing(BLUE)]
    asked = Ranking(scorers=(ScorerUse("fake"), ScorerUse("judge", 5.0)))
    placed = asyncio.run(_placed(images, asked, 3, (TYPOGRAPHIC,), LabelReader(), (Failing(),)))
    assert placed.field.left_out["judge"].code == "timeout"
    assert [set(score.members) for score in placed.field.scores if score is not None] == [set()] * 3
    assert placed.best[0] == 0


def test_the_lower_score_of_an_image_with_text_counts() -> None:
    images = [thing(RED), pasted(thing(BLUE), "apple"), thing(BLUE)]
    off = asyncio.run(_placed(images, Ranking(), 1, (), None))
    assert off.best == (1,)
    reader = LabelReader()
    guarded = asyncio.run(_placed(images, Ranking(), 1, (TYPOGRAPHIC,), reader))
    assert guarded.best == (0,)
    assert reader.calls == 2  # the attack, then the new winner
    assert guarded.found.flags == {1: (Flag(TYPOGRAPHIC, ("apple",)),)}
    before, after = off.field.scores[1], guarded.field.scores[1]
    assert before is not None
    assert after is not None
    assert after.score < before.score
    assert (guarded.field.embeddings[[0, 2]] == off.field.embeddings[[0, 2]]).all()
    assert (guarded.field.embeddings[1] != off.field.embeddings[1]).any()


def test_a_veto_excludes_what_is_flagged_and_may_leave_nothing() -> None:
    images = [pasted(thing(RED), "apple"), pasted(thing(BLUE), "apple")]
    asked = replace(Ranking(), veto=(TYPOGRAPHIC,))
    vetoed = asyncio.run(_placed(images, asked, 2, (TYPOGRAPHIC,), LabelReader()))
    assert vetoed.best == ()
    assert set(vetoed.found.flags) == {0, 1}
    assert asyncio.run(_placed(images, Ranking(), 2, (TYPOGRAPHIC,), LabelReader())).best == (0, 1)


def test_only_finalists_are_read_and_a_field_of_text_ends() -> None:
    many = [thing(RED) for _ in range(FINALISTS + 4)]
    reader = LabelReader()
    asyncio.run(_placed(many, Ranking(), len(many), (TYPOGRAPHIC,), reader))
    assert reader.calls == FINALISTS
    attacks = [pasted(thing(BLUE), "apple") for _ in range(MAX_READINGS + 10)]
    placed = asyncio.run(_placed(attacks, Ranking(veto=(TYPOGRAPHIC,)), 1, (TYPOGRAPHIC,), LabelReader()))
    assert placed.reads == MAX_READINGS
    assert [notice.code for notice in placed.found.notices] == ["guard_incomplete"]


def test_without_a_reader_the_ranking_says_so() -> None:
    placed = asyncio.run(_placed([thing(RED)], Ranking(), 1, (TYPOGRAPHIC,), None))
    assert placed.best == (0,)
    assert [notice.code for notice in placed.found.notices] == ["guard_incomplete"]


def test_an_image_that_cannot_be_scored_again_keeps_its_score(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise EngineFailed("fake failure")

    monkeypatch.setattr(LocalEngine, "embed_images", fail)
    placed = asyncio.run(_placed([pasted(thing(BLUE), "apple")], Ranking(), 1, (TYPOGRAPHIC,), LabelReader()))
    assert placed.best == (0,)
    assert set(placed.found.flags) == {0}
    assert [notice.code for notice in placed.found.notices] == ["guard_incomplete"]


def test_a_reader_that_fails_keeps_the_ranking_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(LabelReader):
        def read(self, image: NDArray[np.uint8]) -> tuple[TextInImage, ...]:
            raise OSError("/opt/models/det.onnx is damaged")

    placed = asyncio.run(_placed([thing(RED)], Ranking(), 1, (TYPOGRAPHIC,), Broken()))
    assert placed.best == (0,)
    assert [notice.code for notice in placed.found.notices] == ["guard_incomplete"]
    assert "/opt" not in placed.found.notices[0].detail
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
