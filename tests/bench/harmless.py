"""What the light classifier says of harmless pictures: every flag is false. They say nothing about recall."""

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
from tests.bench.kit import Figure

Picture = NDArray[np.uint8]

PACKAGES = (("skimage", "data"), ("matplotlib", "mpl-data/sample_data"), ("sklearn", "datasets/images"))
"""Packages and their folders of pictures."""

FACES = "lfw_subset.npy"
"""200 grey crops, half of them faces, floats in [0, 1] of shape (200, 25, 25)."""

CARRIED, DRAWN = "pictures that packages carry", "the pack"
"""Names of both sets of harmless pictures."""


def photographs() -> Iterator[tuple[str, Picture]]:
    """Pictures that installed packages carry, all harmless; the crops of faces are 25 pixels wide."""
    for package, place in PACKAGES:
        try:
            folder = resources.files(package).joinpath(place)
        except ModuleNotFoundError:
            continue
        for file in sorted(folder.iterdir(), key=lambda each: each.name):
            if file.name.endswith((".png", ".jpg", ".jpeg", ".gif")):
                with resources.as_file(file) as path, Image.open(path) as image:
                    yield f"{package}: {file.name}", np.asarray(image.convert("RGB"))
            elif file.name == FACES:
                with resources.as_file(file) as path:
                    for place_in, face in enumerate(np.load(path)):
                        grey = (255 * face).round().astype(np.uint8)
                        yield f"{package}: {file.name} {place_in}", np.repeat(grey[..., None], 3, axis=2)


def drawn(client: httpx.Client) -> Iterator[tuple[str, Picture]]:
    """Pictures of the embedded pack: the best of two for each prompt that states something."""
    for prompt in stated.prompts(1, _known()) + stated.prompts(2, _known()):
        made = server.generate(client, prompt.text, n_candidates=2, seed=1)
        data = client.get(made["data"][0]["url"]).content
        yield prompt.text, np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def figures(client: httpx.Client) -> list[Figure]:
    """False flags on photographs and on the pack's pictures."""
    found = (false_flags(CARRIED, photographs()), false_flags(DRAWN, drawn(client)))
    return [figure for figure in found if figure is not None]


def _known() -> frozenset[str]:
    rows = json.loads(stated.FILE.read_text())
    return frozenset(row["thing"] for kept in rows.values() for row in kept)


def figure_name(pictures: str) -> str:
    """The name of the figure on these pictures."""
    return f"false flags of open-nsfw: {pictures}"


def false_flags(name: str, pictures: Iterator[tuple[str, Picture]]) -> Figure | None:
    """Flags of harmless pictures, which are all false. They say nothing about recall."""
    classifier = load_classifier("open-nsfw")
    scores = {title: classifier.classify([image])[0]["nsfw"] for title, image in pictures}
    if not scores:
        return None
    flagged = [title for title, score in scores.items() if score > classifier.info.threshold]
    worst = max(scores, key=scores.__getitem__)
    detail = {"pictures": len(scores), "flagged": flagged, "highest": [worst, round(scores[worst], 4)]}
    return Figure(figure_name(name), len(flagged), "pictures", detail=detail)
