"""The second scorer of a pack: exported beside it, listed at once, loaded when it is used."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.domain import GenerationSpec, Ranking, ScorerUse
from app.engine.config import EngineConfig
from app.engine.core import EngineCore
from app.engine.trajectories import run_generation
from models import registry
from models.errors import ModelUnsupported, PackCorrupt
from models.families import LoadContext, Source, load_scorer
from models.load_options import LoadOptions
from models.pack import PACKS, Pack, pack_in, packs
from models.protocols import Models, embeds

pytestmark = pytest.mark.torch

PICTURES = 6
PACK_LIMIT = 40 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded pack with a second scorer of random weights, as the export command adds it."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("timm")
    from models.training import export, runs
    from models.training.trainers import scorer

    made = tmp_path_factory.mktemp("runs")
    (made / "second").mkdir()
    torch.manual_seed(3)
    parts = scorer.trained_parts(scorer.build(scorer.config("efficientnet_lite0")))
    runs.write({"modules": parts.state_dict()}, made / "second" / "final.pt")
    (made / "scenes").mkdir()
    np.save(made / "scenes" / "generator.npy", pictures(PICTURES))
    rows = [json.dumps({"caption": f"a {thing}"}) for thing in ("cat", "dog", "red car", "tree", "boat", "fish")]
    (made / "scenes" / "generator.jsonl").write_text("\n".join(rows))
    shutil.copytree(PACKS / "pictogram", made / "pack")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "NULL_PICTURES", PICTURES)
        second = str(made / "second" / "final.pt")
        patch.setattr(sys, "argv", ["export", "--runs", str(made), "--second", second, "--only-second"])
        export.main()
    return made / "pack"


@pytest.fixture(scope="module")
def models(folder: Path) -> Models:
    return registry.load_models(str(folder), str(folder), "cpu")


def pictures(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(5).integers(0, 256, (count, 64, 64, 3), np.uint8)


def test_the_pack_keeps_its_revision_and_its_limit(folder: Path) -> None:
    pack, embedded = Pack.read(folder), Pack.read(PACKS / "pictogram")
    assert (pack.revision, pack.manifest["files"]) == (embedded.revision, embedded.manifest["files"])
    second = pack.second
    assert second is not None
    assert second.id == "pictogram-second"
    assert second.revision != pack.revision
    assert second.manifest["scorer"]["null"]["pairs"] == PICTURES * (PICTURES - 1)
    second.verify()
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < PACK_LIMIT
    assert list(packs(folder.parent)) == ["pictogram", "pictogram-second"]
    assert pack_in(folder / "second") == second
    assert pack_in(folder / "generator") is None


def test_it_is_listed_at_once_and_loads_when_a_ranking_names_it(folder: Path, models: Models) -> None:
    from models.runtime.weights import weight_bytes
    from models.scorers.deferred import DeferredScorer

    (member,) = models.members
    assert isinstance(member, DeferredScorer)
    assert (member.info.id, member.info.dimensions, member.info.token_limit) == ("pictogram-second", 256, 24)
    core, info = EngineCore(models, EngineConfig()), models.generator.info
    spec = GenerationSpec(
        id="gen_1",
        prompt="a cat",
        negative_prompt="",
        n_candidates=2,
        n=1,
        width=info.width,
        height=info.height,
        steps=2,
        guidance_scale=1.0,
        sampler=info.sampler,
        seed=1,
    )
    loaded = [member.is_loaded]
    alone = run_generation(core, spec)
    loaded.append(member.is_loaded)
    assert weight_bytes(models) == models.weight_bytes
    uses = (ScorerUse(models.scorer.info.id), ScorerUse("pictogram-second"))
    both = run_generation(core, replace(spec, ranking=Ranking(scorers=uses)))
    assert [*loaded, member.is_loaded] == [False, False, True]
    assert (alone.members, both.left_out) == ({}, {})
    assert np.isfinite(both.members["pictogram-second"]).all()
    np.testing.assert_array_equal(both.embeddings, alone.embeddings)
    second = load_scorer(LoadContext("cpu", "auto", None), Source("second", Pack.read(folder).second))
    assert second.info == member.info


def test_it_scores_as_the_stock_class_does(folder: Path, models: Models) -> None:
    from models.training.evaluation import sampling

    (member,) = models.members
    assert embeds(member)
    stock = sampling.Pack(folder, "second")
    images, texts = pictures(3), ["a cat", "a red car"]
    enlarged = 2e-3  # serving rounds enlarged pictures to whole levels
    np.testing.assert_allclose(member.embed_images(images), stock.embed_pictures(images).numpy(), atol=enlarged)
    ours = np.stack([each.vector for each in member.embed_texts(texts)])
    np.testing.assert_allclose(ours, stock.embed_texts(texts).numpy(), atol=1e-5)
    assert member.embed_texts(["кошка"])[0].reading is not None


def test_a_setting_names_it_as_member_or_referee(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "packs", lambda: packs(folder.parent))
    named = registry.load_models("fake", "fake", "cpu", options=LoadOptions(scorers=("pictogram-second",)))
    assert [each.info.id for each in named.members] == ["pictogram-second"]
    watched = registry.load_models("fake", "pictogram", "cpu", options=LoadOptions(referee="pictogram-second"))
    assert watched.members == ()
    assert watched.referee is not None
    assert watched.referee.info.id == "pictogram-second"
    main = registry.load_models("fake", str(folder / "second"), "cpu")
    assert (main.scorer.info.id, main.members) == ("pictogram-second", ())
    with pytest.raises(ModelUnsupported, match="'pictogram-second' is a scorer: name it in FRONTRUNNER_SCORERS"):
        registry.load_models("pictogram-second", "pictogram", "cpu")


def test_tuning_refuses_it_as_referee_of_the_scorer_whose_text_encoder_it_shares(models: Models) -> None:
    from models.tuning.rewards import check_independent, opinion_of
    from models.tuning.settings import TuningError

    with pytest.raises(TuningError, match="'pictogram' and 'pictogram-second' share weights"):
        check_independent(opinion_of(models.scorer), opinion_of(models.members[0]))


def test_a_changed_second_scorer_is_refused_when_it_is_used(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "pack")
    weights = copied / "second" / "open_clip_model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    (member,) = registry.load_models("fake", str(copied), "cpu").members
    assert embeds(member)
    with pytest.raises(PackCorrupt, match="pack 'pictogram-second': second/open_clip_model"):
        member.embed_images(pictures(1))
    weights.write_bytes(kept)
    assert member.embed_images(pictures(1)).shape == (1, 256)
    weights.unlink()
    with pytest.raises(PackCorrupt, match="pack 'pictogram-second': its configuration or its weights"):
        registry.load_models("fake", str(copied), "cpu")


def test_a_pack_without_one_serves_alone(folder: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(folder, tmp_path / "pack")
    shutil.rmtree(copied / "second")
    manifest = json.loads((copied / "pack.json").read_text())
    del manifest["second"]
    (copied / "pack.json").write_text(json.dumps(manifest))
    assert registry.load_models("fake", str(copied), "cpu").members == ()


def test_it_goes_back_into_training_and_comes_out_as_it_was(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from models.training import export, runs, unpack

    runs.write({"modules": unpack.states(folder)["second"]}, tmp_path / "second.pt")
    export.export_scorer(tmp_path / "second", [tmp_path / "second.pt"], "efficientnet_lite0")
    name = "second/open_clip_model.safetensors"
    before, after = load_file(folder / name), load_file(tmp_path / name)
    assert before.keys() == after.keys()
    assert all(bool((before[each] == after[each]).all()) for each in before)


def test_the_card_names_it(folder: Path) -> None:
    from models.training.evaluation import card

    runs = folder.parent
    for kind in ("autoencoder", "generator", "scorer", "second"):
        (runs / kind).mkdir(exist_ok=True)
        (runs / kind / "log.jsonl").write_text(json.dumps({"seen": 1234, "minutes": 5}) + "\n")
    row = "| second | the same, image tower efficientnet_lite0; a member for ensembles | 1,234 pictures in 5 minutes |"
    assert row in card.fill(runs, folder, {}).splitlines()
