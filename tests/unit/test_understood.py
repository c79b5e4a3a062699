"""What a model with a text front understood is told in the answer, once for both models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.cli import output
from app.domain import Notice, Ranking
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.protocols import Outcome, Succeeded
from app.engine.texts.readings import understood
from models.protocols import Conditioning, Models, Reading, TextEmbedding
from models.protocols.readings import encode_as_read
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from tests.unit.engine_kit import spec

READINGS = {
    "красное яблако в тумане": Reading("ru", "a red apple", corrections=(("яблако", "яблоко"),), unknown=("тумане",)),
    "размыто": Reading("ru", "blurry"),
    "туман": Reading("ru", "туман", unknown=("туман",)),
    "a tull": Reading("en", "a tull", ambiguous=(("tull", ("bull", "full")),)),
}


class ReadingGenerator(FakeGenerator):
    def encode(self, texts: Sequence[str], *, negative: bool = False) -> list[Conditioning]:
        return encode_as_read(texts, READINGS.get, lambda some: FakeGenerator.encode(self, some, negative=negative))


class ReadingScorer(FakeScorer):
    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        return encode_as_read(texts, READINGS.get, lambda some: FakeScorer.embed_texts(self, some))


def run(models: Models, **changes: Any) -> Outcome:
    core = EngineCore(models, EngineConfig(), clock=lambda: 0.0)
    core.submit(spec(n_candidates=2, n=2, **changes), 0.0)
    updates = [update for _ in range(60) for _, update in core.tick()]
    assert isinstance(updates[-1], Succeeded), updates[-1]
    return updates[-1].outcome


def told(outcome: Outcome, text: str) -> dict[str, Notice]:
    return {notice.code: notice for notice in outcome.notices if notice.data.get("text") == text}


def test_both_models_get_what_was_understood_and_the_answer_says_it_once() -> None:
    prompt = "красное яблако в тумане"
    russian = run(Models(ReadingGenerator(), ReadingScorer()), prompt=prompt, negative_prompt="размыто")
    english = run(Models(FakeGenerator(), FakeScorer()), prompt="a red apple", negative_prompt="blurry")
    np.testing.assert_array_equal(russian.images[0], english.images[0])
    assert [c.score for c in russian.candidates] == [c.score for c in english.candidates]
    notices = told(russian, prompt)
    assert set(notices) == {"prompt_translated", "spelling_corrected", "words_not_understood"}
    assert notices["prompt_translated"].data["understood"] == "a red apple"
    assert "'a red apple'" in notices["prompt_translated"].detail
    assert notices["words_not_understood"].detail.startswith("left out 'тумане', not in")
    assert notices["prompt_translated"].data["models"] == ["generator", "scorer"]
    assert notices["spelling_corrected"].data["corrections"] == {"яблако": "яблоко"}
    assert notices["words_not_understood"].data["words"] == ["тумане"]
    assert told(russian, "размыто")["prompt_translated"].data["understood"] == "blurry"
    assert understood(russian.notices, prompt) == ("ru", "a red apple")
    assert understood(english.notices, "a red apple") == (None, None)


def test_a_model_without_a_text_front_gets_the_text_as_it_is() -> None:
    prompt = "красное яблако в тумане"
    mixed = run(Models(FakeGenerator(), ReadingScorer()), prompt=prompt)
    untouched = run(Models(FakeGenerator(), FakeScorer()), prompt=prompt)
    np.testing.assert_array_equal(mixed.images[0], untouched.images[0])
    assert told(mixed, prompt)["prompt_translated"].data["models"] == ["scorer"]
    assert "prompt_translated" not in told(untouched, prompt)


def test_ranking_prompts_are_read_and_ambiguous_words_are_told() -> None:
    outcome = run(Models(ReadingGenerator(), ReadingScorer()), ranking=Ranking(prompt="a tull"))
    assert told(outcome, "a tull")["spelling_ambiguous"].data["candidates"] == ["bull", "full"]
    assert understood(outcome.notices, "a red apple", "a tull") == (None, None), "the model got the text as it is"


def test_the_command_line_says_what_was_understood_and_gained() -> None:
    done = {
        "understood": "a red apple",
        "warnings": [
            {"code": "words_not_understood", "words": ["тумане"], "detail": "no word"},
            {"code": "prompt_translated", "detail": "read as a red apple"},
            {"code": "scorer_left_out", "detail": "the order is without 'layout:pictogram'"},
        ],
        "data": [{"score": 0.5}],
        "candidates": [
            {"score": 0.5, "score_is_preview": False},
            {"score": 0.3, "score_is_preview": False},
            {"score": 0.1, "score_is_preview": True},
            {"score": None, "score_is_preview": False},
        ],
    }
    assert output.result_lines(done) == [
        "understood: a red apple",
        "not understood: тумане",
        "warning: the order is without 'layout:pictogram'",
        "random pick 0.30, best of 3 0.50 (pruned: 1, counted by their last preview)",
    ]
    assert output.result_lines({**done, "understood": None, "warnings": [], "data": []}) == []


def test_a_text_of_unknown_words_alone_is_not_called_translated() -> None:
    assert set(told(run(Models(ReadingGenerator(), ReadingScorer()), prompt="туман"), "туман")) == {
        "words_not_understood"
    }
