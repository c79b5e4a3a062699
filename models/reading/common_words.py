"""English words beyond a pack's own: a general list, and whole tokens of CLIP.

The list is pyspellchecker's (160,000 words, rare ones and plurals among them). CLIP's vocabulary adds names that are
frequent on the web: open_clip's package holds it, as merges in order of frequency; open_clip is not imported. Both are
read with the first odd word, which takes 0.3 s and 20 MB.
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
    """The words, in lower case. Raises OSError without open_clip's file."""
    from spellchecker import SpellChecker

    return frozenset(SpellChecker("en").word_frequency.words()) | _tokens()


def _tokens() -> frozenset[str]:
    """The words that are one token of CLIP."""
    package = find_spec(_PACKAGE)
    folder = Path(str(package.origin)).parent if package is not None else Path()
    with gzip.open(folder / _FILE, "rt", encoding="utf-8") as lines:
        merges = list(islice(lines, 1, 1 + _MERGES))
    words = ("".join(merge.split()) for merge in merges)
    return frozenset(word.removesuffix(_END) for word in words if word.endswith(_END))
