"""The devices of a process, as an operator lists them."""

from __future__ import annotations

import re

MAX_DEVICES = 64

ACCEPTED = "auto, cpu, mps, cuda or cuda:N, separated by commas, each with *COUNT for several workers, such as cpu*2"

_ENTRY = re.compile(r"(auto|cpu|mps|cuda(?::[0-9]+)?)(?:\*([0-9]+))?")


def parse_devices(text: str) -> tuple[str, ...]:
    """One device per worker, in order; empty for an empty text.

    Raises ValueError, which names the accepted values.
    """
    devices = list[str]()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise ValueError(f"{entry!r} is no device; use {ACCEPTED}")
        times = int(found[2]) if found[2] else 1
        if not 1 <= times <= MAX_DEVICES:
            raise ValueError(f"{entry!r}: the count must be from 1 to {MAX_DEVICES}")
        devices += [found[1]] * times
    if text.strip() and not devices:
        raise ValueError(f"names no device; use {ACCEPTED}")
    if len(devices) > MAX_DEVICES:
        raise ValueError(f"names {len(devices)} workers; use at most {MAX_DEVICES}")
    return tuple(devices)


def worker_names(devices: tuple[str, ...]) -> tuple[str, ...]:
    """A name for each worker: its device, numbered where it occurs more than once."""
    counts = {device: devices.count(device) for device in devices}
    return tuple(
        device if counts[device] == 1 else f"{device}#{devices[:place].count(device) + 1}"
        for place, device in enumerate(devices)
    )
