"""What the engine may take for granted of any scorer, and that its numbers are open_clip's own."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.protocols import Embedder
from tests.contract.conftest import Workshop

TEXTS = ["a red apple", "blue", "two green cars", "x y z"]


def pictures(count: int, height: int = 40, width: int = 40) -> NDArray[np.uint8]:
    """Noise over flat colours, so that a resize has something to do."""
    random = np.random.default_rng(count)
    flat = random.integers(0, 256, (count, 1, 1, 3))
    return np.asarray((flat + random.integers(0, 256, (count, height, width, 3))) // 2, np.uint8)


def vectors(scorer: Embedder, texts: list[str]) -> NDArray[np.float32]:
    return np.stack([each.vector for each in scorer.embed_texts(texts)])


def test_embeddings_are_unit_vectors_in_order(scorer: Embedder) -> None:
    images = pictures(3)
    embedded, texts = scorer.embed_images(images), vectors(scorer, TEXTS)
    for each, count in ((embedded, 3), (texts, len(TEXTS))):
        assert each.dtype == np.float32
        assert each.shape == (count, scorer.info.dimensions)
        np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(scorer.embed_images(images[::-1].copy()), embedded[::-1], atol=1e-5)
    np.testing.assert_array_equal(vectors(scorer, TEXTS[::-1]), texts[::-1])


def test_an_image_scores_the_same_in_any_batch(scorer: Embedder) -> None:
    images = pictures(70)
    together = scorer.embed_images(images)
    np.testing.assert_allclose(scorer.embed_images(images[65:66]), together[65:66], atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (8, 64), (100, 30), (256, 256)])
def test_any_size_can_be_scored(scorer: Embedder, height: int, width: int) -> None:
    assert np.isfinite(scorer.embed_images(pictures(2, height, width))).all()


def test_a_text_of_unknown_signs_is_said_to_be_unknown(scorer: Embedder) -> None:
    spelt = scorer.info.id == "tiny"  # in bytes, so that no sign is unknown
    peace, standstill = "\N{HEXAGRAM FOR PEACE}", "\N{HEXAGRAM FOR STANDSTILL}"  # no emoji, which the pack reads
    texts = [peace * 4000, f"{peace} {standstill}", "a red apple", f"{peace} on white"]
    assert [each.recognised for each in scorer.embed_texts(texts)] == [spelt, spelt, True, True]


def test_truncation_names_what_is_lost(scorer: Embedder) -> None:
    limit = scorer.info.token_limit
    fitting, long = scorer.embed_texts([" ".join(["x"] * (limit - 2)), " ".join(["x"] * (limit - 2) + ["y", "z"])])
    assert fitting.truncation is None
    assert long.truncation is not None
    assert (long.truncation.tokens, long.truncation.limit) == (limit + 2, limit)
    assert long.truncation.dropped.split() == ["y", "z"]


@pytest.mark.parametrize("text", ["", " ", "\u202eolleh \u0000 \U0001f34e", "x" * 10_000])
def test_any_text_can_be_embedded(scorer: Embedder, text: str) -> None:
    assert np.isfinite(vectors(scorer, [text])).all()


def transform(config: dict[str, Any]) -> Any:
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**config), is_train=False)


def reference(model: Any, tokenizer: Any, config: dict[str, Any], images: NDArray[np.uint8]) -> Any:
    """Image and text embeddings by open_clip's own transform and model."""
    import torch

    prepare = transform(config)
    with torch.inference_mode():
        batch = torch.stack([prepare(Image.fromarray(image)) for image in images])
        return (
            model.eval().encode_image(batch, normalize=True).numpy(),
            model.encode_text(tokenizer(TEXTS), normalize=True).numpy(),
        )


def agree(scorer: Embedder, images: NDArray[np.uint8], wanted: tuple[Any, Any]) -> None:
    embedded, texts = scorer.embed_images(images), vectors(scorer, TEXTS)
    np.testing.assert_allclose(texts, wanted[1], atol=1e-5)
    assert np.abs(embedded @ texts.T - wanted[0] @ wanted[1].T).max() <= 2e-3


@pytest.mark.torch
@pytest.mark.parametrize("size", [(48, 48), (64, 96), (20, 30)])
def test_a_named_model_scores_as_open_clip_does(workshop: Workshop, size: tuple[int, int]) -> None:
    import open_clip

    scorer, name = workshop.scorer("tiny"), f"local-dir:{workshop.clip_folder}"
    model = open_clip.create_model_from_pretrained(name, return_transform=False)
    images = pictures(4, *size)
    agree(scorer, images, reference(model, open_clip.get_tokenizer(name), model.visual.preprocess_cfg, images))


@pytest.mark.torch
@pytest.mark.parametrize("size", [(64, 64), (96, 80)])
def test_the_pack_scores_as_open_clip_does(workshop: Workshop, size: tuple[int, int]) -> None:
    import open_clip
    from open_clip.tokenizer import HFTokenizer
    from safetensors.torch import load_file

    from models.pack import packs

    pack, scorer = packs()["pictogram"], workshop.scorer("pictogram")
    config, folder = json.loads((pack.scorer / "open_clip_config.json").read_text()), pack.text_encoder_folder()
    config["model_cfg"]["text_cfg"] |= {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    model = open_clip.CustomTextCLIP(**config["model_cfg"])
    text = {f"text.transformer.{name}": each for name, each in load_file(folder / "model.safetensors").items()}
    model.load_state_dict(load_file(pack.scorer / "open_clip_model.safetensors") | text, strict=False)
    images, preprocess = pictures(4, *size), config["preprocess_cfg"] | {"size": model.visual.image_size}
    agree(scorer, images, reference(model, HFTokenizer(str(folder), context_length=24), preprocess, images))


@pytest.mark.torch
@pytest.mark.parametrize(("text", "tokens"), [("", 2), ("a long forgotten pear", 6), ("pear " * 40, 24)])
def test_padding_is_not_encoded(workshop: Workshop, text: str, tokens: int) -> None:
    scorer: Any = workshop.scorer("pictogram")
    seen: list[tuple[int, ...]] = []
    hook = scorer._model.text.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    try:
        scorer._embed_text(text)
    finally:
        hook.remove()
    assert seen == [(1, tokens)]


@pytest.mark.torch
@pytest.mark.parametrize("mode", ["squash", "shortest", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, 224, (48, 80)])
@pytest.mark.parametrize("shape", [(64, 64), (150, 260), (97, 33), (224, 224), (30, 30)])
def test_resizing_is_within_a_grey_level(mode: str, interpolation: str, size: Any, shape: tuple[int, int]) -> None:
    import torch

    from models.scorers.image_transforms import ImageTransform

    config = {"size": size, "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": interpolation}
    config |= {"resize_mode": mode, "fill_color": 37}
    rows, columns = np.indices(shape)
    checks = ((rows // 5 + columns // 7) % 2 * 255)[..., None].repeat(3, 2)
    smooth = (127 + 127 * np.sin(rows / 9 + columns / 13))[..., None].repeat(3, 2)
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3))
    images = np.stack([checks, smooth, noise]).astype(np.uint8)
    wanted = torch.stack([transform(config)(Image.fromarray(image)) for image in images]) * 255
    found = ImageTransform(config, "cpu")(torch.from_numpy(images)) * 255
    assert found.shape == wanted.shape
    assert float((found - wanted).abs().max()) <= 1.001


@pytest.mark.torch
def test_without_the_byte_kernels_resizing_is_pillows_to_the_bit() -> None:
    import torch

    from models.scorers.image_transforms import resample

    image = np.random.default_rng(0).integers(0, 2, (61, 47, 3), dtype=np.uint8) * 255
    for width, height in ((47, 122), (94, 61), (100, 200)):
        wanted = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        batch = torch.from_numpy(image).permute(2, 0, 1)[None]
        size = (height, width)
        both = [resample(batch, size, "bicubic", rows_first=order, crop=size) for order in (False, True)]
        assert any(np.array_equal(each[0].permute(1, 2, 0).numpy(), wanted) for each in both)


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(1, 2000), (2000, 1), (3, 700)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_of_a_strip_only_the_middle_is_made(interpolation: str, shape: tuple[int, int]) -> None:
    import torch

    from models.scorers.image_transforms import ImageTransform

    config = {"size": 96, "mean": (0, 0, 0), "std": (1, 1, 1), "interpolation": interpolation}
    config |= {"resize_mode": "shortest", "fill_color": 0}
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    wanted = transform(config)(Image.fromarray(image)) * 255
    tracemalloc.start()
    found = ImageTransform(config, "cpu")(torch.from_numpy(image[None]))[0] * 255
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert float((found - wanted).abs().max()) <= 1.001
    assert most < 200e6


def test_parts_of_a_picture_are_unit_vectors_in_the_same_space(scorer: Embedder) -> None:
    (picture,) = pictures(1, 64, 64)
    parts = scorer.embed_patches(picture)
    assert parts is not None
    assert parts.ndim == 3
    assert parts.shape[2] == scorer.info.dimensions
    assert min(parts.shape[:2]) >= 2
    np.testing.assert_allclose(np.linalg.norm(parts, axis=2), 1, atol=1e-5)


def test_a_part_follows_its_place(scorer: Embedder) -> None:
    picture = np.full((64, 64, 3), 255, np.uint8)
    picture[:32, :32] = (220, 20, 20)
    parts, turned = scorer.embed_patches(picture), scorer.embed_patches(picture[::-1, ::-1].copy())
    assert parts is not None
    assert turned is not None
    red = parts[0, 0]
    assert red @ turned[-1, -1] > red @ turned[0, 0]
    assert red @ turned[-1, -1] > red @ parts[-1, -1]
