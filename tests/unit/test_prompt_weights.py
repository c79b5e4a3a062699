"""Weights in prompts: what is read as a weight, and what stays text."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.notices import weights_notices
from models.prompt_weights import MAX_WEIGHT, read_weights, without_marks
from models.synthetic.generator import FakeGenerator
from tests.unit.engine_kit import spec


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a (red:1.4) apple", [("a ", 1), ("red", 1.4), (" apple", 1)]),
        ("(red:1.4)", [("red", 1.4)]),
        ("(red:.5), (blue:0)", [("red", 0.5), (", ", 1), ("blue", 0)]),
        ("a (red)1.4 apple", [("a ", 1), ("red", 1.4), (" apple", 1)]),
        ("a++ b", [("a", 1.1**2), (" b", 1)]),
        ("a cat+++, (red hat)--", [("a ", 1), ("cat", 1.1**3), (", ", 1), ("red hat", 0.9**2)]),
        ("cat--, dog", [("cat", 0.9**2), (", dog", 1)]),
        ("((red:1.2) apple:1.5)", [("red", 1.2 * 1.5), (" apple", 1.5)]),
        ("((red:1.2):1.5)", [("red", 1.2 * 1.5)]),
        ("(cat++ (smiling):0.5)", [("cat", 0.5 * 1.1**2), (" (smiling)", 0.5)]),
        (r"(saber \(fate\):1.2)", [("saber (fate)", 1.2)]),
        ("(model 3:1.2)", [("model 3", 1.2)]),
        ("(red :1.2)", [("red ", 1.2)]),
        ("(a, b: c:1.2)", [("a, b: c", 1.2)]),
        ("(a) (red:1.4) (b", [("(a) ", 1), ("red", 1.4), (" (b", 1)]),
        (") (red:1.4))", [(") ", 1), ("red", 1.4), (")", 1)]),
        ("(a (red:1.4)", [("(a ", 1), ("red", 1.4)]),
        ("(ein schöner Baum:1.2)", [("ein schöner Baum", 1.2)]),
        ("(красный:1.3) 苹果++", [("красный", 1.3), (" ", 1), ("苹果", 1.1**2)]),
    ],
)
def test_marks_are_weights(text: str, parts: list[tuple[str, float]]) -> None:
    read = read_weights(text)
    assert read is not None
    assert [each for each, _ in read.parts] == [each for each, _ in parts]
    assert [weight for _, weight in read.parts] == pytest.approx([weight for _, weight in parts])
    assert read.plain == without_marks(text) == "".join(each for each, _ in parts)
    assert (bool(read.marks), read.rejected, read.limited) == (True, (), False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a man (smiling)",
        "C++ code, c++17 and Notepad++",
        "Dev-C++, g++ or clang++; i++ and an A++ grade",
        "a clock (at 10:30), ratio (16:9), (John 3:16), (scale 1:10)",
        "(note: 2) (taille :2)",
        "(text: 1.4)",
        "(:3) (::1.2) ( :1.4) ()1.4",
        "(founded:1984)",
        "a house--red, and -- a dash",
        "the castle-- old",
        "f(x)1.5 f(x)++",
        "((red)) [blue] {green}",
        "(red:1.4",
        "red:1.4)",
        "(red:bold)",
        "(red:1.4:)",
        "(red)1.4mm (a)2nd (b)3",
        "18++ --ar 16:9 a+ b- c+d",
        r"\(red:1.4\)",
        "<lora:film:0.8>",
        "1 + 1 ++ 2",
        ")(",
        "a heading----------, " + "+" * 20,
    ],
)
def test_ordinary_text_has_no_weights(text: str) -> None:
    assert read_weights(text) is None
    assert without_marks(text) == text


@pytest.mark.parametrize("mark", ["(red:4.1)", "(red:20)", "(red:-1)", "(red)9.5", "red" + "+" * 15])
def test_a_weight_out_of_range_is_text(mark: str) -> None:
    read = read_weights(f"a {mark} apple")
    assert read is not None
    assert (read.marks, read.rejected, read.plain) == ((), (mark,), f"a {mark} apple")
    assert without_marks(f"a {mark} apple") == f"a {mark} apple"


def test_nested_weights_have_a_limit() -> None:
    read = read_weights("((red:4):4)")
    assert read is not None
    assert (read.parts, read.limited) == ((("red", MAX_WEIGHT),), True)


@given(st.text(alphabet="ab(){}[]:.,+-\\ 14", max_size=60))
def test_any_text_is_read(text: str) -> None:
    read = read_weights(text)
    if read is not None:
        assert read.marks or read.rejected
        assert all(part and 0 <= weight <= MAX_WEIGHT for part, weight in read.parts)
        assert len(read.plain) <= len(text)


def test_long_texts_are_read_in_one_pass() -> None:
    depth = 1000
    read = read_weights("(a" * depth + ":1.0)" * depth)
    assert read is not None
    assert (len(read.marks), read.plain) == (depth, "a" * depth)
    assert read_weights("(" * 20_000 + "a" * 20_000 + "-" * 20_000) is None


@pytest.mark.parametrize(
    ("status", "text", "code", "part"),
    [
        ("unsupported", "a (red:1.4) apple", "weights_ignored", "takes no weights"),
        ("not_installed", "a (red:1.4) apple", "weights_ignored", "pip install compel"),
        ("applied", "a (red:20) apple", "weights_ignored", "from 0 to 4"),
        ("applied", "((red:4):4)", "weights_limited", "at most 4"),
    ],
)
def test_notices_say_what_was_not_applied(status: Any, text: str, code: str, part: str) -> None:
    info = replace(FakeGenerator().info, prompt_weights=status)
    (notice,) = weights_notices(info, "a man (smiling)", text)
    assert (notice.code, notice.data["text"], part in notice.detail) == (code, text, True)
    assert json.loads(json.dumps(notice.data)) == notice.data


def test_applied_weights_and_ordinary_text_have_no_notice() -> None:
    info = FakeGenerator().info
    assert weights_notices(replace(info, prompt_weights="applied"), "a (red:1.4) apple", "C++ (16:9)") == ()
    assert weights_notices(info, "a man (smiling)", "C++ (16:9)", "") == ()
    assert weights_notices(info, "Apollo (mission:11)") == ()


def test_the_scorer_reads_a_weighted_prompt_without_marks() -> None:
    marked = spec(prompt="a (red:1.4) apple", negative_prompt="(blurry:1.2)")
    assert marked.ranking_prompt == "a (red:1.4) apple"
    weighted = replace(marked, weighted=True)
    assert (weighted.ranking_prompt, weighted.ranking_negative_prompt) == ("a red apple", "blurry")
    own = replace(weighted, ranking=replace(weighted.ranking, prompt="a (red:1.4) boat"))
    assert own.ranking_prompt == "a (red:1.4) boat"
