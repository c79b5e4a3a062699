"""Options of loading, from the settings to the loaders. Without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

DEFAULT_TILE = 512
"""Longest side of an upscaler's call, in pixels."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How models are loaded, besides their names and their device.

    `upscaler` is a model file, folder or hub id; empty for none. `upscaler_tile` is the longest side of one of its
    calls, in pixels. `controls` are folders or hub ids of ControlNets, by kind.
    """

    upscaler: str = ""
    upscaler_tile: int = DEFAULT_TILE
    controls: Mapping[str, str] = field(default_factory=dict)


DEFAULTS = LoadOptions()
"""Models as they are, without an upscaler and ControlNets."""
