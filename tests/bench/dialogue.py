"""What ranking, negatives and taste do to what pixels can show, asked over HTTP as a user asks.

Nothing here is checked by CLIP: colours of borders, sizes and sides are read off the pictures. Each prompt is sampled
once, unpruned; what other words or votes make of it is a re-ranking of those pictures.
"""

from __future__ import annotations

import base64
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.pack import packs
from models.training.evaluation import checks
from models.training.evaluation.prompts import Prompt, open_background
from tests.bench import server, stated
from tests.bench.kit import Figure

CANDIDATES = 16
TOP = 3
COMMON = "white"
VOTES = 10
PROFILE = "bench"
ONE, TWO, THREE, OPEN, TAUGHT = 12, 28, 28, 40, 12
"""Prompts of a whole run: that state one attribute, two, three, no background; and those that votes are cast on."""

Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Field:
    """A generation of which every candidate was finished: `pictures` uint8 (N, H, W, 3), by index.

    `order` holds the indices, best first, as it was sampled and ranked.
    """

    prompt: Prompt
    id: str
    pictures: NDArray[np.uint8]
    order: Sequence[int]

    def on(self, colour: str) -> Bools:
        """Which candidates stand on a background of this colour."""
        return np.asarray([checks.background(picture) == colour for picture in self.pictures])

    def right(self) -> Bools:
        """Which candidates show all that the prompt states."""
        assert self.prompt.scene is not None
        return np.asarray([all(checks.attributes(picture, self.prompt.scene).values()) for picture in self.pictures])


def figures(client: httpx.Client, share: float, progress: Callable[[int], Callable[[int], None]]) -> list[Figure]:
    """All of them, from this share of the prompts; `progress` of a total is told what is done."""
    names = json.loads((packs()["pictogram"].folder / "names.json").read_text())
    one, two, three, free, taught = (max(2, round(share * usual)) for usual in (ONE, TWO, THREE, OPEN, TAUGHT))
    tell, done = progress(one + two + three + 2 * free + taught), count(1)
    bare = open_background(names, free + taught)

    def raced(prompts: Sequence[Prompt], seed: int, negative: str = "") -> list[Field]:
        fields = []
        for place, prompt in enumerate(prompts):
            fields.append(_raced(client, prompt, seed + CANDIDATES * place, negative))
            tell(next(done))
        return fields

    known = frozenset(names)
    ones = raced(stated.prompts(1, known)[:one], 70_000)
    twos = raced(stated.prompts(2, known)[:two], 75_000)
    threes = raced(stated.prompts(3, known)[:three], 80_000)
    frees = raced(bare[:free], 90_000)
    colour = _usual(frees)
    steered = raced(bare[:free], 90_000, _on(colour))
    return [
        *picked("a stated background", ones, must_rise=False),
        *picked("two stated attributes", twos, must_rise=True),
        *picked("three stated attributes", threes, must_rise=True),
        *avoided(client, colour, frees, steered),
        *tasted(client, raced(bare[free:], 95_000), frees, [*ones, *twos, *threes]),
    ]


def picked(what: str, fields: Sequence[Field], *, must_rise: bool) -> list[Figure]:
    """How often a random pick, and the ranked one, shows all that its prompt states."""
    right = [(field.right(), field.order[0]) for field in fields]
    random = float(np.mean([shown.mean() for shown, _ in right]))
    best = float(np.mean([shown[first] for shown, first in right]))
    possible = float(np.mean([shown.any() for shown, _ in right]))
    detail = {"prompts": len(fields), "candidates": CANDIDATES, "any_candidate": round(possible, 3)}
    least = random if must_rise else None
    return [
        Figure(f"{what}: random pick is right", random, "pixels"),
        Figure(f"{what}: ranked pick is right", best, "pixels", at_least=least, detail=detail),
    ]


def avoided(client: httpx.Client, colour: str, free: Sequence[Field], steered: Sequence[Field]) -> list[Figure]:
    """The share of a colour in the top 3 of prompts that leave the background open, without and with a negative.

    It is the one that they stand on most often when nothing is avoided, but for the usual one.
    """
    negative = {"negatives": [{"text": _on(colour)}]}
    without = _share(free, colour, [f.order for f in free])
    ranked = _share(free, colour, [_reranked(client, f, **negative) for f in free])
    sampled = _share(steered, colour, [f.order for f in steered])
    words = f"an avoided background in the top {TOP}"
    detail = {"colour": colour, "prompts": len(free)}
    return [
        Figure(f"{words}: nothing avoided", without, "pixels", detail=detail),
        Figure(f"{words}: a negative of the ranking", ranked, "pixels", at_most=without / 5),
        Figure(f"{words}: a negative prompt", sampled, "pixels", at_most=without / 5),
    ]


def tasted(
    client: httpx.Client, taught: Sequence[Field], free: Sequence[Field], others: Sequence[Field]
) -> list[Figure]:
    """What ten likes of pictures on one colour do, to prompts that leave it open and to those that state something.

    The colour is the one that the candidates voted on stand on most often, but for the usual one where there is more.
    """
    colour = _usual(taught)
    votes = _teach(client, taught, colour)
    taste = {"taste": {"profile": PROFILE}}
    without = _share(free, colour, [f.order for f in free])
    with_it = _share(free, colour, [_reranked(client, f, **taste) for f in free])
    turned = [float(f.right()[_reranked(client, f, **taste)[0]]) - float(f.right()[f.order[0]]) for f in others]
    noise = 2 * float(np.std(turned)) / len(turned) ** 0.5
    _ask(client, "DELETE", f"/v1/taste/{PROFILE}")
    words, detail = f"a liked background in the top {TOP}", {"colour": colour, "votes": votes, "prompts": len(free)}
    return [
        Figure(f"{words}: no taste", without, "pixels"),
        Figure(f"{words}: {VOTES} likes for it", with_it, "pixels", at_least=without, detail=detail),
        Figure(
            "stated attributes: right picks that the taste moves",
            abs(float(np.mean(turned))),
            "two standard errors",
            at_most=noise,
            detail={"prompts": len(turned), "changed": int(np.count_nonzero(turned))},
        ),
    ]


def _usual(fields: Sequence[Field]) -> str:
    """The colour that these candidates stand on most often, but for the common one where there is another."""
    seen = Counter(checks.background(picture) for field in fields for picture in field.pictures)
    return next((name for name, _ in seen.most_common() if name != COMMON), COMMON)


def _on(colour: str) -> str:
    return f"on {'an' if colour[0] in 'aeiou' else 'a'} {colour} background"


def _teach(client: httpx.Client, taught: Sequence[Field], colour: str) -> int:
    """Like candidates on one colour, at most `VOTES` of them; how many there were."""
    left = VOTES
    for field in taught:
        liked = [int(i) for i in np.flatnonzero(field.on(colour))][:left]
        if liked:
            _ask(client, "POST", f"/v1/taste/{PROFILE}/votes", {"generation": field.id, "liked": liked})
        left -= len(liked)
    return VOTES - left


def _share(fields: Sequence[Field], colour: str, orders: Sequence[Sequence[int]]) -> float:
    shares = [field.on(colour)[list(order[:TOP])].mean() for field, order in zip(fields, orders, strict=True)]
    return float(np.mean(shares))


def _raced(client: httpx.Client, prompt: Prompt, seed: int, negative: str) -> Field:
    made = server.generate(
        client,
        prompt.text,
        negative_prompt=negative,
        n_candidates=CANDIDATES,
        n=CANDIDATES,
        seed=seed,
        pruning="off",
        response_format="b64_json",
    )
    by_index = sorted(made["data"], key=lambda image: image["index"])
    pictures = np.stack([_picture(image["b64_json"]) for image in by_index])
    return Field(prompt, made["id"], pictures, [image["index"] for image in made["data"]])


def _reranked(client: httpx.Client, field: Field, **asked: Any) -> list[int]:
    """The indices, best first, by another ranking."""
    told = _ask(client, "POST", f"/v1/generations/{field.id}/rerank", {"n": CANDIDATES, "ranking": asked})
    return [image["index"] for image in told["data"]]


def _ask(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = client.request(method, path, json=body)
    answer.raise_for_status()
    told: dict[str, Any] = answer.json() if answer.content else {}
    return told


def _picture(data: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB"))
