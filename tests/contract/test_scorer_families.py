"""Scorers by name, of every family: each scores as its own library does."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from models.errors import ModelNotFound, ModelUnsupported
from models.families import LoadContext, Source, load_scorer
from tests.contract.scorer_kit import TEXTS, embedder, judge, logits
from tests.contract.test_scorer import pictures

pytestmark = pytest.mark.torch


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The name of a tiny model in a folder, by the function that builds it."""
    from tests.contract import tiny_scorers

    return str(getattr(tiny_scorers, request.param)(tmp_path))


# open_clip


@pytest.mark.parametrize("made", ["siglip", "multilingual"], indirect=True)
def test_an_open_clip_model_with_a_tokenizer_of_transformers_scores_as_open_clip_does(
    made: str, context: LoadContext
) -> None:
    import open_clip
    import torch

    scorer, name = embedder(context, made), f"local-dir:{made}"
    model, prepare = open_clip.create_model_from_pretrained(name)
    images = pictures(4, 40, 48)
    batch = torch.stack([prepare(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        seen, read, *rest = model.eval()(batch, open_clip.get_tokenizer(name)(TEXTS))
        wanted = rest[0] * seen @ read.T + (rest[1] if len(rest) > 1 else 0)
    np.testing.assert_allclose(logits(scorer, images), wanted.numpy(), atol=0.03)
    assert (scorer.info.logit_bias is None) == (len(rest) == 1)
    assert scorer.info.token_limit == 24


@pytest.mark.parametrize("made", ["multilingual"], indirect=True)
def test_a_multilingual_model_reads_russian(made: str, context: LoadContext) -> None:
    red, other, foreign, long = embedder(context, made).embed_texts(["алая роза", "алая река", "\N{DUCK}", "а " * 40])
    assert [each.recognised for each in (red, other, foreign)] == [True, True, False]
    assert red.vector @ other.vector < 0.9999
    assert long.truncation is not None


def test_a_folder_of_open_clip_with_other_weights_is_refused(tmp_path: Path, context: LoadContext) -> None:
    from safetensors.torch import load_file, save_file

    from tests.contract import tiny_scorers

    weights = Path(tiny_scorers.siglip(tmp_path)) / "open_clip_model.safetensors"
    save_file({name: each for name, each in load_file(weights).items() if "visual" not in name}, weights)
    with pytest.raises(ModelUnsupported, match=r"scorer .*: the model's files are inconsistent") as error:
        load_scorer(context, Source(str(tmp_path)))
    assert str(tmp_path) not in str(error.value)


# transformers


@pytest.mark.parametrize("made", ["hf_clip", "hf_siglip", "hf_siglip2"], indirect=True)
@pytest.mark.parametrize("size", [(32, 32), (48, 40)])
def test_a_model_of_transformers_scores_as_transformers_does(
    made: str, context: LoadContext, size: tuple[int, int]
) -> None:
    import torch
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(made), AutoProcessor.from_pretrained(made)
    with torch.no_grad():
        model.logit_scale.fill_(4.6)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(-10.0)
    model.eval().save_pretrained(made)
    images, scorer = pictures(5, *size), embedder(context, made)
    seen = processor.image_processor([Image.fromarray(image) for image in images], return_tensors="pt")
    padding = "max_length" if "siglip" in model.config.model_type else True
    limit = scorer.info.token_limit
    read = processor.tokenizer(TEXTS, padding=padding, max_length=limit, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        wanted = model(**seen, **read).logits_per_image.numpy()
    np.testing.assert_allclose(logits(scorer, images), wanted, atol=0.05)
    assert scorer.info.logit_scale == pytest.approx(np.exp(4.6), rel=1e-5)
    assert scorer.info.logit_bias == (-10.0 if "siglip" in model.config.model_type else None)


@pytest.mark.parametrize("made", ["hf_siglip", "hf_siglip2"], indirect=True)
def test_a_siglip_of_transformers_keeps_to_the_protocol(made: str, context: LoadContext) -> None:
    scorer, images = embedder(context, made), pictures(70)
    together = scorer.embed_images(images)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(scorer.embed_images(images[65:66]), together[65:66], atol=1e-5)
    for size in ((2, 2), (8, 64), (100, 30)):
        assert np.isfinite(scorer.embed_images(pictures(2, *size))).all()
    fitting, long, empty = scorer.embed_texts(["x " * 20, "x" * 100, ""])
    assert (fitting.truncation, long.truncation is None) == (None, False)
    assert np.isfinite(empty.vector).all()
    assert scorer.embed_patches(images[0]) is None


def _cached(folder: Path, cache: Path, name: str) -> None:
    """Put a folder into a hub's cache."""
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    (place / "snapshots").mkdir()
    folder.rename(place / "snapshots" / ("0" * 40))


@pytest.mark.parametrize("name", ["pickscore", "owner/clip"])
def test_hub_ids_and_short_names_of_transformers_models(
    name: str, tmp_path: Path, context: LoadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.contract import tiny_scorers

    (tmp_path / "built").mkdir()
    tiny_scorers.hf_clip(tmp_path / "built")
    _cached(tmp_path / "built", tmp_path, "yuvalkirstain/PickScore_v1" if name == "pickscore" else name)
    for module in ("huggingface_hub.constants.HF_HUB_CACHE", "transformers.utils.hub.constants.HF_HUB_CACHE"):
        monkeypatch.setattr(module, str(tmp_path))
    found = embedder(context, name)
    assert (found.info.id, found.info.dimensions) == (name, 32)
    assert load_scorer(context, Source(name)) is found


def test_a_model_of_transformers_that_embeds_no_texts_is_refused(tmp_path: Path, context: LoadContext) -> None:
    import transformers

    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(ModelUnsupported, match="scorer 'vit': a 'vit' model of transformers does not embed"):
        load_scorer(context, Source(str(tmp_path / "vit")))


@pytest.mark.parametrize(("build", "prefix"), [("hf_clip", ""), ("vision_language", "vlm:")])
def test_a_model_of_transformers_without_all_tensors_is_refused(
    build: str, prefix: str, tmp_path: Path, context: LoadContext
) -> None:
    from safetensors.torch import load_file, save_file

    from tests.contract import tiny_scorers

    weights = Path(getattr(tiny_scorers, build)(tmp_path)) / "model.safetensors"
    save_file(dict(list(load_file(weights).items())[:-3]), weights, {"format": "pt"})
    with pytest.raises(ModelNotFound, match=rf"scorer '{prefix}{tmp_path.name}': the model lacks 3 of"):
        load_scorer(context, Source(f"{prefix}{tmp_path}"))


@pytest.mark.parametrize(
    ("build", "prefix", "name"), [("hf_clip", "", "logit_scale"), ("vision_language", "vlm:", "lm_head.weight")]
)
def test_a_scorer_without_the_tensor_of_its_answers_is_refused(
    build: str, prefix: str, name: str, tmp_path: Path, context: LoadContext
) -> None:
    """Generators do without them: they use hidden states only."""
    from safetensors.torch import load_file, save_file

    from tests.contract import tiny_scorers

    weights = Path(getattr(tiny_scorers, build)(tmp_path)) / "model.safetensors"
    tensors = load_file(weights)
    del tensors[name]
    save_file(tensors, weights, {"format": "pt"})
    with pytest.raises(ModelNotFound, match=rf"the model lacks 1 of \d+ tensors \({name}\)"):
        load_scorer(context, Source(f"{prefix}{tmp_path}"))


# HPSv2


def _hps(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Path]:
    """A tiny CLIP in place of ViT-H-14, and its checkpoint in the form of HPSv2's."""
    import open_clip
    import torch

    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (folder / "tiny-hps.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / "tiny-hps.json")
    monkeypatch.setattr("models.scorers.checkpoints.HPS_ARCHITECTURE", "tiny-hps")
    torch.manual_seed(0)
    model = open_clip.create_model("tiny-hps", load_weights=False).eval()
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "HPS_tiny.pt")
    return model, folder / "HPS_tiny.pt"


def test_hps_weights_see_the_whole_picture_on_black(
    tmp_path: Path, context: LoadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    import open_clip
    import torch

    model, file = _hps(tmp_path, monkeypatch)
    scorer, images = embedder(context, f"hps:{file}"), pictures(3, 96, 60)
    mean, std = (np.array(each) for each in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    batch = []
    for image in images:
        whole = Image.new("RGB", (48, 48))
        whole.paste(Image.fromarray(image).resize((30, 48), Image.Resampling.BICUBIC), (9, 0))
        batch.append(torch.from_numpy((np.asarray(whole) / 255 - mean) / std).permute(2, 0, 1).float())
    with torch.inference_mode():
        seen, read, scale = model(torch.stack(batch), open_clip.tokenize(TEXTS))
    np.testing.assert_allclose(logits(scorer, images), (scale * seen @ read.T).numpy(), atol=0.03)
    assert scorer.info.id == "hps:HPS_tiny.pt"


def test_the_architecture_of_hps_is_the_published_one() -> None:
    import open_clip

    from models.scorers.checkpoints import HPS_ARCHITECTURE

    config = open_clip.get_model_config(HPS_ARCHITECTURE)
    assert (config["embed_dim"], config["vision_cfg"]["layers"], config["text_cfg"]["layers"]) == (1024, 32, 24)


class Harmful:
    """An object that writes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self._file,))


@pytest.mark.parametrize("prefix", ["hps:", "aesthetic:"])
def test_a_file_with_code_is_refused_and_not_run(
    prefix: str, tmp_path: Path, context: LoadContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    _hps(tmp_path, monkeypatch)
    torch.save({"state_dict": {"weight": Harmful(tmp_path / "run")}}, tmp_path / "bad.pt")
    with pytest.raises(ModelUnsupported, match=f"scorer '{prefix}bad.pt': the model's files are inconsistent"):
        load_scorer(context, Source(f"{prefix}{tmp_path / 'bad.pt'}"))
    assert not (tmp_path / "run").exists()


# aesthetic heads


def _head(width: int, *, deep: bool) -> Any:
    """A head of LAION's, deep or linear."""
    import torch

    torch.manual_seed(0)
    if not deep:
        return torch.nn.Linear(width, 1)
    widths = (width, 1024, 128, 64, 16, 1)
    layers: list[Any] = []
    for before, after in itertools.pairwise(widths):
        layers += [torch.nn.Linear(before, after)]
        layers += [torch.nn.Dropout()] if after > 16 else []
    holder = torch.nn.Module()
    holder.layers = torch.nn.Sequential(*layers)
    return holder


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_an_aesthetic_head_scores_embeddings_and_ignores_the_prompt(
    deep: bool, suffix: str, tmp_path: Path, context: LoadContext
) -> None:
    import torch
    from safetensors.torch import save_file

    from tests.contract import tiny_scorers

    (tmp_path / "clip").mkdir()
    place, head = tiny_scorers.hf_clip(tmp_path / "clip"), _head(32, deep=deep).eval()
    file = tmp_path / f"head{suffix}"
    save_file(head.state_dict(), file) if suffix == ".safetensors" else torch.save(head.state_dict(), file)
    scorer, images = judge(context, f"aesthetic:{file}@{place}"), pictures(4)
    embedded = torch.from_numpy(embedder(context, place).embed_images(images))
    with torch.inference_mode():
        wanted = (head.layers if deep else head)(embedded)[:, 0].numpy()
    found = scorer.score(images, "a red apple")
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(scorer.score(images, ""), found)
    assert (scorer.info.id, scorer.info.reads_text, scorer.info.remote) == (f"aesthetic:{file.name}", False, False)
    assert scorer.info.light
    assert str(found.dtype) == "float32"


def test_aesthetic_heads_that_do_not_fit_are_refused(tmp_path: Path, context: LoadContext) -> None:
    import torch

    cases: dict[str, tuple[Any, str, str]] = {
        "width.pth": (
            _head(32, deep=False).state_dict(),
            "@fake",
            "takes embeddings of 32 numbers and 'fake' makes 13",
        ),
        "alone.pth": (_head(32, deep=False).state_dict(), "", "no embedder is known for heads of 32 numbers"),
        "judge.pth": (_head(32, deep=False).state_dict(), "@fake-judge", "'fake-judge' only scores"),
        "other.pth": ({"conv": torch.zeros(3)}, "@fake", "the file holds 'conv'"),
        "two.pth": (torch.nn.Linear(13, 2).state_dict(), "@fake", "the layers of the file are unknown"),
        "relu.pth": (
            torch.nn.Sequential(torch.nn.Linear(13, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)).state_dict(),
            "@fake",
            "the layers of the file are unknown",
        ),
    }
    for name, (weights, behind, message) in cases.items():
        torch.save(weights, tmp_path / name)
        with pytest.raises(ModelUnsupported, match=message):
            load_scorer(context, Source(f"aesthetic:{tmp_path / name}{behind}"))


@pytest.mark.parametrize("prefix", ["hps", "aesthetic", "vlm"])
def test_missing_files_are_named_without_their_place(prefix: str, context: LoadContext) -> None:
    with pytest.raises(ModelNotFound, match=f"scorer '{prefix}:file.pt': ") as error:
        load_scorer(context, Source(f"{prefix}:/no/such/file.pt"))
    assert "/no/such" not in str(error.value)
