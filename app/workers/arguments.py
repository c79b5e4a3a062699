"""The arguments of an application: settings of the model, scale of its workers.

Secrets are no arguments, since the cluster shows them: a worker reads keys from its own environment.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.settings import ModelSettings

NOT_SENT = {"cluster", "devices"} | {name for name, field in ModelSettings.model_fields.items() if not field.repr}
"""Settings of a front that no worker takes over."""


class WorkerArguments(BaseModel):
    """Arguments of `app.workers.deployment:build`.

    `model` holds settings by name, without the prefix.
    """

    model_config = ConfigDict(extra="forbid")

    called: str = Field("", description="id of the model, if it is not the generator")
    model: dict[str, Any] = Field(default_factory=dict, description="settings of the model, such as generator")
    min_workers: int = Field(0, ge=0, le=10_000, description="workers that stay without work")
    max_workers: int = Field(1, ge=1, le=10_000, description="workers under load")
    idle_s: float = Field(300.0, ge=1, le=86_400, description="seconds without work after which a worker stops")
    cpus: float = Field(1.0, ge=0, le=1024, description="CPU cores of a worker")
    gpus: float = Field(0.0, ge=0, le=64, description="GPUs of a worker")

    @model_validator(mode="after")
    def _check(self) -> WorkerArguments:
        if self.min_workers > self.max_workers:
            raise ValueError("min_workers must be at most max_workers")
        if unknown := sorted(self.model.keys() - ModelSettings.model_fields.keys() | self.model.keys() & NOT_SENT):
            raise ValueError(f"model has the key {unknown[0]!r}, which is no setting of a worker")
        return self

    @property
    def settings(self) -> ModelSettings:
        """The settings of the worker's model. Raises ValueError."""
        return ModelSettings(**self.model, cluster="", devices="")


def arguments_of(settings: ModelSettings, **scale: Any) -> dict[str, Any]:
    """The arguments of a model as JSON values.

    They name every setting but secrets, so that a worker's own do not count.
    """
    model = settings.model_dump(mode="json", include=ModelSettings.model_fields.keys() - NOT_SENT)
    return WorkerArguments(model=model, **scale).model_dump(mode="json")
