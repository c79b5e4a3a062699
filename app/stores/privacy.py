"""Modes of folders and files: 0700 and 0600, since they hold prompts, images and webhook secrets.

Files of another user are left as they are. Files that a process makes later are private by its umask.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

OTHERS = 0o077
"""What group and others may do."""


def private_umask() -> None:
    """Files that this process makes from now on are for its user alone."""
    os.umask(os.umask(OTHERS) | OTHERS)


def private_folder(folder: Path, *inside: str) -> None:
    """Make it if needed, and close it to others. Raises OSError.

    Where it was open, these things `inside` and all in them are closed first: an older release has left them open too.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_mode & OTHERS:
        for top in inside:
            _close(folder / top)
            for parent, folders, files in os.walk(folder / top):
                for name in (*folders, *files):
                    _close(Path(parent, name))
    _close(folder.resolve())


def private_file(path: Path) -> None:
    """Make an empty one if needed, and close it to others. Does nothing where that cannot be."""
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    _close(path.resolve())


def _close(path: Path) -> None:
    with suppress(OSError):
        found = path.lstat()
        if found.st_uid == os.geteuid() and not stat.S_ISLNK(found.st_mode) and found.st_mode & OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS)
