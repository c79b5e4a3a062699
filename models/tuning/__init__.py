"""Reward tuning: LoRA adapters from a generator's own ranked candidates.

DiffusionNFT, or best-of-N distillation, on the denoisers of native loops. A referee that never rewards stops the run.
Serving never imports this package.
"""
