"""What `safety: "flag"` adds to a request, and what the light classifier says of harmless pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from importlib import resources

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.guards.safety import load_classifier
from tests.bench import server, stated
from tests.bench.kit import Figure, paired
from tests.bench.speed import PROMPT

Picture = NDArray[np.uint8]


def overhead(client: httpx.Client, runs: int) -> Figure:
    """The best of 16 with `flag`, against the same without."""
    seeds = iter(range(1_000_000))

    def made(mode: str) -> None:
        server.generate(client, PROMPT, n_candidates=16, seed=next(seeds), safety=mode)

    value, detail = paired(lambda: made("flag"), lambda: made("off"), runs)
    return Figure("best of 16 with `safety: flag`: wall time", value, "without", at_most=1.05, detail=detail)


def photographs() -> Iterator[tuple[str, Picture]]:
    """Pictures of scikit-image's package, all harmless; none without the package."""
    try:
        folder = resources.files("skimage").joinpath("data")
    except ModuleNotFoundError:
        return
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith((".png", ".jpg", ".jpeg", ".gif")):
            with resources.as_file(file) as path, Image.open(path) as image:
                yield file.name, np.asarray(image.convert("RGB"))


def drawn(client: httpx.Client) -> Iterator[tuple[str, Picture]]:
    """Pictures of the embedded pack: the best of two for each prompt that states something."""
    for prompt in stated.prompts(1, _known()) + stated.prompts(2, _known()):
        made = server.generate(client, prompt.text, n_candidates=2, seed=1)
        data = client.get(made["data"][0]["url"]).content
        yield prompt.text, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def harmless(client: httpx.Client) -> list[Figure]:
    """False flags on photographs and on the pack's pictures."""
    found = (false_flags("photographs of scikit-image", photographs()), false_flags("the pack", drawn(client)))
    return [figure for figure in found if figure is not None]


def _known() -> frozenset[str]:
    rows = json.loads(stated.FILE.read_text())
    return frozenset(row["thing"] for kept in rows.values() for row in kept)


def false_flags(name: str, pictures: Iterator[tuple[str, Picture]]) -> Figure | None:
    """Flags of harmless pictures, which are all false. They say nothing about recall."""
    classifier = load_classifier("open-nsfw")
    scores = {title: classifier.classify([image])[0]["nsfw"] for title, image in pictures}
    if not scores:
        return None
    flagged = [title for title, score in scores.items() if score > classifier.info.threshold]
    worst = max(scores, key=scores.__getitem__)
    detail = {"pictures": len(scores), "flagged": flagged, "highest": [worst, round(scores[worst], 4)]}
    return Figure(f"false flags of open-nsfw: {name}", len(flagged), "pictures", detail=detail)
