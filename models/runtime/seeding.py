"""CPU generators of 64-bit seeds.

torch seeds its Mersenne Twister with the low 32 bits of a seed, so that 7 and 2^32 + 7 draw the same noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_STATE_AT = 3
"""Index of the twister's words in the 64-bit words of a generator's state.

Before them are the initial seed, two 32-bit counters, and the index of the next word.
"""


def cpu_generator(seed: int) -> Any:
    """A CPU generator; every seed in [0, 2^64) has its own stream.

    Seeds below 2^32 are seeded by torch, as in any diffusers script. Larger ones fill the twister's state from both
    halves, by the reference initialisation for arrays.
    """
    generator = torch.Generator()
    if seed < 2**32:
        return generator.manual_seed(seed)
    state = generator.manual_seed(seed).get_state()
    twister: Any = np.random.RandomState([seed & 0xFFFF_FFFF, seed >> 32]).get_state(legacy=False)
    words = torch.from_numpy(twister["state"]["key"].astype(np.int64))
    state.view(torch.int64)[_STATE_AT : _STATE_AT + len(words)] = words
    generator.set_state(state)
    return generator
