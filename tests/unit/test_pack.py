"""A pack is what its manifest says, or it is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from models import calibration_io
from models.errors import ModelNotFound, PackCorrupt
from models.pack import Pack, packs
from models.training.data import languages


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pack of one file whose text encoder is in a package that must not be imported."""
    package = tmp_path / "site" / "some_text_encoder"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "model" / "model.safetensors").write_bytes(b"text")
    monkeypatch.syspath_prepend(package.parent)
    folder = tmp_path / "packs" / "one"
    (folder / "generator").mkdir(parents=True)
    (folder / "generator" / "weights").write_bytes(b"weights")
    manifest = {
        "id": "one",
        "version": "0.1",
        "text_encoder": {
            "distribution": "some-text-encoder==1",
            "package": "some_text_encoder",
            "folder": "model",
            "weights_sha256": hashlib.sha256(b"text").hexdigest(),
        },
        "generator": {"folder": "generator"},
        "scorer": {"folder": "scorer"},
        "files": {"generator/weights": hashlib.sha256(b"weights").hexdigest()},
    }
    (folder / "pack.json").write_text(json.dumps(manifest))
    return folder


def rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "pack.json").read_text())
    (folder / "pack.json").write_text(json.dumps(manifest | changes))


def test_packs_are_found_by_id(folder: Path) -> None:
    found = packs(folder.parent)["one"]
    assert found == Pack.read(folder)
    assert (found.generator, found.scorer) == (folder / "generator", folder / "scorer")
    found.verify()


def test_the_embedded_pack_is_whole() -> None:
    pack = packs()["pictogram"]
    listed = {
        str(path.relative_to(pack.folder)) for kind in (pack.generator, pack.scorer) for path in kind.rglob("*.*")
    }
    assert listed | {pack.manifest["names"]} == set(pack.manifest["files"])


@pytest.mark.parametrize("content", [b"other", None])
def test_a_changed_or_missing_file_is_refused(folder: Path, content: bytes | None) -> None:
    weights = folder / "generator" / "weights"
    weights.unlink() if content is None else weights.write_bytes(content)
    with pytest.raises(PackCorrupt, match="pack 'one': generator/weights") as error:
        Pack.read(folder).verify()
    assert str(folder.parent) not in str(error.value)


def test_other_text_encoder_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "site" / "some_text_encoder" / "model" / "model.safetensors").write_bytes(b"other")
    with pytest.raises(PackCorrupt, match=r"some_text_encoder/model\.safetensors does not match"):
        Pack.read(folder).verify()


def test_a_missing_package_is_named(folder: Path) -> None:
    rewrite(folder, text_encoder={"distribution": "not-here==1", "package": "not_here", "folder": "model"})
    with pytest.raises(ModelNotFound, match="needs a package: run pip install not-here==1"):
        Pack.read(folder).verify()


@pytest.mark.parametrize("styles", [None, {"phrases": ["old", "new"], "words": ["style"], "spread": True}])
def test_a_second_scorer_has_the_styles_of_its_generator(folder: Path, styles: dict[str, object] | None) -> None:
    generator = {"folder": "generator"} | ({} if styles is None else {"styles": styles})
    rewrite(folder, generator=generator, second={"folder": "second", "files": {}})
    pack = Pack.read(folder)
    assert pack.second is not None
    assert not pack.second.has_generator
    assert pack.second.styles == pack.styles
    assert (pack.styles is None) == (styles is None)


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_an_unreadable_manifest_is_refused(folder: Path, text: str) -> None:
    (folder / "pack.json").write_text(text)
    with pytest.raises(PackCorrupt, match=r"pack 'one': cannot read pack\.json"):
        packs(folder.parent)


def test_the_revision_follows_version_and_weights(folder: Path) -> None:
    before = Pack.read(folder).revision
    assert before.startswith("0.1-")
    rewrite(folder, version="0.2")
    newer = Pack.read(folder).revision
    rewrite(folder, files={"generator/weights": "0" * 64})
    assert len({before, newer, Pack.read(folder).revision}) == 3


def test_another_generator_keeps_the_revision_of_the_scorer(folder: Path) -> None:
    files = {"generator/weights": "1" * 64, "scorer/weights": "2" * 64}
    rewrite(folder, files=files)
    before = Pack.read(folder).scorer_revision
    rewrite(folder, files=files | {"generator/weights": "3" * 64}, version="0.2")
    assert Pack.read(folder).scorer_revision == before
    rewrite(folder, files=files | {"scorer/weights": "3" * 64})
    assert Pack.read(folder).scorer_revision != before


def test_other_words_keep_the_revision_so_that_stored_embeddings_rank_again(folder: Path) -> None:
    revisions = set()
    for words in ("{}", '{"a": 1}'):
        (folder / "words.json").write_text(words)
        rewrite(folder, words=languages.entry(folder))
        pack = Pack.read(folder)
        pack.verify()
        revisions.add(pack.revision)
    assert len(revisions) == 1


def test_the_embedded_pack_has_a_calibrated_probability_beside_its_calibration() -> None:
    """Held-out pairs of its own images and prompts; its revision does not depend on it."""
    pack = packs()["pictogram"]
    match = calibration_io.match_from_json(pack.manifest["match"])
    assert match is not None
    assert match.error <= 0.05
    assert match.pairs > 10_000
    assert sum(weight for _, _, weight in match.reliability) == pytest.approx(1, abs=1e-3)
    calibration = pack.manifest["calibration"]
    assert (calibration["generator"], calibration["scorer"]) == (pack.revision, pack.scorer_revision)
    assert (pack.folder / "reliability.svg").is_file()


def test_the_card_of_the_embedded_pack_is_its_template_and_repeats_what_was_measured() -> None:
    root, pack = Path(__file__).parents[2], packs()["pictogram"]
    card = (pack.folder / "CARD.md").read_text("utf-8")
    template = (root / "models/training/evaluation/card.template.md").read_text("utf-8")
    lines = iter(card.splitlines())
    assert [line for line in template.splitlines() if "$" not in line and line not in lines] == []
    training = " ".join((root / "models/training/README.md").read_text("utf-8").split())
    assert "its R@1 is .32 and its R@5 .54 in a style it never saw" in training
    assert "In a style that it never saw its R@1 is .32 and its R@5 .54" in " ".join(card.split())
