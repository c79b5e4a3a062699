"""The configured models of tuning: generator, reward and referee."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from app.cli.client import CliError
from app.cli.measuring import configured
from app.settings.model_settings import ModelSettings
from models import registry
from models.loras import LoraFolder
from models.protocols import Embedder, Models, OutOfMemory, Scorer

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
    options = replace(settings.load_options, upscaler="", scorers=further, referee=judging, loras=loras)
    place = chosen.device or settings.workers[0]
    models = registry.load_models(
        settings.generator, settings.scorer, place, mode=settings.generator_mode, options=options
    )
    assert models.referee is not None
    return Judges(models, models.members[0] if further else models.scorer, models.referee)


def read_prompts(file: Path) -> list[str]:
    """The prompts of a file, one a line. Raises CliError for a file that is no text."""
    try:
        return [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise CliError(f"{file.name} is no text in UTF-8: name a file with one prompt a line") from None


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turn errors of tuning into CliError, and those that every measuring command has."""
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
            raise CliError(f"{error}: use smaller --rows and --batch, or --checkpointing") from None
