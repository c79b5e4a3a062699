"""The warning that a requested guidance scale has no effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.domain import Notice
from app.service import GenerationParams, Limits
from app.service.generations.spec import build_spec
from models.synthetic.generator import FakeGenerator

INFO = FakeGenerator().info


def said(scale: float | None, **info: Any) -> list[Notice]:
    """The notices on guidance of a request with this scale."""
    params = GenerationParams("a red apple", guidance_scale=scale)
    _, notices = build_spec(params, replace(INFO, **info), Limits(), lambda *_: ((), False, ()))
    return [each for each in notices if each.code == "guidance_not_applied"]


@pytest.mark.parametrize(("scale", "default"), [(7.5, 0.0), (0.0, 1.0), (1.0, 3.5)])
def test_a_model_without_guidance_says_that_it_ignores_the_scale(scale: float, default: float) -> None:
    (notice,) = said(scale, guidance="none", guidance_scale=default)
    assert notice.detail == "this model is distilled without guidance: guidance_scale has no effect, omit it"
    assert notice.data == {"guidance_scale": scale}


@pytest.mark.parametrize(("scale", "limit"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (0.0, 0.0)])
def test_an_unguided_scale_is_named(scale: float, limit: float) -> None:
    (notice,) = said(scale, guidance="cfg", guidance_scale=4.0, unguided_scale=limit)
    assert notice.detail.startswith(f"guidance_scale {scale:g} is unguided")
    assert notice.detail.endswith(f"use more than {limit:g}")


@pytest.mark.parametrize(
    ("scale", "info"),
    [
        (None, {"guidance": "none", "guidance_scale": 0.0}),
        (0.0, {"guidance": "none", "guidance_scale": 0.0}),
        (0.0, {"guidance": "cfg", "guidance_scale": 0.0}),
        (None, {"guidance": "cfg", "guidance_scale": 0.0}),
        (1.5, {"guidance": "cfg", "guidance_scale": 4.0}),
        (0.0, {"guidance": "cfg", "guidance_scale": 4.0, "unguided_scale": -1.0}),
        (0.0, {"guidance": "embedded", "guidance_scale": 3.5}),
    ],
)
def test_defaults_and_scales_with_an_effect_are_not_named(scale: float | None, info: dict[str, Any]) -> None:
    assert said(scale, **info) == []
