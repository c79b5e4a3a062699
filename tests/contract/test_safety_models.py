"""Safety classifiers of diffusers and transformers at tiny random size, against the libraries' own answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.torch import load_file, save_file

from app.main import create_app
from app.settings import Settings
from models.errors import ModelNotFound
from models.guards.safety import load_classifier
from tests.api.kit import until

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


def shield(folder: Path) -> Any:
    """A ShieldGemma 2 with its processor, saved; it reads single characters."""
    import transformers

    from tests.contract.tiny_scorers import shield_gemma

    return transformers.ShieldGemma2ForImageClassification.from_pretrained(shield_gemma(folder))


def test_scores_are_the_probabilities_of_shieldgemma(tmp_path: Path) -> None:
    import torch
    import transformers

    model = shield(tmp_path).eval()
    processor = transformers.ShieldGemma2Processor.from_pretrained(tmp_path)
    classifier = load_classifier(f"shieldgemma-2:{tmp_path}")
    drawn = np.random.default_rng(0)
    images = [drawn.integers(0, 255, (side, 64, 3), np.uint8) for side in (40, 64, 100)]
    with torch.inference_mode():
        stock = model(**processor(images=images, return_tensors="pt")).probabilities[:, 0].reshape(3, 3)
    found = classifier.classify(images)
    assert [list(scores) for scores in found] == [["dangerous", "sexual", "violence"]] * 3
    assert np.asarray([list(scores.values()) for scores in found]) == pytest.approx(stock.numpy(), abs=1e-4)
    assert stock.std() > 1e-3, "images and policies differ"
    assert classifier.info.id == "shieldgemma-2"
    assert classifier.info.threshold == 0.5
    assert load_classifier(f"shieldgemma-2:{tmp_path}", 0.25).info.threshold == 0.25


def test_a_shieldgemma_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="shieldgemma-2: the files are not complete"):
        load_classifier(f"shieldgemma-2:{tmp_path}")
    with pytest.raises(ModelNotFound, match="shieldgemma-2 is not found: name a folder or a hub id"):
        load_classifier("shieldgemma-2:/nowhere/at/all")
    shield(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "layers.1" not in name}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelNotFound, match=r"shieldgemma-2: .*layers"):
        load_classifier(f"shieldgemma-2:{tmp_path}")


def test_missing_weights_end_the_start_unless_it_may_do_without(tmp_path: Path) -> None:
    """The folder is there, and holds no weights."""
    (tmp_path / "empty").mkdir()
    asked: dict[str, Any] = {"generator": "fake", "scorer": "fake", "data_dir": tmp_path / "data", "safety": "veto"}
    asked["safety_classifier"] = f"shieldgemma-2:{tmp_path / 'empty'}"
    deaths: list[BaseException] = []
    with TestClient(create_app(Settings(**asked), on_death=deaths.append)) as client:
        until(lambda: bool(deaths))
        assert client.get("/readyz").status_code == 503
    assert isinstance(deaths[0], ModelNotFound)
    assert "shieldgemma-2: the files are not complete" in str(deaths[0])
    assert str(tmp_path) not in str(deaths[0])
    with TestClient(create_app(Settings(**asked, safety_optional=True))) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        assert client.post("/v1/generations", json={"prompt": "a red apple"}).json()["safety"] == "off"
        refused = client.post("/v1/generations", json={"prompt": "a red apple", "safety": "veto"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "safety_unavailable")


def test_a_checker_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="not complete"):
        load_classifier(f"sd-checker:{tmp_path}")
    with pytest.raises(ModelNotFound, match="folder or a hub id"):
        load_classifier("sd-checker:/nowhere/at/all")
