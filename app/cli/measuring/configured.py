"""The configured models and typical prompts, for commands that measure them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from pydantic import ValidationError

from app.cli.client import CliError
from app.errors import FrontrunnerError
from app.settings import Settings, format_errors
from app.settings.model_settings import ModelSettings
from models import registry
from models.errors import ModelError, ScoringFailed
from models.pack import packs
from models.protocols import GeneratorInfo, Models

MIN_PROMPTS = 8
"""Minimum number of prompts; with fewer, the correlations are mostly noise."""


def choose_model(settings: Settings, name: str | None) -> ModelSettings:
    """The settings of the one model to measure. Raises CliError."""
    served = settings.served
    if served is None:
        if name is not None:
            raise CliError("--model names a table of FRONTRUNNER_MODELS: set that to the file, or omit --model")
        return settings
    tables = {model.id: model.settings for model in served.models}
    if name not in tables:
        problem = (
            "FRONTRUNNER_MODELS names several models" if name is None else f"--model {name} is no table of the file"
        )
        raise CliError(f"{problem}: measure one by --model NAME, of {', '.join(tables)}")
    return tables[name]


def load_models(settings: ModelSettings) -> Models:
    """Load the models that the settings name, but for the upscaler.

    Raises ModelError, and CliError for a remote one.
    """
    loaded = registry.load_models(
        settings.generator,
        settings.scorer,
        settings.workers[0],
        settings.preview_decoder or None,
        mode=settings.generator_mode,
        options=replace(settings.load_options, upscaler=""),
    )
    if loaded.generator.info.whole_images is not None:
        raise CliError("the generator is remote and has no steps to measure: name a pack, folder or hub id")
    return loaded


def served_info(models: Models, settings: Settings) -> GeneratorInfo:
    """The generator with the server's decision about its styles."""
    info = models.generator.info
    return info if info.styles is None else replace(info, styles=info.styles.decided(settings.spread_styles))


def read_prompts(prompts: Path | None, generator: str) -> Sequence[str]:
    """Return the prompts, one a line; None selects those of the pack."""
    if prompts is None:
        pack = packs().get(generator)
        if pack is None or not (pack.folder / "prompts.txt").is_file():
            raise CliError("--prompts is required: name a file with one typical prompt a line")
        prompts = pack.folder / "prompts.txt"
    texts = read_lines(prompts)
    if len(texts) < MIN_PROMPTS:
        raise CliError(f"--prompts has {len(texts)} prompts; at least {MIN_PROMPTS} are required, 64 are recommended")
    return texts


def read_lines(file: Path) -> list[str]:
    """The lines of a file that are not blank. Raises CliError if it is no text."""
    try:
        return [line.strip() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise CliError(f"{file.name} is no text in UTF-8: name a file with one prompt a line") from None


def check_output(*files: Path | None) -> None:
    """Raise CliError for files that cannot be written, before anything is measured."""
    for file in files:
        if file is None:
            continue
        place = file if file.exists() else file.parent
        if file.is_dir() or not place.exists() or not os.access(place, os.W_OK):
            raise CliError(
                f"the output file {str(file)!r} cannot be written: name one in a folder that exists and that you may "
                "write to"
            )


@contextmanager
def typed_errors() -> Iterator[None]:
    """Turn errors of settings, models, engine, scorers and files into CliError."""
    try:
        yield
    except ValidationError as error:
        raise CliError("; ".join(format_errors(error))) from None
    except (ModelError, FrontrunnerError) as error:
        raise CliError(str(error)) from None
    except ScoringFailed as error:
        raise CliError(f"{error}; then run the same command again") from None
    except OSError as error:
        raise CliError(f"{error.filename}: {error.strerror}" if error.filename else str(error)) from None
