"""A vision-language model of transformers as a judge: its probability of "Yes".

The model is asked whether an image shows a text. The score is the share of "Yes" among "Yes" and "No" as the first
token of the answer, from one forward pass without sampling.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from models.errors import ModelUnsupported
from models.protocols import Pixels, ScoringInfo
from models.runtime.load_errors import check_complete
from models.runtime.placement import DevicePlacement, fingerprint, memory_guard, quiet_libraries
from models.scorers.batching import as_tensor
from models.scorers.questions import yes_or_no

_BATCH = 4


class VisionLanguageScorer:
    """A vision-language model that answers whether an image shows a text.

    Scores are from 0 to 1.
    """

    def __init__(self, model: Any, processor: Any, placement: DevicePlacement, *, id: str) -> None:
        """Take a loaded model and its processor.

        Raises ModelUnsupported if the processor has no chat template, or no tokens for "Yes" and "No".
        """
        if not processor.chat_template:
            raise ModelUnsupported("the model has no chat template; use one that is trained to answer questions")
        self._model = model.to(placement.device).eval().requires_grad_(False)
        self._processor = processor
        self._placement = placement
        self._answers = _answers(processor.tokenizer)
        self._info = ScoringInfo(id, fingerprint(model), str(placement.device))

    @property
    def info(self) -> ScoringInfo:
        """Name and traits; constant."""
        return self._info

    def score(self, images: Pixels, text: str) -> NDArray[np.float32]:
        """Probabilities of "Yes" for images of one size, float32 (B,).

        Raises `OutOfMemory`.
        """
        prompt = self._prompt(text)
        with memory_guard():
            parts = as_tensor(images).to(self._placement.device).permute(0, 3, 1, 2).split(_BATCH)
            return np.asarray(torch.cat([self._yes(part, prompt) for part in parts]).cpu().numpy())

    def _yes(self, images: Any, prompt: str) -> Any:
        """Probabilities (b,) of images (b, 3, H, W).

        All inputs are equally long, so nothing is padded.
        """
        inputs = self._processor(
            text=[prompt] * len(images), images=[[image] for image in images], return_tensors="pt"
        ).to(self._placement.device, self._model.dtype)
        logits = self._model(**inputs, logits_to_keep=1).logits[:, -1, self._answers]
        return logits.float().softmax(dim=-1)[:, 0]

    def _prompt(self, text: str) -> str:
        """The question in the model's chat template.

        The template's own marks are removed from the text.
        """
        for mark in self._processor.tokenizer.get_added_vocab():
            text = text.replace(mark, " ")
        content = [{"type": "image"}, {"type": "text", "text": yes_or_no(text)}]
        prompt: str = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        return prompt


def load_vision_language(place: Path | str, label: str, placement: DevicePlacement) -> VisionLanguageScorer:
    """A vision-language model from a folder or hub id.

    Raises ModelUnsupported for another kind of model, ModelNotFound for missing tensors, and the errors of
    transformers.
    """
    with quiet_libraries():
        kind, config = transformers.AutoModelForImageTextToText, transformers.AutoConfig.from_pretrained(place)
        if type(config) not in kind._model_mapping:
            raise ModelUnsupported(f"a {config.model_type!r} model does not answer questions about images")
        model, info = kind.from_pretrained(place, dtype=placement.dtype, output_loading_info=True)
        check_complete({"model": model}, [(model, frozenset(info["missing_keys"]))], heads=True)
        processor = transformers.AutoProcessor.from_pretrained(place)
    return VisionLanguageScorer(model, processor, placement, id=label)


def _answers(tokenizer: Any) -> list[int]:
    """Ids of the first tokens of "Yes" and "No"."""
    ids = [tokenizer.encode(word, add_special_tokens=False)[:1] for word in ("Yes", "No")]
    if not all(ids) or ids[0] == ids[1] or tokenizer.unk_token_id in (ids[0][0], ids[1][0]):
        raise ModelUnsupported('the vocabulary has no tokens for "Yes" and "No"; use another model')
    return [each[0] for each in ids]
