"""Encodes the texts of a generation, for the denoiser and for ranking.

Owns the encoded texts of a run and the warnings about them. Engine thread only.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from app.domain import GenerationSpec, Notice
from app.engine.notices import (
    chunk_notices,
    contradiction_notices,
    prompt_notices,
    truncation_notice,
    unrecognised,
    wordings_notices,
)
from app.engine.ranking import scoring
from app.engine.texts.clip_limits import clip_limit_notices
from app.engine.texts.readings import reading_notices
from models.protocols import Conditioning, Embedder, StepwiseGenerator


@dataclass(slots=True)
class EncodedTexts:
    """The encoded texts of a generation, for denoiser and scorer.

    `prompts` are those of `GenerationSpec.sampling_prompts`, in that order.
    """

    prompts: tuple[Conditioning, ...]
    negative: Conditioning | None
    query: scoring.Query
    notices: tuple[Notice, ...]

    def lengths(self, wording: int | None = None) -> tuple[int, ...]:
        """Token lengths of the denoiser's texts, without repeats; of one wording, or all.

        Rows of one call must share them.
        """
        prompts = self.prompts if wording is None else (self.prompts[wording],)
        lengths = [prompt.length for prompt in prompts]
        lengths += [self.negative.length] if self.negative is not None else []
        return tuple(dict.fromkeys(lengths))


def encode_prompts(
    generator: StepwiseGenerator, spec: GenerationSpec, *, steered: bool
) -> tuple[tuple[Conditioning, ...], Conditioning | None]:
    """Encode each sampling prompt, and the negative prompt if it steers sampling.

    One text per call, so that batching never changes the bits; equal texts are encoded once.
    """
    encoded = {text: generator.encode([text])[0] for text in dict.fromkeys(spec.sampling_prompts)}
    negative = generator.encode([spec.negative_prompt], negative=True)[0] if steered else None
    return tuple(encoded[text] for text in spec.sampling_prompts), negative


def encode_ranking(
    scorer: Embedder,
    generator: StepwiseGenerator,
    spec: GenerationSpec,
    prompts: tuple[Conditioning, ...],
    negative: Conditioning | None,
    *,
    steered: bool,
) -> EncodedTexts:
    """Embed the texts of the ranking, and collect the warnings about all texts.

    One text per call, as in `encode_prompts`.
    """
    texts = (spec.ranking_prompt, *(n.text for n in spec.ranking.negatives))
    vectors = [scorer.embed_texts([t])[0] for t in texts]
    stacked = np.stack([v.vector for v in vectors])
    query = scoring.build_query(spec.ranking, stacked[0], stacked[1:], [n.weight for n in spec.ranking.negatives])
    sampled = dict(zip(spec.sampling_prompts, prompts, strict=True))
    encoded = _reported(generator, spec, sampled) if spec.spread else sampled
    cut = {t: each.truncation for t, each in sampled.items() if t != spec.prompt and each.truncation is not None}
    notices = [*_generator_notices(encoded, spec.negative_prompt, negative, set(cut))]
    notices += wordings_notices(spec, cut)
    notices += [
        truncation_notice("scorer", t, v.truncation) for t, v in zip(texts, vectors, strict=True) if v.truncation
    ]
    notices += reading_notices(
        [
            *(("generator", text, each.reading) for text, each in encoded.items()),
            *([("generator", spec.negative_prompt, negative.reading)] if negative is not None else []),
            *(("scorer", text, each.reading) for text, each in zip(texts, vectors, strict=True)),
        ]
    )
    notices += prompt_notices(generator.info, spec, steered)
    notices += (*unrecognised(texts, vectors), *contradiction_notices(texts, stacked))
    pruned = not spec.shadow and any(checkpoint.keep is not None for checkpoint in spec.checkpoints)
    judged = spec.ranking.judges_positions and not pruned  # else the main scorer prunes without seeing them
    notices += clip_limit_notices(texts[0], texts[1:], judges_positions=judged)
    return EncodedTexts(prompts, negative, query, tuple(notices))


def _reported(
    generator: StepwiseGenerator, spec: GenerationSpec, encoded: Mapping[str, Conditioning]
) -> Mapping[str, Conditioning]:
    """What to warn about of a prompt that was spread over styles.

    That is the prompt alone, not each style. It is encoded only if one of its wordings has something to report.
    """
    plain = all(each.reading is None and each.truncation is None and each.chunks == 1 for each in encoded.values())
    return {} if plain else {spec.prompt: generator.encode([spec.prompt])[0]}


def _generator_notices(
    prompts: Mapping[str, Conditioning], negative_prompt: str, negative: Conditioning | None, told: Container[str]
) -> Sequence[Notice]:
    """Notices about the generator's texts.

    Of those in `told`, another notice says that they were cut.
    """
    read = [*prompts.items(), *([(negative_prompt, negative)] if negative is not None else [])]
    cut = [(text, each.truncation) for text, each in read if each.truncation is not None and text not in told]
    return [*(truncation_notice("generator", *each) for each in cut), *chunk_notices(read)]
