"""When tuning stops, and whether its result is accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from models.tuning.measures import Measured, difference, standard_error, upper_share

Rule: TypeAlias = Literal["referee", "diversity", "artefacts", "best", "diverged", "iterations", "minutes"]
"""Why a run ended; the last two are no fault."""

DIVERSITY = 0.9
"""Least diversity within prompts, relative to the base."""

MIN_JUDGED = 6
"""Fewest held-out prompts to accept by.

All of five rise by chance in one of 32 runs.
"""


@dataclass(frozen=True, slots=True)
class Stop:
    """The end of a run: the rule, and what it found."""

    rule: Rule
    why: str


def find_stop(history: Sequence[Measured]) -> Stop | None:
    """The first rule that the last measurement breaks; None to go on.

    The first measurement is the base.
    """
    if len(history) < 2:
        return None
    base, now = history[0], history[-1]
    return _referee(history) or _diversity(base, now) or _artefacts(base, now) or _best(base, now)


def _referee(history: Sequence[Measured]) -> Stop | None:
    """The referee is one standard error below its maximum while the reward rises."""
    now = history[-1]
    top = max(history[:-1], key=lambda each: float(np.mean(each.referee)))
    apart = np.asarray(now.referee) - np.asarray(top.referee)
    error, fall = standard_error(apart), float(apart.mean())
    if fall >= -error or np.mean(now.reward) <= np.mean(top.reward):
        return None
    return Stop("referee", f"the referee fell by {-fall:.4f} (error {error:.4f}) while the reward rose")


def _diversity(base: Measured, now: Measured) -> Stop | None:
    share = float(np.mean(now.diversity) / np.mean(base.diversity))
    if not share < DIVERSITY:
        return None
    return Stop("diversity", f"diversity within prompts is {share:.2f} of the base's; at least {DIVERSITY} is required")


def _artefacts(base: Measured, now: Measured) -> Stop | None:
    share, limit = now.flagged / now.images, upper_share(base.flagged, base.images)
    if share <= limit:
        return None
    return Stop("artefacts", f"{share:.1%} of the images have artefacts; the base's 95 % band ends at {limit:.1%}")


def _best(base: Measured, now: Measured) -> Stop | None:
    """The best of the tuned field is worth less than the best of the base's."""
    apart = np.asarray(now.best) - np.asarray(base.best)
    error, fall = standard_error(apart), float(apart.mean())
    if fall >= -error:
        return None
    return Stop("best", f"the best of the field fell by {-fall:.4f} (error {error:.4f}) by the referee")


def choose(history: Sequence[Measured]) -> int | None:
    """Place of the sound measurement with the highest referee.

    None if only the base breaks no rule.
    """
    sound = [place for place in range(1, len(history)) if find_stop(history[: place + 1]) is None]
    return max(sound, key=lambda place: (float(np.mean(history[place].referee)), place), default=None)


def few_prompts(judged: int) -> str:
    """What is wrong with fewer than `MIN_JUDGED` prompts of the verdict."""
    return f"the verdict has {judged} prompts, and at least {MIN_JUDGED} are required: give 36 or more in all"


def verdict(base: Measured, tuned: Measured, *, is_sound: bool = True, personal: bool = False) -> dict[str, Any]:
    """Accept if no rule is broken and the intervals allow it.

    The referee's, paired over at least `MIN_JUDGED` prompts, must be above 0 for a random pick and for the best. A
    `personal` reward asks for other images, not for better ones: its own interval must be above 0, and the referee's
    must not be below 0. `why` says what is missing. `is_sound`: whether the result broke no rule on the way.
    """
    parts = {
        "random": difference(tuned.referee, base.referee),
        "best": difference(tuned.best, base.best),
        "reward": difference(tuned.reward, base.reward),
    }
    for name in base.others:
        parts[name] = difference(tuned.others[name], base.others[name])
        parts[f"{name}_best"] = difference(tuned.others_best[name], base.others_best[name])
    broken = find_stop([base, tuned])
    missing = [] if is_sound else ["no measurement on the way kept the rules"]
    missing += [] if broken is None else [f"on the prompts of the verdict, {broken.why}"]
    missing += [] if len(base.referee) >= MIN_JUDGED else [few_prompts(len(base.referee))]
    missing += _unmet(parts, personal)
    kept = "the taste's is above 0, the referee's are not below" if personal else "the referee's are above 0"
    why = "; ".join(missing) or f"intervals: {kept}; no rule is broken"
    return {"verdict": "reject" if missing else "accept", "why": why, "differences": parts}


def _unmet(parts: dict[str, Any], personal: bool) -> list[str]:
    """What the intervals of the verdict lack."""
    judged = (("random", "a random pick"), ("best", "the best of a field"))
    if not personal:
        wanting = [what for name, what in judged if not parts[name]["interval"][0] > 0]
        return [f"the referee's interval for {what} is not above 0" for what in wanting]
    liked = [] if parts["reward"]["interval"][0] > 0 else ["the taste's interval for a random pick is not above 0"]
    worse = [what for name, what in judged if not parts[name]["interval"][1] >= 0]
    return liked + [f"the referee's interval for {what} is below 0" for what in worse]
