"""Infotext: the parameters of an image as text, as web UIs write and read it.

The prompt comes first, then a line of the negative prompt, then one line of settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

SAMPLER_NAMES = {
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "ddim": "DDIM",
    "ddim_quadratic": "DDIM quadratic",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "heun": "Heun",
    "lcm": "LCM",
    "tcd": "TCD",
    "unipc": "UniPC",
}
"""Names of samplers in web UIs; other samplers keep their own."""

MIN_SETTINGS = 3
"""Fewest settings that make a last line a line of settings, not of the prompt."""

_NEGATIVE = "Negative prompt:"
_SETTING = re.compile(r'\s*(\w[\w \-/]{0,63}):\s*("(?:\\.|[^\\"])*"|[^,]*)(?:,|$)')
_SIZE = re.compile(r"(\d{1,6})x(\d{1,6})")


def infotext(parameters: Mapping[str, Any]) -> str:
    """Write parameters as infotext; missing ones are omitted.

    `width` and `height` are the sampled size, `output_size` that of the file if it differs.
    """
    lines = [str(parameters.get("prompt", ""))]
    if parameters.get("negative_prompt"):
        lines.append(f"{_NEGATIVE} {parameters['negative_prompt']}")
    sampler = parameters.get("sampler")
    sampled = f"{parameters['width']}x{parameters['height']}" if "width" in parameters else None
    output = parameters.get("output_size")
    settings = {
        "Steps": parameters.get("steps"),
        "Sampler": SAMPLER_NAMES.get(str(sampler), sampler),
        "CFG scale": parameters.get("guidance_scale"),
        "Seed": parameters.get("seed"),
        "Size": output or sampled,
        "Model": parameters.get("model"),
        "Denoising strength": parameters.get("strength"),
        "Sampled size": sampled if output else None,
    }
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items() if value is not None))
    return "\n".join(lines)


def parse_infotext(text: str) -> dict[str, str]:
    """Read infotext as settings by name, with `Prompt` and `Negative prompt`.

    A size becomes two settings, such as `Size-1` and `Size-2`. A last line with fewer than `MIN_SETTINGS` settings
    belongs to the prompt.
    """
    *lines, last = text.strip().split("\n")
    settings = _SETTING.findall(last)
    if len(settings) < MIN_SETTINGS:
        lines, settings = [*lines, last], []
    parts: tuple[list[str], list[str]] = [], []
    negative = False
    for line in (line.strip() for line in lines):
        negative = negative or line.startswith(_NEGATIVE)
        parts[negative].append(line.removeprefix(_NEGATIVE).strip() if negative else line)
    found = {"Prompt": "\n".join(parts[0]), "Negative prompt": "\n".join(parts[1])}
    for name, value in settings:
        size = _SIZE.fullmatch(value)
        found |= {f"{name}-1": size[1], f"{name}-2": size[2]} if size else {name: _unquoted(value)}
    return found


def _quoted(value: object) -> str:
    """Return a setting's value, as a JSON string if punctuation requires it."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if set(text) & set(',:\n"') else text


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    try:
        return str(json.loads(value))
    except ValueError:
        return value
