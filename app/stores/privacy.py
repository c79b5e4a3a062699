"""File modes 0700 and 0600, since files hold prompts, images and secrets.

Files of other users stay unchanged. The umask keeps later files private.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

OTHERS = 0o077
"""Permission bits of group and others."""


def private_umask() -> None:
    """Make new files of this process accessible to its user only."""
    os.umask(os.umask(OTHERS) | OTHERS)


def private_folder(folder: Path, *inside: str) -> None:
    """Create the folder if needed, and restrict it to its owner. Raises OSError.

    If the folder was accessible to others, the subfolders `inside` are restricted recursively first; earlier releases
    left them open.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & OTHERS:
        for top in inside:
            _restrict(folder / top)
            for parent, folders, files in os.walk(folder / top):
                for name in (*folders, *files):
                    _restrict(Path(parent, name))
    _restrict(folder.resolve())


def private_file(path: Path) -> None:
    """Create an empty file if needed, and restrict it to its owner. Ignores OSError."""
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    _restrict(path.resolve())


def _restrict(path: Path) -> None:
    with suppress(OSError):
        found = path.lstat()
        if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and found.st_mode & OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
