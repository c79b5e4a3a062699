"""Every saved seed, once: what was found by fuzzing is not found again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fuzz.targets import SEEDS, Target, targets

SAVED = sorted(path.relative_to(SEEDS) for path in SEEDS.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    with targets(tmp_path_factory.mktemp("fuzz")) as found:
        yield found


@pytest.mark.parametrize("path", SAVED, ids=str)
def test_a_saved_seed_holds(known: dict[str, Target], path: object) -> None:
    name, _, _ = str(path).partition("/")
    known[name]((SEEDS / str(path)).read_bytes())


def test_every_target_has_seeds(known: dict[str, Target]) -> None:
    assert {path.parts[0] for path in SAVED} == set(known)
