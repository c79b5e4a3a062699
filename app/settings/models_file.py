"""The TOML file that `FRONTRUNNER_MODELS` names: several models of one process.

Owns names, keys and defaults of its tables. Values are those of `ModelSettings`; models load later.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from pydantic import ValidationError

from app.settings.model_settings import ModelSettings

MAX_MODELS = 64
"""Maximum tables, with those of previous weights."""

MAX_LABEL_CHARS = 64
"""Maximum length of the label of previous weights; the database keeps NAME@LABEL."""

Load: TypeAlias = Literal["resident", "on-demand"]
"""When a model loads: at the start, or when a request names it."""

_LOADS = ("resident", "on-demand")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,98}[A-Za-z0-9])?")
_CHARACTERS = "use up to {} letters, digits and . _ - / that begin and end with a letter or digit"
_OWN_KEYS = ("load", "previous")
_TOP_KEYS = ("default", "models")


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model of the file. `id` is the value of `model` in requests.

    That of previous weights is NAME@LABEL.
    """

    id: str
    settings: ModelSettings
    load: Load = "resident"

    @property
    def name(self) -> str:
        """The name that all weights of a model share."""
        return self.id.partition("@")[0]


@dataclass(frozen=True, slots=True)
class ModelsFile:
    """The models in the order of the file; `default` is for requests without one."""

    models: tuple[ServedModel, ...]
    default: str

    @classmethod
    def read(cls, path: Path, base: ModelSettings) -> ModelsFile:
        """Read the file; keys that a table omits have the values of `base`.

        Raises ValueError that names the table and the key.
        """
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"{path.name!r} cannot be read: name a TOML file that this user may read") from error
        except ValueError as error:
            raise ValueError(f"{path.name!r} is not valid TOML, or names a model or key twice: {error}") from error
        _check_keys(document, _TOP_KEYS, "the file")
        tables = document.get("models", {})
        if not isinstance(tables, Mapping) or not tables:
            raise ValueError(f"{path.name!r} names no model: add a table [models.NAME] with a key generator")
        models = tuple(_models(tables, base))
        if len(models) > MAX_MODELS:
            raise ValueError(f"{len(models)} models are named: name at most {MAX_MODELS}")
        default = document.get("default", models[0].id)
        if default not in [model.id for model in models]:
            names = ", ".join(model.id for model in models)
            raise ValueError(f"default names no model of the file: use one of {names}")
        return cls(models, default)


def _models(tables: Mapping[str, Any], base: ModelSettings) -> Iterator[ServedModel]:
    """The models, each followed by its previous weights."""
    seen = dict[str, str]()
    for name, table in tables.items():
        if not _NAME.fullmatch(name):
            raise ValueError(f"the model name {name[:64]!r} is not valid: {_CHARACTERS.format(100)}")
        if (other := seen.setdefault(name.lower(), name)) != name:
            raise ValueError(f"the models {other!r} and {name!r} differ in case only: rename one")
        where = f"[models.{name}]"
        values = _table(table, where)
        previous = values.pop("previous", {})
        load = _load(values.pop("load", "resident"), where)
        yield ServedModel(name, _settings(values, base, where), load)
        if not isinstance(previous, Mapping):
            raise ValueError(f"{where} previous must be tables such as [models.{name}.previous.v1]")
        for label, older in previous.items():
            where = f"[models.{name}.previous.{label}]"
            if not _NAME.fullmatch(label) or len(label) > MAX_LABEL_CHARS:
                allowed = _CHARACTERS.format(MAX_LABEL_CHARS)
                raise ValueError(f"[models.{name}.previous] has a label that is not valid: {allowed}")
            changes = _table(older, where)
            if "previous" in changes:
                raise ValueError(f"{where} previous: only a model has previous weights, remove the key")
            load = _load(changes.pop("load", "on-demand"), where)
            settings = _settings({**values, **changes}, base, where)
            yield ServedModel(f"{name}@{label}", settings, load)


def _table(table: object, where: str) -> dict[str, Any]:
    """The table with its values as settings; it names a generator or refines a model."""
    if not isinstance(table, Mapping):
        raise ValueError(f"{where} must be a table with a key generator")
    _check_keys(table, (*_OWN_KEYS, *ModelSettings.model_fields), where)
    if "generator" not in table:
        raise ValueError(f"{where} lacks the key generator: name a pack, folder or hub id")
    return {key: value if key in _OWN_KEYS else _flat(value, f"{where} {key}") for key, value in table.items()}


def _check_keys(table: Mapping[str, Any], accepted: tuple[str, ...], where: str) -> None:
    if unknown := [key[:64] for key in table if key not in accepted]:
        raise ValueError(f"{where} has the unknown key {unknown[0]!r}: use {', '.join(accepted)}")


def _flat(value: object, where: str) -> object:
    """A value as in an environment variable: arrays and tables joined by commas."""
    if isinstance(value, list):
        if not all(isinstance(each, str) and "," not in each for each in value):
            raise ValueError(f"{where} must be an array of strings without commas")
        return ",".join(value)
    if isinstance(value, Mapping):
        if not all(isinstance(each, str) and "," not in each for each in value.values()):
            raise ValueError(f"{where} must be a table of strings without commas")
        return ",".join(f"{key}={each}" for key, each in value.items())
    if isinstance(value, str | bool | int | float):
        return value
    raise ValueError(f"{where} must be a string, number, boolean, array or table")


def _load(value: object, where: str) -> Load:
    if value not in _LOADS:
        raise ValueError(f"{where} load must be one of {', '.join(_LOADS)}")
    return cast(Load, value)


def _settings(values: Mapping[str, Any], base: ModelSettings, where: str) -> ModelSettings:
    inherited = {name: getattr(base, name) for name in ModelSettings.model_fields}
    try:
        return ModelSettings(**{**inherited, **values})
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        key = f" {problem['loc'][0]}" if problem["loc"] else ""
        raise ValueError(f"{where}{key}: {problem['msg'].removeprefix('Value error, ')}") from None
