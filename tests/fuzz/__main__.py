"""`python -m tests.fuzz`: mutated seeds through every target, in turns, for two minutes.

What fails is made small, written to the seeds of its target, and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
import tempfile
import time
import warnings
from itertools import cycle
from pathlib import Path

from hypothesis import HealthCheck, Verbosity, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, Target, seeds, targets

ROUND = 200
"""Examples of a target before the next one has its turn."""

MOST_REPEATS = 5000
ODD = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\r\n",
    b",",
    b";",
    b"=",
    b"%",
    b"--",
    b"-1",
    b"\xed\xa0\x80",
)


@st.composite
def mutants(draw: st.DrawFn, known: list[bytes]) -> bytes:
    """A seed after a few edits: bytes put in, taken out, replaced, repeated, or joined from another seed."""
    data = draw(st.sampled_from(known))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 64)))
        part = draw(st.sampled_from(ODD) | st.binary(max_size=8) | st.sampled_from(known))
        times = draw(st.integers(1, MOST_REPEATS)) if draw(st.booleans()) else 1
        middle = draw(st.sampled_from((b"", part, data[start:end] * times, part[:16] * times)))
        data = data[:start] + middle + data[end:]
    return data


def found(name: str, target: Target) -> bytes | None:
    """The smallest input of a round that fails, if there is one."""
    failed: list[bytes] = []

    @settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        verbosity=Verbosity.quiet,
        suppress_health_check=[*HealthCheck],
    )
    @given(mutants(seeds(name)))
    def attempt(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            failed.append(data)
            raise

    try:
        attempt()
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
        return min(failed, key=len, default=b"")
    return None


def main() -> int:
    """Fuzz for the time that is given; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore", "Do not use the `random` module")  # the service does, in its own thread
    until, rounds = time.monotonic() + asked.seconds, 0
    with tempfile.TemporaryDirectory() as folder, targets(Path(folder)) as known:
        for name in cycle(known):
            if time.monotonic() > until:
                break
            bad = found(name, known[name])
            if bad is not None:
                path = SEEDS / name / f"found-{hashlib.sha256(bad).hexdigest()[:12]}"
                path.write_bytes(bad)
                print(f"wrote {path}", file=sys.stderr)
                return 1
            rounds += 1
    print(f"{rounds} rounds of {ROUND} examples, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
