"""The configured models of tuning: generator, reward and referee."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pydantic import ValidationError

from app.cli.client import CliError
from app.cli.measuring import configured
from app.cli.tuning.stored import Taste, taste_opinion
from app.settings.model_settings import ModelSettings
from models import registry
from models.loras import LoraFolder
from models.protocols import Embedder, Models, OutOfMemory, Scorer
from models.tuning.rewards import Opinion, opinion_of, without_weights

TASTE = "taste:"
"""Begins the name of a taste profile that rewards."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Options that choose models.

    A table of `FRONTRUNNER_MODELS`, reward, referee and device.
    """

    model: str | None
    reward: str | None
    referee: str | None
    device: str | None


@dataclass(frozen=True, slots=True)
class Judges:
    """The loaded models, the scorer that rewards, and the referee."""

    models: Models
    reward: Embedder | Scorer
    referee: Embedder | Scorer


def load(settings: ModelSettings, chosen: Chosen, loras: LoraFolder | None = None) -> Judges:
    """Load them.

    A taste profile rewards by the main scorer. Raises CliError and ModelError.
    """
    reward = chosen.reward
    named = settings.scorer if reward is None or reward.startswith(TASTE) else reward
    judging = chosen.referee or settings.referee
    if not judging:
        raise CliError("--referee is required: name a scorer of other pre-training that does not reward")
    if judging == named:
        raise CliError(f"{judging!r} is both reward and referee, so it would confirm itself: name another --referee")
    further = () if named == settings.scorer else (named,)
    options = replace(
        settings.load_options,
        upscaler="",
        compile=False,  # layers with adapters are not compiled
        scorers=further,
        referee=judging,
        loras=loras,
    )
    place = chosen.device or settings.workers[0]
    models = registry.load_models(
        settings.generator, settings.scorer, place, mode=settings.generator_mode, options=options
    )
    assert models.referee is not None
    return Judges(models, models.members[0] if further else models.scorer, models.referee)


def profile_name(reward: str | None) -> str | None:
    """The taste profile that rewards; None if a scorer does."""
    return reward.removeprefix(TASTE) if reward is not None and reward.startswith(TASTE) else None


def reward_opinion(profile: str | None, taste: Taste | None, judges: Judges) -> Opinion:
    """What rewards: the fitted taste of a profile, or a scorer.

    Raises CliError for a taste of another scorer.
    """
    if profile is None or taste is None:
        made = opinion_of(judges.reward)
    else:
        made = taste_opinion(profile, taste, judges.models.scorer)
    return without_weights(made, judges.models.generator.info)


def referee_opinion(judges: Judges) -> Opinion:
    """What judges."""
    return without_weights(opinion_of(judges.referee), judges.models.generator.info)


@contextmanager
def typed_errors(when_full: str) -> Iterator[None]:
    """Turn errors of tuning into CliError, and those that every measuring command has.

    `when_full` is what to do about a full device.
    """
    from models.tuning.settings import TuningError

    with configured.typed_errors():
        try:
            yield
        except ValidationError:
            raise
        except (TuningError, ValueError) as error:
            raise CliError(str(error)) from None
        except ImportError as error:
            raise CliError(f"the package {error.name} is missing: install frontrunner[tune]") from None
        except OutOfMemory as error:
            raise CliError(f"{error}: {when_full}") from None
