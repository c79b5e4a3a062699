"""Krea 2: states of many layers, guidance beyond the prompt.

The autoencoder is Qwen-Image's.
"""

from __future__ import annotations

from typing import Any, ClassVar

from models.generators.families.base import FilmFamily, pack, unpack


class Krea2(FilmFamily):
    """Krea 2 and its distilled Turbo, which is used without guidance."""

    unguided: ClassVar[float] = 0.0

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:  # noqa: ARG002
        """Padded states (tokens, layers, D) and their mask (tokens,)."""
        hidden, mask = self.encoded(text)
        return hidden[0], mask[0]

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:  # noqa: ARG002
        """Places are the same for all rows."""
        hidden, mask = texts
        height, width = x.shape[2:]
        output = self.denoiser(
            pack(x),
            encoder_hidden_states=hidden,
            timestep=t / self.pipe.scheduler.config.num_train_timesteps,
            position_ids=self.pipe.prepare_position_ids(hidden.shape[1], height // 2, width // 2, x.device),
            encoder_attention_mask=mask,
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def combine(self, positive: Any, negative: Any, scale: Any) -> Any:
        """Counts from the prompt's prediction, not from the negative one."""
        return positive + scale * (positive - negative)
