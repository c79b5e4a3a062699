"""The bootstrap that stored figures were made with."""

from __future__ import annotations

import numpy as np
import pytest

from models.bootstrap import interval


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (-0.6514933452787819, 0.013065754078304131)),
        ({"resamples": 10_000}, (-0.6443790225386263, 0.018604286418282084)),
        ({"seed": 31}, (-0.6642154711750842, 0.022567540825650774)),
    ],
)
def test_intervals_of_stored_figures_stay(settings: dict[str, int], expected: tuple[float, float]) -> None:
    values = np.random.default_rng(7).standard_normal(20)
    assert interval(values, **settings) == expected
    assert interval(values.tolist(), **settings) == expected


def test_equal_values_have_no_width() -> None:
    assert interval([0.25] * 4) == (0.25, 0.25)
