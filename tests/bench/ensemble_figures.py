"""Figures of the bench of ensembles, from measured fields. Pure NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from app.engine.ranking import ensemble
from app.engine.ranking.scoring import rank_order
from models.bootstrap import interval

Array = NDArray[np.float64]

Part: TypeAlias = Literal["paired", "large", "variants"]

UNCERTAINTIES = (0.0, 0.5, 1.0)
CASCADE = 4
"""The best candidates that dear members see in a cascade: those without vectors, or all if each has vectors."""

RESAMPLES = 10_000
BY = ("judged", "pixels")


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """The candidates of one prompt: `scores` and `against` near misses (N,) by scorer, `main` and others.

    `judged` (N,) is the outside judge's value, `pixels` (N,) 1 where the stated background shows. `only_score` names
    members without vectors. `seconds` are those of sampling and of each member, for all N.
    """

    prompt: str
    main: str
    only_score: tuple[str, ...]
    scores: Mapping[str, Array]
    against: Mapping[str, Array]
    judged: Array
    pixels: Array
    seconds: Mapping[str, float]

    def part(self, first: int, last: int) -> Field:
        """The field of candidates `first` to `last` - 1."""

        def cut(values: Mapping[str, Array]) -> dict[str, Array]:
            return {name: each[first:last] for name, each in values.items()}

        judged, pixels = self.judged[first:last], self.pixels[first:last]
        return replace(self, scores=cut(self.scores), against=cut(self.against), judged=judged, pixels=pixels)

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        lists = {name: {k: v.tolist() for k, v in getattr(self, name).items()} for name in ("scores", "against")}
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return plain | lists | {name: getattr(self, name).tolist() for name in BY}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Field:
        """A field from its JSON form."""
        arrays = {name: {k: np.asarray(v) for k, v in row[name].items()} for name in ("scores", "against")}
        lists = {name: np.asarray(row[name]) for name in BY} | {"only_score": tuple(row["only_score"])}
        return cls(**(dict(row) | arrays | lists))


def joined(parts: Sequence[Field]) -> Field:
    """One field of the candidates of all parts, in order."""

    def together(name: str) -> dict[str, Array]:
        return {k: np.concatenate([getattr(part, name)[k] for part in parts]) for k in getattr(parts[0], name)}

    judged, pixels = (np.concatenate([getattr(part, name) for part in parts]) for name in BY)
    return replace(parts[0], scores=together("scores"), against=together("against"), judged=judged, pixels=pixels)


def winners(field: Field) -> dict[str, int]:
    """The place that each way of ranking puts first; `alone` is the main scorer."""
    everyone = list(range(len(field.judged)))
    found = {"alone": _best(field.scores[field.main]), "contrast": _best(field.against[field.main])}
    if len(field.scores) == 1:
        return found
    for uncertainty in UNCERTAINTIES:
        total = ensemble.combine(field.scores, _equal(field.scores), uncertainty, everyone)
        found[f"ensemble, uncertainty {uncertainty:g}"] = _best(total)
    found["ensemble, contrast"] = _best(ensemble.combine(field.against, _equal(field.scores), 0.5, everyone))
    found["ensemble, cascade"] = _cascaded(field)
    return found


def _best(scores: Array) -> int:
    return rank_order(scores.tolist())[0]


def _equal(scores: Mapping[str, Array]) -> dict[str, float]:
    return dict.fromkeys(scores, 1.0)


def _cascaded(field: Field) -> int:
    """The winner where dear members see only the best `CASCADE` by the others."""
    everyone = list(range(len(field.judged)))
    dear = field.only_score or tuple(name for name in field.scores if name != field.main)
    cheap = {name: values for name, values in field.scores.items() if name not in dear}
    before = ensemble.combine(cheap, _equal(cheap), 0.5, everyone) if len(cheap) > 1 else field.scores[field.main]
    pool = rank_order(before.tolist())[:CASCADE]
    total = ensemble.combine(field.scores, _equal(field.scores), 0.5, sorted(pool))
    return max(pool, key=lambda i: total[i])


def equal_count(found: Sequence[Field], n: int) -> tuple[int, float]:
    """How many candidates the main scorer alone has in the seconds that n take with members; and the ratio."""
    sampling = sum(field.seconds["sampling"] for field in found)
    members = sum(seconds for field in found for name, seconds in field.seconds.items() if name != "sampling")
    ratio = 1 + members / sampling
    return min(len(found[0].judged), round(n * ratio)), ratio


def paired(found: Sequence[Field], n: int) -> dict[str, Any]:
    """Each way's winner against the main scorer's, for equal candidates and for equal device seconds."""
    more, ratio = equal_count(found, n)
    of_n = [field.part(0, n) for field in found]
    chosen = [winners(field) for field in of_n]
    longer = [winners(field.part(0, more))["alone"] for field in found]
    ways = {}
    for way in (way for way in chosen[0] if way != "alone"):
        ways[way] = {
            "other_winner": sum(by[way] != by["alone"] for by in chosen),
            "equal_candidates": _differences(of_n, [by[way] for by in chosen], [by["alone"] for by in chosen]),
        }
        if way != "contrast":  # it costs no device time
            ways[way]["equal_seconds"] = _differences(found, [by[way] for by in chosen], longer)
    gains = {
        name: float(
            np.mean(
                [getattr(f, name)[by["alone"]] - getattr(f, name).mean() for f, by in zip(of_n, chosen, strict=True)]
            )
        )
        for name in BY
    }
    return {
        "prompts": len(found),
        "candidates": n,
        "seconds_with_members": ratio,
        "candidates_in_equal_seconds": more,
        "equal_seconds_exceed_the_field": round(n * ratio) > more,
        "gain_of_the_main_scorer": gains,
        "over_the_main_scorer": ways,
    }


def _differences(found: Sequence[Field], ours: Sequence[int], theirs: Sequence[int]) -> dict[str, Any]:
    made = {}
    for name in BY:
        values = [getattr(field, name) for field in found]
        apart = np.asarray([v[a] - v[b] for v, a, b in zip(values, ours, theirs, strict=True)])
        low, high = interval(apart, RESAMPLES)
        made[name] = {"mean": float(apart.mean()), "low": low, "high": high}
    return made


def variants(found: Mapping[str, Sequence[Field]]) -> dict[str, Any]:
    """The winner's value of each arm less that of the arm `one`, paired over prompts; the same of a random pick."""
    base = found["one"]
    ones = [_best(field.scores[field.main]) for field in base]
    made = {}
    for arm, of_arm in found.items():
        if arm == "one":
            continue
        best = [_best(field.scores[field.main]) for field in of_arm]
        random = np.asarray([f.judged.mean() - b.judged.mean() for f, b in zip(of_arm, base, strict=True)])
        winner = {}
        for name in BY:
            pairs = zip(of_arm, best, base, ones, strict=True)
            apart = np.asarray([getattr(f, name)[i] - getattr(b, name)[j] for f, i, b, j in pairs])
            low, high = interval(apart, RESAMPLES)
            winner[name] = {"mean": float(apart.mean()), "low": low, "high": high}
        low, high = interval(random, RESAMPLES)
        made[arm] = {"winner": winner, "random_pick": {"mean": float(random.mean()), "low": low, "high": high}}
    return {"prompts": len(base), "candidates": len(base[0].judged), "over_one_wording": made}


def curves(found: Mapping[tuple[int, int], Field]) -> dict[str, Any]:
    """The judge's value of each way's winner against the number of candidates, less that of a random pick.

    For n candidates, all disjoint fields of n count. `fall` is what the value at the most candidates lacks to the
    largest one, paired over prompts, with its interval.
    """
    places = sorted({place for place, _ in found})
    whole = [joined([field for key, field in sorted(found.items()) if key[0] == place]) for place in places]
    total = len(whole[0].judged)
    sizes = [4**power for power in range(1, 10) if 4**power <= total]
    by_way: dict[str, list[Array]] = {}
    for n in sizes:
        rows = [_mean_of_winners(field, n) for field in whole]
        for way in rows[0]:
            by_way.setdefault(way, []).append(np.asarray([row[way] for row in rows]))
    made = {}
    for way, values in by_way.items():
        means = [float(v.mean()) for v in values]
        top = int(np.argmax(means))
        fall = values[top] - values[-1]
        made[way] = {
            "value": means,
            "error": [float(v.std(ddof=1) / np.sqrt(len(v))) for v in values],
            "best_at": sizes[top],
            "fall": {"mean": float(fall.mean()), "interval": interval(fall, RESAMPLES)},
        }
    return {"prompts": len(places), "candidates": sizes, "ways": made}


def _mean_of_winners(field: Field, n: int) -> dict[str, float]:
    parts = [field.part(first, first + n) for first in range(0, len(field.judged) - n + 1, n)]
    chosen = [(part, winners(part)) for part in parts]
    base = field.judged.mean()
    return {way: float(np.mean([part.judged[by[way]] for part, by in chosen]) - base) for way in chosen[0][1]}
