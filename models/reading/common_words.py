"""English words beyond a pack's own: those that CLIP's tokenizer has as a whole.

They are frequent in captions of the web. open_clip's package holds them, as merges in order of frequency; endings of
words and names are among them. open_clip is not imported.
"""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

_PACKAGE, _FILE = "open_clip", "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 48_894
"""Merges that CLIP's vocabulary uses, after a line that is none."""

_END = "</w>"


@cache
def common_words() -> frozenset[str]:
    """The words, in lower case. Raises OSError without the file."""
    package = find_spec(_PACKAGE)
    folder = Path(str(package.origin)).parent if package is not None else Path()
    with gzip.open(folder / _FILE, "rt", encoding="utf-8") as lines:
        merges = list(islice(lines, 1, 1 + _MERGES))
    words = ("".join(merge.split()) for merge in merges)
    return frozenset(word.removesuffix(_END) for word in words if word.endswith(_END))
