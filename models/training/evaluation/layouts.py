"""Figures of prompts that say where two things are, by whole images and by halves."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from models.protocols import Embeddings, Pixels, ScorerInfo, TextEmbedding, to_host
from models.reading.positions import read_arrangement
from models.scorers.layout import LayoutScorer
from models.training.data.captions import Captioner
from models.training.data.scenes import SceneSampler
from models.training.evaluation import checks, fields, prompts
from models.training.evaluation.sampling import Pack

if TYPE_CHECKING:
    from models.training.evaluation.evaluate import Evaluation


class PackEmbedder:
    """The scorer of a pack, as an `Embedder`."""

    def __init__(self, pack: Pack) -> None:
        self._pack = pack
        self.info = ScorerInfo("pack", "", 0, 64, 0, 1.0, str(pack.device))

    def embed_images(self, pixels: Pixels) -> Embeddings:
        """See `Embedder`."""
        return np.asarray(self._pack.embed_pictures(to_host(pixels)).cpu().numpy())

    def embed_texts(self, texts: Sequence[str]) -> list[TextEmbedding]:
        """See `Embedder`."""
        return [TextEmbedding(vector) for vector in self._pack.embed_texts(texts).cpu().numpy()]

    def embed_patches(self, image: Any) -> None:
        """None: patches are not used."""


def arranged(sampler: SceneSampler, count: int) -> list[prompts.Prompt]:
    """Two things with a colour each, in prompts that say where they are."""
    captioner = Captioner(27)
    scenes = (sampler.draw(1)[0] for _ in itertools.count())
    two = (
        scene
        for scene in scenes
        if not scene.counted and len(set(scene.things)) == 2 and all(t.hue for t in scene.things)
    )
    asked = (prompts.Prompt(captioner.caption(scene), tuple(t.name for t in scene.things), scene) for scene in two)
    return list(itertools.islice((each for each in asked if read_arrangement(each.text)), count))


def measure_layout(run: "Evaluation") -> dict[str, Any]:
    """Shares of pictures with both things in their colours and places.

    Pixel checks decide. The shares are those of a random pick, and of the best by the scorer (`best`) and by halves
    (`layout`). `gain` is what the second adds to the first. `..._ordered` is the mean of `fields.ordered` over the
    `mixed` fields.
    """
    sampler = SceneSampler(run.icons, run.table.names, prompts.STYLES, 79, prompts.COMPOSITIONS)
    layout = LayoutScorer(PackEmbedder(run.pack), id="layout")
    random_pick = list[float]()
    best: dict[str, list[float]] = {"best": [], "layout": []}
    orders: dict[str, list[float | None]] = {"best": [], "layout": []}
    for place, prompt in enumerate(run.some(arranged(sampler, 100))):
        assert prompt.scene is not None
        pictures = run.draw(place, prompt).pictures
        right = [all(checks.attributes(picture, prompt.scene).values()) for picture in pictures]
        random_pick.append(float(np.mean(right)))
        scores = {"best": run.pack.scores(pictures, prompt.text), "layout": layout.score(pictures, prompt.text)}
        for name, each in scores.items():
            best[name].append(float(right[int(each.argmax())]))
            orders[name].append(fields.ordered(each, right))
        run.keep("layout", prompt, pictures[[0, *np.argsort(-scores["layout"])[:4]]])
    found: dict[str, Any] = {"prompts": len(random_pick), "random": float(np.mean(random_pick))}
    for name, shares in best.items():
        mixed = [share for share in orders[name] if share is not None]
        found |= {name: float(np.mean(shares)), f"{name}_ordered": float(np.mean(mixed)) if mixed else None}
    return found | {"mixed": len(mixed), **fields.gain(best["best"], best["layout"])}
