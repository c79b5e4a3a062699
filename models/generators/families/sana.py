"""Sana: Gemma texts with an instruction, large cells, a multistep solver."""

from __future__ import annotations

from typing import Any, ClassVar

from models.generators.families.base import NativeFamily


class Sana(NativeFamily):
    """Sana 1.0 and 1.5."""

    cells: ClassVar[int] = 1

    def texts(self, text: str, negative: bool) -> tuple[Any, ...]:
        """Padded states (tokens, D) and their mask (tokens,).

        Negative prompts get no instruction.
        """
        changes = {"complex_human_instruction": None} if negative else {}
        hidden, mask, *_ = self.encoded(text, **changes)
        return hidden[0], mask[0]

    def denoise(self, x: Any, t: Any, guidance: Any, *texts: Any) -> Any:  # noqa: ARG002
        """The first half of the output, where the model learned a deviation too."""
        hidden, mask = texts
        output = self.denoiser(
            x,
            encoder_hidden_states=hidden,
            encoder_attention_mask=mask,
            timestep=t * self.denoiser.config.timestep_scale,
            return_dict=False,
        )[0]
        return output[:, : x.shape[1]]
