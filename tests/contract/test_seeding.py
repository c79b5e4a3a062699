"""CPU generators of 64-bit seeds: torch's own below 2^32, a stream of its own for every larger seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.runtime.seeding import cpu_generator

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 7, 2**31, 2**32 - 1])
def test_short_seeds_are_torchs_own(seed: int) -> None:
    assert torch.equal(cpu_generator(seed).get_state(), torch.Generator().manual_seed(seed).get_state())


@pytest.mark.parametrize("seed", [2**32, 2**32 + 7, 2**53 + 1, 2**64 - 1])
def test_long_seeds_fill_the_state_as_the_reference_does(seed: int) -> None:
    drawn = torch.randint(0, 2**32, (5,), generator=cpu_generator(seed), dtype=torch.int64)
    words = np.random.RandomState([seed % 2**32, seed >> 32]).randint(0, 2**32, 10, dtype=np.uint64)
    np.testing.assert_array_equal(drawn.numpy(), words[1::2])  # torch draws two words, the second has the low bits
    assert cpu_generator(seed).initial_seed() == seed


def test_noise_of_long_seeds_is_normal_and_independent() -> None:
    drawn = [torch.randn(50_000, generator=cpu_generator(7 + offset)) for offset in (0, 2**32, 2**33, 2**63)]
    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(4)
    assert float(correlations.abs().max()) < 0.02
    for noise in drawn:
        assert float(noise.mean()) == pytest.approx(0, abs=0.02)
        assert float(noise.std()) == pytest.approx(1, abs=0.02)
