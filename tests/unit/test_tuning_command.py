"""`frontrunner tune` and `compare`: what stores hold for them, and options that cannot work."""

from __future__ import annotations

import asyncio
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from app.cli.client import CliError
from app.domain import Candidate, Safety, SafetyVerdict, TasteProfile, Vote, VoteKind
from app.settings import Settings
from app.stores.taste import SqlVoteStore
from models import registry
from models.errors import ModelError
from models.protocols import GeneratorInfo
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from models.tuning.settings import TuningError
from tests.unit.service_kit import house
from tests.unit.store_kit import generation

pytestmark = pytest.mark.torch


def settings(folder: Path) -> Settings:
    return Settings(data_dir=folder, database_url=f"sqlite:///{folder}/records.db", blob_url=f"file://{folder}/blobs")


def profile(generation: str, *kinds: tuple[VoteKind, int, int | None]) -> TasteProfile:
    info = FakeScorer().info
    direction = np.ones(info.dimensions, "<f2").tobytes()
    votes = tuple(Vote(kind, generation, index, over, direction) for kind, index, over in kinds)
    return TasteProfile(info.id, info.revision, np.zeros(info.dimensions, "<f4").tobytes(), 1, votes)


async def races(folder: Path, **changes: Any) -> tuple[Any, GeneratorInfo]:
    """What a store of two generations holds, one of them with votes."""
    from app.cli.tuning.stored import read_races

    async with house(folder) as home:
        voted = await home.made(n_candidates=4)
        await home.made(n_candidates=3, prompt="a boat")
        kinds = (VoteKind.LIKE, 0, None), (VoteKind.DISLIKE, 1, None), (VoteKind.PREFER, 3, 2)
        await SqlVoteStore(home.records.connections).replace("", "blog", profile(voted, *kinds))
        info = replace(home.generator.info, **changes.pop("info", {}))
        asked = {"owner": "", "since": None, "profile": None} | changes
        await home.records.close()
    return await read_races(settings(folder), info=info, **asked), info


def test_stored_races_are_fields_with_votes(tmp_path: Path) -> None:
    found, _ = asyncio.run(races(tmp_path))
    by_prompt = {each.prompt: each for each in found.races}
    assert set(found.prompts) == {"a red apple", "a boat"}
    assert by_prompt["a red apple"].votes == {0: True, 1: False, 3: True, 2: False}
    assert by_prompt["a boat"].votes == {}
    assert [by_prompt[text].candidates for text in ("a red apple", "a boat")] == [(0, 1, 2, 3), (0, 1, 2)]
    assert found.summary == "2 stored generations with 4 votes"


def test_latents_are_read_when_they_are_needed(tmp_path: Path) -> None:
    from app.cli.tuning.stored import _latents, stored_fields

    found, _ = asyncio.run(races(tmp_path))
    fields = {each.prompt: each for each in stored_fields(settings(tmp_path), found.races)}
    latents = fields["a boat"].load()
    assert latents is not None
    stored = next((tmp_path / "blobs").rglob("field.npz")).read_bytes()
    for damaged in (b"", b"no archive", stored[: len(stored) // 2], stored.replace(b"latents", b"patents")):
        assert _latents(damaged, range(3)) is None
    assert _latents(stored, [99]) is None
    assert (len(latents), latents.dtype.name) == (3, "float16")
    assert fields["a boat"].guidance == found.races[0].guidance
    for file in (tmp_path / "blobs").rglob("field.npz"):
        file.unlink()
    assert fields["a boat"].load() is None
    assert fields["a red apple"].load() is None


def test_new_generations_and_votes_do_not_change_a_run(tmp_path: Path) -> None:
    from app.cli.tuning.given import FILE, Wanted, given
    from models.tuning.state import RunFolder

    _, info = asyncio.run(races(tmp_path))
    own, folder, wanted = settings(tmp_path), RunFolder(tmp_path / "run"), Wanted(True, "", None, "blog")

    def read(wanted: Wanted = wanted) -> Any:
        return given(own, wanted, info, folder).to_json()

    begun = read()
    assert [len(row["candidates"]) for row in begun["races"]["races"]] == [3, 4]
    asyncio.run(races(tmp_path))
    assert len(read()["races"]["races"]) == 4, "nothing was learnt yet, so the run begins with what there is"
    begun = read()
    (tmp_path / "run" / "state").mkdir()
    (tmp_path / "run" / "state" / "run.safetensors").touch()
    asyncio.run(races(tmp_path))
    assert read() == begun
    changes: dict[str, dict[str, Any]] = {
        "--since": {"since": 1.0},
        "--owner": {"owner": "key_other"},
        "--reward": {"profile": None},
    }
    for option, change in changes.items():
        with pytest.raises(CliError, match=rf"other options \({option}\)"):
            read(replace(wanted, **change))
    for damaged in ("{}", json.dumps(begun | {"options": ["since"]})):
        (tmp_path / "run" / FILE).write_text(damaged)
        with pytest.raises(CliError, match="missing or damaged"):
            read()


def test_what_safety_withholds_teaches_nothing() -> None:
    from app.cli.tuning.stored import _latents, _race, _usable

    flagged = SafetyVerdict(True, {"nsfw": 0.9}, "fake", "1")
    verdicts = (None, flagged, replace(flagged, flagged=False))
    made = replace(generation(), candidates=tuple(Candidate(i, i, safety=each) for i, each in enumerate(verdicts)))
    vetoed = replace(made, spec=replace(made.spec, safety=Safety.VETO))
    assert (_usable(made), _usable(vetoed)) == ([0, 1, 2], [0, 2])
    file = io.BytesIO()
    np.savez(file, latents=np.arange(3, dtype=np.float16)[:, None, None, None])
    found = _race(vetoed, {1: True, 2: False})
    assert (found.candidates, found.votes) == ((0, 2), {1: False})
    latents = _latents(file.getvalue(), found.candidates)
    assert latents is not None
    assert latents.ravel().tolist() == [0, 2]


def test_fields_that_were_spread_over_styles_teach_and_variants_do_not() -> None:
    from app.cli.tuning.stored import _unusable

    made = replace(generation(), candidates=(Candidate(0, 0), Candidate(1, 1)))
    info = replace(FakeGenerator().info, revision=made.model_revision)
    info = replace(info, width=made.spec.width, height=made.spec.height)
    plain, variants = made.spec, replace(made.spec, wordings=("a cup", "a fish"))
    fields = [replace(made, spec=each) for each in (plain, replace(variants, spread=True), variants)]
    assert [_unusable(each, info) for each in fields] == [None, None, "from variants of the prompt"]


def test_stores_of_other_revisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="2 of them: another revision"):
        asyncio.run(races(tmp_path, info={"revision": "other"}))


def test_an_empty_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="it holds none made without an API key, see --owner, since then"):
        asyncio.run(races(tmp_path, since=4e9))
    (tmp_path / "b").mkdir()
    with pytest.raises(CliError, match="it holds none of this --owner"):
        asyncio.run(races(tmp_path / "b", owner="key_other"))


def test_a_profile_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    from app.cli.tuning.stored import read_profile

    with pytest.raises(CliError, match="the store holds none"):
        asyncio.run(read_profile(settings(tmp_path), "", "blog"))


def test_taste_rewards_agreement_and_similarity() -> None:
    from app.cli.tuning.stored import Taste, taste_opinion

    scorer = FakeScorer()
    images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    embedded = scorer.embed_images(images)
    liked = replace(profile("gen_a", (VoteKind.LIKE, 0, None)))
    vote = replace(liked.votes[0], direction=(embedded[2] - embedded.mean(0)).astype("<f2").tobytes())
    fitted = Taste.of(replace(liked, votes=(vote,) * 10))
    opinion = taste_opinion("blog", fitted, scorer)
    kept = taste_opinion("blog", Taste.from_json(json.loads(json.dumps(fitted.to_json()))), scorer)
    assert kept.revision == opinion.revision
    plain = embedded @ scorer.embed_texts(["a boat"])[0].vector
    assert opinion.id == "taste:blog"
    taste = opinion.score("a boat", images) - plain / (scorer.info.null_std or 0.05)
    assert int(np.argmax(taste)) == 2
    assert np.ptp(taste) > 0.1
    with pytest.raises(CliError, match="needs scorer"):
        taste_opinion("blog", replace(fitted, revision="other"), scorer)


def test_since_is_a_date_or_a_time() -> None:
    from app.cli.tuning.stored import parse_since

    assert parse_since("1970-01-02") == 86400.0
    assert parse_since("1970-01-01T01:00:00+01:00") == 0.0
    with pytest.raises(CliError, match="2026-01-31"):
        parse_since("yesterday")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--out", "x"], "name either --prompts FILE or --from-store"),
        (["--out", "x", "--prompts", "p.txt", "--from-store"], "name either"),
        (["--out", "x", "--prompts", "p.txt"], "--referee is required"),
        (["--out", "x", "--prompts", "p.txt", "--referee", "fake"], "both reward and referee"),
        (["--out", "x", "--prompts", "p.txt", "--referee", "fake-judge"], "has no native loop"),
        (["--out", "x", "--prompts", "none.txt", "--referee", "fake-judge"], "No such file"),
        (["--out", "x", "--prompts", "p.txt", "--candidates", "1"], "2"),
        (["--out", "x", "--prompts", "p.txt", "--since", "2026-01-31"], "add --from-store, or omit --since"),
        (["--out", "x", "--prompts", "p.txt", "--owner", "fr_1"], "add --from-store or --reward taste:NAME"),
        (["--out", "x", "--prompts", "few.txt", "--referee", "fake-judge"], "2 different prompts are too few"),
        (["--out", "x", "--prompts", "p.png", "--referee", "fake-judge"], "p.png is no text in UTF-8"),
        (["--out", "p.txt/x", "--prompts", "p.txt", "--referee", "fake-judge"], "--out must be a folder"),
    ],
)
def test_options_that_cannot_work(
    options: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why in refused(["tune", *options], tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["base", "base", "--prompts", "few.txt", "--referee", "fake-judge"], "2 different prompts are too few"),
        (["base", "none", "--prompts", "p.txt", "--referee", "fake-judge"], "is no adapter"),
        (["base", "base", "--prompts", "p.txt", "--referee", "fake"], "both reward and referee"),
        (["base", "base", "--prompts", "p.txt", "--owner", "fr_1"], "add --reward taste:NAME"),
        (["base", "base", "--prompts", "p.txt", "--reward", "taste:blog"], "no taste profile 'blog' with votes"),
        (
            ["base", "base", "--prompts", "p.txt", "--out", "no/x.json"],
            "file 'no/x.json' cannot be written",
        ),
    ],
)
def test_comparisons_that_cannot_work(
    options: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert why in refused(["compare", *options], tmp_path, monkeypatch)


def test_stored_fields_of_prompts_to_train_on_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from app.cli.tuning import run

    async def fill() -> None:
        async with house(tmp_path) as home:
            for place in range(9):
                await home.made(n_candidates=2, prompt=f" thing {place} ")
            await home.records.close()

    def captured(task: Any, _progress: Any) -> Any:
        seen.append(task)
        raise TuningError("enough")

    seen, known = list[Any](), settings(tmp_path)
    before = os.umask(0o077)
    try:
        asyncio.run(fill())
        monkeypatch.setattr(run, "tune", captured)
        monkeypatch.setenv("FRONTRUNNER_DATABASE_URL", known.database_url)
        monkeypatch.setenv("FRONTRUNNER_BLOB_URL", known.blob_url)
        command = ["tune", "--from-store", "--referee", "fake-judge", "--out", "x"]
        assert "5 of them teach, the others are of held-out prompts" in refused(command, tmp_path, monkeypatch)
    finally:
        os.umask(before)
    (task,) = seen
    assert len(task.stored) == len(task.prompts.trained) == 5
    assert {each.prompt for each in task.stored} == {f" {text} " for text in task.prompts.trained}
    assert all(each.load().shape[0] == 2 for each in task.stored)


def test_a_run_from_a_store_writes_private_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.umask(0o022)
    try:
        command = ["tune", "--from-store", "--referee", "fake-judge", "--out", "x"]
        assert "holds no usable generation" in refused(command, tmp_path, monkeypatch)
        assert os.umask(0o022) & 0o077 == 0o077
        refused(["tune", "--prompts", "p.txt", "--referee", "fake-judge", "--out", "x"], tmp_path, monkeypatch)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_models_are_not_compiled_for_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.cli.tuning import loading
    from app.settings.model_settings import ModelSettings

    seen = list[Any]()

    def loaded(*_: Any, options: Any, **__: Any) -> Any:
        seen.append(options)
        raise ModelError("enough")

    monkeypatch.setattr(registry, "load_models", loaded)
    chosen = loading.Chosen(None, "hps", "other", None)
    with pytest.raises(ModelError):
        loading.load(ModelSettings(compile=True, generator="a", scorer="b"), chosen)
    ((compiled, scorers, referee),) = ((each.compile, each.scorers, each.referee) for each in seen)
    assert (compiled, scorers, referee) == (False, ("hps",), "other")


def refused(command: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command with the synthetic models says that does not work."""
    from app.cli import app

    monkeypatch.chdir(folder)
    (folder / "p.txt").write_text("".join(f"prompt {i}\n" for i in range(10)))
    (folder / "few.txt").write_text("\ufeffa boat\na boat\na car\n", "utf-8")
    (folder / "p.png").write_bytes(b"\x89PNG")
    monkeypatch.setenv("FRONTRUNNER_GENERATOR", "fake")
    monkeypatch.setenv("FRONTRUNNER_SCORER", "fake")
    monkeypatch.setenv("FRONTRUNNER_DATA_DIR", str(folder / "data"))
    done = CliRunner().invoke(app, command)
    assert done.exit_code != 0
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return " ".join(done.output.split())
