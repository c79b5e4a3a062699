"""Stable Diffusion's safety checker at tiny random size, against diffusers' own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import ModelNotFound
from models.guards.safety import load_classifier

pytestmark = pytest.mark.torch


def checker(folder: Path) -> Any:
    """A checker whose concepts are near the vectors of random images, saved with its processor."""
    import torch
    import transformers
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

    torch.manual_seed(0)
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision |= {"image_size": 32, "patch_size": 8, "projection_dim": 16}
    config = transformers.CLIPConfig(vision_config=vision, projection_dim=16)
    model = StableDiffusionSafetyChecker(config).eval()
    model.concept_embeds.data = torch.randn(17, 16)
    model.special_care_embeds.data = torch.randn(3, 16)
    model.concept_embeds_weights.data = torch.full((17,), 0.45)
    model.special_care_embeds_weights.data = torch.full((3,), 0.1)
    model.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)
    return model


def test_flags_are_those_of_diffusers(tmp_path: Path) -> None:
    import transformers

    model = checker(tmp_path)
    classifier = load_classifier(f"sd-checker:{tmp_path}")
    drawn = np.random.default_rng(0)
    images = [
        np.clip(drawn.normal(drawn.integers(0, 255, 3), 60, (48, 64, 3)), 0, 255).astype(np.uint8) for _ in range(40)
    ]
    pixels = transformers.CLIPImageProcessor.from_pretrained(tmp_path)(images=images, return_tensors="pt").pixel_values
    _, stock = model(pixels, [image.copy() for image in images])
    scores = [found["concept"] for found in classifier.classify(images)]
    certain = [(score, flag) for score, flag in zip(scores, stock, strict=True) if abs(score) > 1e-3]
    assert {flag for _, flag in certain} == {True, False}, "both answers"
    assert [score > classifier.info.threshold for score, _ in certain] == [flag for _, flag in certain]
    assert len(classifier.info.revision) == 12


def test_a_checker_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="not complete"):
        load_classifier(f"sd-checker:{tmp_path}")
    with pytest.raises(ModelNotFound, match="folder or a hub id"):
        load_classifier("sd-checker:/nowhere/at/all")
