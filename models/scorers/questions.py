"""What vision-language models are asked, and how their answers are read.

Without torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_WORD = re.compile(r"[\s\"'*_`.!]*(yes|no)[\s\"'*_`.!]*", re.IGNORECASE)
_GRADE = re.compile(
    r"[\s\"'*_`]*(\d{1,2}(?:\.\d{1,4})?)(?:\s*/\s*10|\s+out of 10)?[\s\"'*_`.!]*", re.IGNORECASE | re.ASCII
)
_HIGHEST = 10.0


def yes_or_no(text: str) -> str:
    """The question whether an image shows a text."""
    return f'Does this image show "{text}"? Answer with Yes or No only.'


def grade(text: str) -> str:
    """The question how well an image shows a text, from 0 to 10."""
    return (
        f'How well does this image show "{text}"? '
        "Answer with one number from 0 to 10 only: 0 is not at all, 10 is every part of it. Decimals are allowed."
    )


def read_answer(answer: str) -> float | None:
    """The value of an answer, from 0 to 1.

    None for an answer that is not just yes, no or a grade.
    """
    if word := _WORD.fullmatch(answer):
        return float(word[1].lower() == "yes")
    number = _GRADE.fullmatch(answer)
    if number is None or float(number[1]) > _HIGHEST:
        return None
    return float(number[1]) / _HIGHEST


def share_of_yes(tokens: Sequence[Mapping[str, Any]]) -> float | None:
    """The probability of yes against no at the first token that is not space.

    `tokens` are those of the answer, with `token` and `top_logprobs`, as in OpenAI's chat completions. None if neither
    word is among the likely ones. Raises the errors of other forms.
    """
    for each in tokens:
        if not each["token"].strip():
            continue
        shares = {"yes": 0.0, "no": 0.0}
        for likely in each.get("top_logprobs") or [each]:
            word, value = likely["token"].strip().lower(), float(likely["logprob"])
            if math.isnan(value):
                raise ValueError("a log probability is not a number")
            if word in shares:
                shares[word] += math.exp(min(0.0, value))
        total = sum(shares.values())
        return shares["yes"] / total if total > 0 else None
    return None
