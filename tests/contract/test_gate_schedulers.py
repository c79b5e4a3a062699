"""The gate with schedulers that remember, draw noise, or make other numbers of steps than they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.contract.gate_kit import JOBS, Gated, apart, levels

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),
]

SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "heun": ("HeunDiscreteScheduler", {}),
    "kdpm2": ("KDPM2DiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "dpmpp_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm_single": ("DPMSolverSinglestepScheduler", {}),
    "euler_ancestral": ("EulerAncestralDiscreteScheduler", {}),
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
}
LATENTS = 2e-5
LEVELS = 2


@pytest.fixture(scope="module", params=SCHEDULERS)
def gated(request: pytest.FixtureRequest) -> Gated:
    import diffusers

    kind, changes = SCHEDULERS[request.param]

    def changed(pipe: Any) -> None:
        pipe.scheduler = getattr(diffusers, kind).from_config(pipe.scheduler.config, **changes)

    return Gated("stable_diffusion", changed)


def test_mixed_candidates_are_those_of_the_stock_pipeline(gated: Gated) -> None:
    latents = gated.finish([gated.row(job) for job in JOBS])
    pixels = gated.pixels(latents)
    for job, latent, picture in zip(JOBS, latents, pixels, strict=True):
        wanted = gated.stock(job)
        assert apart(np.asarray(latent.x), wanted.latent) <= LATENTS
        assert levels(picture, wanted.pixels) <= LEVELS


def test_a_row_that_is_stepped_again_goes_on_as_it_did(gated: Gated) -> None:
    (row,) = gated.step(gated.step([gated.row(JOBS[1])]))
    (once,) = gated.step([row])
    (twice,) = gated.step([row])
    for again in (once, twice):
        (latent,) = gated.finish([again])
        assert apart(np.asarray(latent.x), gated.stock(JOBS[1]).latent) <= LATENTS


def test_the_last_estimate_is_the_picture(gated: Gated) -> None:
    (latent,) = gated.finish([gated.row(JOBS[0])])
    assert np.isfinite(np.asarray(latent.x0)).all()
    spread = float(np.abs(np.asarray(latent.x)).max())
    assert float(np.abs(np.asarray(latent.x0) - np.asarray(latent.x)).max()) <= 0.1 * spread
