"""Messages of invalid fields: the problem and the accepted values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_FIXED = {
    "extra_forbidden": "unknown field: remove it or check its spelling",
    "missing": "the field is required",
    "string_unicode": "the text must be valid Unicode",
    "model_type": "the value must be an object",
    "model_attributes_type": "the value must be an object",
    "dict_type": "the value must be an object",
    "list_type": "the value must be a list",
    "string_type": "the value must be a text",
    "bool_type": "the value must be true or false",
    "bool_parsing": "the value must be true or false",
    "int_type": "the value must be a whole number",
    "int_parsing": "the value must be a whole number, in digits",
    "int_parsing_size": "the value must be a whole number of fewer digits",
    "int_from_float": "the value must be a whole number",
    "float_type": "the value must be a number",
    "float_parsing": "the value must be a number",
    "finite_number": "the value must be a finite number",
}
"""Messages by pydantic's type of error."""

_TEMPLATES = {
    "greater_than_equal": "the value is too small: send at least {ge}",
    "greater_than": "the value is too small: send more than {gt}",
    "less_than_equal": "the value is too large: send at most {le}",
    "less_than": "the value is too large: send less than {lt}",
    "too_short": "the list is too short: send at least {min_length}",
    "too_long": "the list is too long: send at most {max_length}",
    "string_too_short": "the text is too short: send at least {min_length} characters",
    "string_too_long": "the text is too long: send at most {max_length} characters",
    "literal_error": "the value is unknown: send {expected}",
    "enum": "the value is unknown: send {expected}",
    "string_pattern_mismatch": "the text does not match the pattern {pattern}: correct it",
}
"""The same, with the values of an error's `ctx`."""

PATTERNS: dict[str, str] = {}
"""Messages of texts that do not match a pattern, by the pattern."""


def described(pattern: str, accepted: str) -> str:
    """`pattern`; texts that do not match it get the message `send` and `accepted`."""
    PATTERNS[pattern] = f"the text is not valid: send {accepted}"
    return pattern


def accepted_kind(found: Mapping[str, Any]) -> str | None:
    """What the value must be, if the error of pydantic is about its kind: "a list"."""
    told = _FIXED.get(str(found["type"]), "").partition("must be ")[2]
    return told if str(found["type"]).endswith("_type") else None


def message(found: Mapping[str, Any]) -> str:
    """The message of one of pydantic's errors."""
    kind, context = str(found["type"]), found.get("ctx") or {}
    if kind == "string_pattern_mismatch" and context.get("pattern") in PATTERNS:
        return PATTERNS[context["pattern"]]
    if kind in _TEMPLATES:
        return _TEMPLATES[kind].format_map(context)
    return _FIXED.get(kind, str(found["msg"]).removeprefix("Value error, "))
