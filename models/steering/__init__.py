"""Which pairs of models can be steered. The import loads no torch."""

from __future__ import annotations

from models.protocols import Embedder, StepwiseGenerator
from models.protocols.steering import Steering
from models.synthetic.generator import FakeGenerator
from models.synthetic.scorer import FakeScorer
from models.synthetic.steering import FakeSteering


def find_steering(generator: StepwiseGenerator, scorer: Embedder) -> Steering | None:
    """The steering of these models; None if one of them gives no gradients.

    Computes no gradient: see `Steering.check`.
    """
    if isinstance(generator, FakeGenerator) and isinstance(scorer, FakeScorer):
        return FakeSteering()
    if not hasattr(generator, "differentiable") or not hasattr(scorer, "embed_differentiable"):
        return None
    from models.steering.gradients import GradientSteering

    return GradientSteering(generator.differentiable(), scorer.embed_differentiable)
