"""The properties of an `Engine` that only read facts of its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

from app.engine.cost_model import CostModel
from app.engine.protocols import PanelScorer
from models.protocols import Calibration, GeneratorInfo, ScorerInfo
from models.protocols.upscaling import UpscalerInfo


class ModelFacts(Protocol):
    """What admission needs to know of a model; see `Engine` for the members."""

    @property
    def generator(self) -> GeneratorInfo: ...  # noqa: D102
    @property
    def scorer(self) -> ScorerInfo: ...  # noqa: D102
    @property
    def calibration(self) -> Calibration | None: ...  # noqa: D102
    @property
    def costs(self) -> CostModel: ...  # noqa: D102
    @property
    def panel(self) -> tuple[PanelScorer, ...]: ...  # noqa: D102
    @property
    def upscaler(self) -> UpscalerInfo | None: ...  # noqa: D102


class KnownModel(ABC):
    """The properties of `Engine` that only read facts; `_facts` finds them."""

    @abstractmethod
    def _facts(self) -> ModelFacts:
        """The facts now. Raises FrontrunnerError where there are none."""

    @property
    def generator(self) -> GeneratorInfo:
        """See `Engine`."""
        return self._facts().generator

    @property
    def scorer(self) -> ScorerInfo:
        """See `Engine`."""
        return self._facts().scorer

    @property
    def calibration(self) -> Calibration | None:
        """See `Engine`."""
        return self._facts().calibration

    @property
    def costs(self) -> CostModel:
        """See `Engine`."""
        return self._facts().costs

    @property
    def panel(self) -> tuple[PanelScorer, ...]:
        """See `Engine`."""
        return self._facts().panel

    @property
    def upscaler(self) -> UpscalerInfo | None:
        """See `Engine`."""
        return self._facts().upscaler
