"""What the scorer learns from races, and the manners in which pictures are drawn anew."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from models.training.data import augment, captions, dataset, icons, palette, previews, races, scenes  # noqa: E402
from models.training.trainers import autoencoder, scorer  # noqa: E402
from tests.unit.test_training_data import ICONS, NAMES, sampler  # noqa: E402

pytestmark = pytest.mark.torch


def _unit(*shape: int) -> Any:
    return torch.nn.functional.normalize(torch.randn(*shape), dim=-1)


def test_previews_that_rank_as_their_finals_cost_less_than_those_that_rank_the_other_way() -> None:
    torch.manual_seed(0)
    finals, text = _unit(3, 8, 16), _unit(3, 1, 16).expand(3, 8, 16)
    assert races.agreement(finals, finals, text).item() == pytest.approx(0, abs=1e-5)
    along = (finals * text).sum(2, keepdim=True)
    assert races.agreement(finals, finals - 2 * along * text, text) > 2


def test_fidelity_costs_less_the_better_the_composed_picture_fits() -> None:
    torch.manual_seed(0)
    text = _unit(2, 1, 16).expand(2, 8, 16)
    finals, scale = _unit(2, 8, 16), torch.tensor(20.0)
    assert races.fidelity(text[:, 0], finals, text, scale) < 0.1 < races.fidelity(-text[:, 0], finals, text, scale)


def test_candidates_that_show_more_of_the_caption_must_score_higher() -> None:
    text = torch.tensor([1.0, 0]).expand(1, 3, 2)
    finals = torch.nn.functional.normalize(torch.tensor([[[0.9, 0.1], [0.5, 0.5], [0.1, 0.9]]]), dim=-1)
    scale = torch.tensor(20.0)
    along = races.checked(finals, text, torch.tensor([[1.0, 0.5, 0.0]]), scale)
    against = races.checked(finals, text, torch.tensor([[0.0, 0.5, 1.0]]), scale)
    assert along < 0.1 < against
    assert races.checked(finals, text, torch.ones(1, 3), scale) == 0, "equal candidates have no order"


def test_races_are_of_captions_of_several_things_as_often_as_asked() -> None:
    one = scenes.Scene((scenes.Thing("apple"),), "noto", "white")
    two = dataclasses.replace(one, things=(scenes.Thing("apple"), scenes.Thing("boat")))
    asked = {f"one {i}": one for i in range(20)} | {f"two {i}": two for i in range(20)}
    chosen = previews.choose(asked, 10, 0.7, seed=1)
    assert sum(caption.startswith("two") for caption in chosen) == 7
    assert len(set(chosen)) == 10
    assert chosen == previews.choose(asked, 10, 0.7, seed=1) != previews.choose(asked, 10, 0.7, seed=2)


def test_a_candidate_shows_a_share_of_what_is_stated() -> None:
    scene = scenes.Scene((scenes.Thing("apple"),), "noto", "white", size="large", stated=frozenset({"background"}))
    right = scenes.compose(scene, ICONS)
    wrong = scenes.compose(dataclasses.replace(scene, background="blue"), ICONS)
    assert previews.shown(np.stack([right, wrong]), scene) == [1.0, 0.0]
    half = dataclasses.replace(scene, stated=frozenset({"background", "size"}))
    assert previews.shown(np.stack([right, wrong]), half) == [1.0, 0.5]
    assert previews.shown(right[None], dataclasses.replace(scene, stated=frozenset())) == [1.0]


def test_a_batch_of_races_comes_apart_as_it_was_joined(tmp_path: Path) -> None:
    count = races.HELD_OUT + 5
    pictures = np.arange(count, dtype=np.uint8)[:, None, None, None] * np.ones((64, 64, 3), np.uint8)
    early = np.broadcast_to(pictures[:, None, None], (count, 4, len(races.STEPS), 64, 64, 3))
    finals = np.broadcast_to(pictures[:, None], (count, 4, 64, 64, 3))
    shown = np.arange(count)[:, None] / np.full(4, count)
    np.savez(tmp_path / "r.npz", finals=finals, previews=early, composed=pictures, pooled=np.eye(count), shown=shown)
    found = races.Races(tmp_path / "r.npz")
    batch = found.batch(torch.tensor([3, 1]), 2)
    assert found.trained == 5
    assert torch.equal(batch.texts, torch.eye(count)[[3, 1]])
    assert (batch.shown * count).allclose(torch.tensor([[3.0], [1.0]]).expand(2, 4))
    means = torch.cat(batch.pictures).mean((2, 3))
    for part, shape in zip(batch.apart(means), [(2, 3), (2, 4, 3), (2, 4, 3)], strict=True):
        assert part.shape == shape
        assert part[0].allclose(torch.tensor(3 / 127.5 - 1))
        assert part[1].allclose(torch.tensor(1 / 127.5 - 1))


def test_a_picture_is_left_alone_where_nothing_is_asked() -> None:
    torch.manual_seed(0)
    x = torch.rand(4, 3, 64, 64) * 2 - 1
    assert augment.warp(x, 0, 0, 0, 0).allclose(x, atol=1e-5)
    assert augment.restyle(x, 0.0).allclose(x, atol=1e-6)


def test_a_covered_square_has_the_mean_colour_of_its_picture() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 3, 64, 64)
    covered = augment.erase(x, 0.5)
    changed = (covered != x).any(1)
    sizes = {(int(part.any(1).sum()), int(part.any(0).sum()), int(part.sum())) for part in changed if part.any()}
    assert 20 < sum(bool(part.any()) for part in changed) < 44
    assert all(rows == columns and rows * columns == area and 6 <= rows <= 20 for rows, columns, area in sizes)
    chosen = changed.flatten(1).any(1)
    means = x.mean((2, 3))[:, :, None, None].expand_as(x)
    assert covered[chosen].where(changed[chosen, None], 0).allclose(means[chosen].where(changed[chosen, None], 0))


def test_another_manner_keeps_flat_grounds_and_moves_edges() -> None:
    torch.manual_seed(0)
    x = torch.full((8, 3, 64, 64), 0.2)
    x[:, :, 20:40, 20:40] = -0.5
    drawn = augment.restyle(x, 1.0)
    assert drawn[:, :, :10].allclose(x[:, :, :10], atol=1e-5)
    assert (drawn - x)[:, :, 19:21, 25].abs().amax((1, 2)).gt(0).all()


def test_other_colours_leave_grounds_shapes_and_the_pictures_that_were_not_chosen() -> None:
    torch.manual_seed(0)
    x = torch.full((8, 3, 64, 64), 0.9)
    x[:, :, 20:40, 20:40] = torch.tensor([0.6, -0.4, -0.7])[:, None, None]
    painted = augment.recolour(x, torch.arange(8) < 6)
    assert painted[6:].equal(x[6:])
    assert painted[:, :, :20].equal(x[:, :, :20])
    square = painted[:6, :, 20:40, 20:40]
    assert square.std((2, 3)).amax() < 1e-5, "one colour stays one colour"
    assert (square[:, :, 0, 0] - x[:6, :, 20, 20]).abs().amax(1).gt(0.05).all()
    assert square.abs().amax() <= 1


def test_things_in_ink_are_painted_in_shades_of_two_colours() -> None:
    torch.manual_seed(0)
    x = torch.full((200, 3, 64, 64), 0.5)
    x[:, :, 10:50, 10:50] = 1.0
    x[:, :, 20:40, 20:40] = -0.9
    painted = augment.recolour(x, torch.ones(200, dtype=torch.bool))
    paper, ink = painted[:, :, 15, 15], painted[:, :, 30, 30]
    coloured = [(c.amax(1) - c.amin(1)).gt(0.1) for c in (paper, ink)]
    assert 0.2 < (coloured[0] & coloured[1]).float().mean() < 0.4
    assert painted.abs().amax() <= 1


@pytest.mark.parametrize(
    ("name", "caption", "stated", "leaves_open"),
    [
        ("cat", "a cat on a red background", ["background"], True),
        ("cat", "a cat, outlined", [], True),
        ("cat", "a blue cat on a red background", ["background"], False),
        ("fox", "a red fox, noto style", ["style"], False),
        ("red apple", "an apple", [], False),
    ],
)
def test_captions_that_leave_the_colours_of_things_open(
    name: str, caption: str, stated: list[str], leaves_open: bool
) -> None:
    row = {"things": [{"name": name}], "caption": caption, "stated": stated}
    assert dataset.colourless(row) is leaves_open


def test_pictures_beside_their_near_misses_keep_their_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorer, "RECOLOURED", 1.0)
    open_to = torch.tensor([True, False, True, True])
    assert scorer.repainted(open_to, [2]).tolist() == [True, False, False, True]
    assert scorer.repainted(open_to, []).equal(open_to)


def test_a_picture_of_a_near_miss_shows_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icons, "load_icons", lambda *_: ICONS)
    monkeypatch.setattr(icons, "pack_names", lambda: NAMES)
    drawn = sampler().draw(60)
    (tmp_path / "scenes").mkdir()
    dataset.write_rows(drawn, tmp_path / "scenes" / "scorer.jsonl", captions.Captioner(1), negatives=True, seed=1)
    composer = dataset.Composer(tmp_path, ("noto",), workers=1)
    dataset.write_relatives(drawn, ICONS, tmp_path / "scenes" / "scorer.npy", composer, seed=1)
    relatives = scorer.Relatives(tmp_path, "scorer")
    places, pictures = relatives.misses(list(range(60)))
    assert len(places) == scorer.MISSES
    own = autoencoder.to_tensor(np.stack([scenes.compose(drawn[p], ICONS) for p in places]))
    assert (pictures - own).abs().flatten(1).amax(1).min() > 0.1
    assert relatives.misses([])[1].shape == (0, 3, 64, 64)
    places, twins = relatives.twins(list(range(60)))
    assert places
    assert not any("background" in drawn[p].stated for p in places)
    own = autoencoder.to_tensor(np.stack([scenes.compose(drawn[p], ICONS) for p in places]))
    corners = (twins - own)[:, :, 0, 0].abs().amax(1)
    assert corners.min() > 0.1


def test_pictures_that_fit_alike_cost_nothing_whatever_else_they_show() -> None:
    texts = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    one, other = torch.tensor([[0.6, 0.8, 0], [0.8, 0.6, 0]]), torch.tensor([[0.6, 0, 0.8], [0, 0.6, -0.8]])
    assert scorer.unmoved(one, other, texts, torch.tensor(10.0)) == 0
    turned = scorer.unmoved(one, other.flip(1), texts, torch.tensor(10.0))
    assert turned > 0
    assert scorer.unmoved(one[:0], other[:0], texts[:0], torch.tensor(10.0)) == 0


def test_twins_differ_in_what_the_caption_leaves_open_and_in_nothing_else() -> None:
    styles = ("noto", "twemoji", "bare")
    known = {(s, n): ICONS["noto", "apple"] for s in styles[:2] for n in ("apple", "boat")} | {
        ("bare", "apple"): ICONS["noto", "apple"]
    }
    grounds = set(palette.BACKGROUND_NAMES)

    def found(scene: scenes.Scene) -> set[tuple[str, str]]:
        some = scenes.twins(scene, known, styles)
        assert all(t == dataclasses.replace(scene, background=t.background, style=t.style) for t in some)
        return {(t.background, t.style) for t in some}

    apple = scenes.Scene((scenes.Thing("apple"),), "noto", "white")
    assert found(apple) == {(b, s) for b in grounds for s in styles} - {("white", "noto")}
    assert found(dataclasses.replace(apple, stated=frozenset({"background"}))) == {("white", s) for s in styles[1:]}
    assert found(dataclasses.replace(apple, stated=frozenset({"style"}))) == {(b, "noto") for b in grounds - {"white"}}
    assert not found(dataclasses.replace(apple, stated=frozenset({"style", "background"})))
    blue = dataclasses.replace(apple, things=(scenes.Thing("apple", "blue"),))
    assert found(blue) == {(b, "noto") for b in grounds - {"white", "blue"}}
    pair = dataclasses.replace(apple, things=(scenes.Thing("apple"), scenes.Thing("boat")))
    assert {s for _, s in found(pair)} == {"noto", "twemoji"}, "a style without a boat has no twin"


def test_unseen_pictures_are_every_thing_on_every_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(icons, "load_icons", lambda *_: ICONS)
    table = SimpleNamespace(names=[*NAMES, "unknown"], place={n: i for i, n in enumerate(NAMES)})
    unseen = scorer.Unseen(tmp_path, cast(scorer.Table, table), ("noto",))
    grounds = len(palette.BACKGROUND_NAMES)
    pairs = set(zip(unseen.target.tolist(), unseen.background.tolist(), strict=True))
    assert len(unseen.pictures) == len(pairs) == len(NAMES) * grounds
    some = scorer.Unseen(tmp_path, cast(scorer.Table, table), ("noto",), every=6)
    assert set(some.target.tolist()) == set(unseen.target.tolist())
    assert len(some.pictures) == -(-len(NAMES) * grounds // 6)
    found = unseen.recall(torch.eye(6)[unseen.target], torch.eye(6))
    assert found == {"r1": 1.0, "r5": 1.0}


def test_the_autoencoder_sees_the_sets_in_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(_: Path, styles: tuple[str, ...]) -> dict[tuple[str, str], palette.U8]:
        assert not set(styles) & set(icons.INKED), "the small ones have no two names that are held out"
        return {(style, name): ICONS["noto", "apple"] for style in styles for name in NAMES}

    monkeypatch.setattr(icons, "load_icons", drawn)
    monkeypatch.setattr(autoencoder, "held_out", lambda name: name == "moon")
    assert autoencoder.Pictures(tmp_path, 1, 12).pool.shape == (12, 64, 64, 3)
