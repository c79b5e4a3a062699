"""Single files of hub models, in the local cache."""

from __future__ import annotations

import re
from pathlib import Path

from models.errors import ModelNotFound

_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+)")


def find_file(name: str) -> Path:
    """The file of a local path or of OWNER/NAME/FILE on the hub, downloaded if needed.

    Raises ModelNotFound for another name, and OSError or ValueError if there is none on the hub.
    """
    if Path(name).is_file():
        return Path(name)
    parts = _HUB_FILE.fullmatch(name)
    if parts is None:
        raise ModelNotFound("no such file; use a path or OWNER/NAME/FILE on the hub")
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(*parts.groups()))
