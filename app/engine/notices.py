"""Warnings about texts, scores and results of a generation. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from app.domain import Candidate, GenerationSpec, Notice, Score
from app.engine.ranking.scoring import CHANCE_Z_SCORE, z_score
from models.prompt_weights import MAX_WEIGHT, read_weights
from models.protocols import Conditioning, Embeddings, GeneratorInfo, ScorerInfo, TextEmbedding, Truncation
from models.protocols.styles import style_of

CONTRADICTION_COSINE = 0.9
"""Minimum cosine of a negative with the prompt for a contradiction."""

_NO_WEIGHTS: Mapping[str, str] = {
    "unsupported": "this model takes no weights, omit them",
    "not_installed": "weights need the package compel, run `pip install compel` on the server",
}


def contradiction_notices(texts: Sequence[str], vectors: Embeddings) -> tuple[Notice, ...]:
    """Warn about each negative that means the same as the prompt.

    `texts` and their `vectors` (K, D) hold the prompt first, then the negatives.
    """
    cosines = vectors[1:] @ vectors[0]
    return tuple(
        Notice(
            "negative_contradicts_prompt",
            "the scorer sees this negative as nearly the same as the prompt",
            {"text": text, "similarity": float(cosine), "limit": CONTRADICTION_COSINE},
        )
        for text, cosine in zip(texts[1:], cosines, strict=True)
        if cosine >= CONTRADICTION_COSINE
    )


def unrecognised(texts: Sequence[str], embeddings: Sequence[TextEmbedding]) -> tuple[Notice, ...]:
    """Warn about each text without any token in the scorer's vocabulary.

    `texts` holds the prompt first, then the negatives.
    """
    codes = ("prompt_not_recognised", *["negative_not_recognised"] * (len(texts) - 1))
    detail = "the scorer's vocabulary contains no part of this text, so its similarities are meaningless"
    return tuple(
        Notice(code, detail, {"text": text})
        for code, text, embedding in zip(codes, texts, embeddings, strict=True)
        if not embedding.recognised
    )


def unscored_notices(indices: Sequence[int]) -> tuple[Notice, ...]:
    """Warn about candidates of which the scorer returned no number."""
    detail = f"the scorer returned no number for {len(indices)} candidates"
    return (Notice("score_not_a_number", detail, {"indices": [*indices]}),) if indices else ()


def unrecognised_prompt_notices(
    scores: Sequence[Score | None], scorer: ScorerInfo, notices: Sequence[Notice] = ()
) -> tuple[Notice, ...]:
    """Warn when no candidate matches the prompt better than unrelated images do.

    No warning if `notices` already contain `prompt_not_recognised`.
    """
    if any(notice.code == "prompt_not_recognised" for notice in notices):
        return ()
    known = [z for s in scores if s is not None and (z := z_score(s.prompt_similarity, scorer)) is not None]
    if not known or max(known) >= CHANCE_Z_SCORE:
        return ()
    detail = "no candidate matches the prompt better than unrelated images do: the scorer may not know these words"
    return (Notice("prompt_not_recognised", detail, {"best_z_score": max(known), "limit": CHANCE_Z_SCORE}),)


def shortfall_notices(spec: GenerationSpec, candidates: Sequence[Candidate]) -> tuple[Notice, ...]:
    """Warn when fewer than `spec.n` candidates are returned."""
    missing = spec.n - sum(c.rank is not None for c in candidates)
    if not missing:
        return ()
    withheld = sum(c.is_withheld(spec.safety) for c in candidates)
    if withheld:
        detail = f"{missing} of the requested images are missing, and safety withholds {withheld}: raise `n_candidates`"
        return (Notice("fewer_after_safety", detail, {"withheld": withheld}),)
    vetoed = sum(c.is_vetoed(spec.ranking) for c in candidates)
    if vetoed:
        detail = f"{missing} of the requested images are missing, and the veto excludes {vetoed}: change `ranking.veto`"
        return (Notice("fewer_after_veto", detail, {"vetoed": vetoed}),)
    limits = [name for name in ("min_score", "min_probability") if getattr(spec.ranking, name) is not None]
    if not limits:
        return (Notice("fewer_returned", f"{missing} of the requested images were pruned or have no score"),)
    return (Notice(f"below_{limits[0]}", f"{missing} of the requested images did not reach {' and '.join(limits)}"),)


def truncation_notice(model: str, text: str, truncation: Truncation) -> Notice:
    """Return the warning for a text that `model` ("generator" or "scorer") truncated."""
    return Notice(
        "prompt_truncated",
        f"the {model} read {truncation.limit} of {truncation.tokens} tokens",
        {
            "model": model,
            "text": text,
            "tokens": truncation.tokens,
            "limit": truncation.limit,
            "dropped": truncation.dropped,
        },
    )


def wordings_notices(spec: GenerationSpec, cut: Mapping[str, Truncation]) -> tuple[Notice, ...]:
    """Warn once about all wordings that the generator truncated: `cut`, by text."""
    if not cut:
        return ()
    limit, tokens = next(iter(cut.values())).limit, max(each.tokens for each in cut.values())
    number = f"{len(cut)} of {len(set(spec.wordings))}"
    data = {"model": "generator", "tokens": tokens, "limit": limit}
    if spec.spread:
        detail = (
            f"the generator read {limit} of up to {tokens} tokens, so the style at the end of {number} wordings was cut"
            f": shorten the prompt by {tokens - limit} tokens"
        )
        styles = [style_of(spec.prompt, text) for text in cut]
        return (Notice("style_truncated", detail, {**data, "text": spec.prompt, "styles": styles}),)
    detail = (
        f"the generator read {limit} of up to {tokens} tokens, so the end of {number} variants was cut, such as a style"
        ": shorten them"
    )
    lost = [{"text": text, "dropped": each.dropped} for text, each in cut.items()]
    return (Notice("variants_truncated", detail, {**data, "variants": lost}),)


def chunk_notices(read: Sequence[tuple[str, Conditioning]]) -> tuple[Notice, ...]:
    """Say of each text that the generator read it in chunks."""
    return tuple(
        Notice(
            "prompt_in_chunks",
            f"the generator read this text in {encoded.chunks} parts; words of different parts do not affect each "
            "other's meaning",
            {"text": text, "chunks": encoded.chunks},
        )
        for text, encoded in read
        if encoded.chunks > 1
    )


def prompt_notices(generator: GeneratorInfo, spec: GenerationSpec, steered: bool) -> tuple[Notice, ...]:
    """Warn about what the generator does not apply of the prompts.

    `steered` is whether the negative prompt steers sampling.
    """
    unused = spec.negative_prompt and not steered
    notices = (unsteered_notice(spec.negative_prompt, generator, spec.guidance_scale),) if unused else ()
    prompts = (spec.prompt,) if spec.spread else dict.fromkeys(spec.sampling_prompts)
    return (*notices, *weights_notices(generator, *prompts, spec.negative_prompt))


def unsteered_notice(negative: str, generator: GeneratorInfo, guidance_scale: float) -> Notice:
    """The warning for a negative prompt that does not steer sampling.

    The generator has no input for it, or the guidance scale is too small.
    """
    why = "this generator has no input for a negative prompt: it does not steer sampling"
    if generator.negative_prompts:
        why = (
            f"guidance_scale {guidance_scale:g} is unguided, so the negative prompt does not steer sampling; "
            f"use more than {generator.unguided_scale:g}"
        )
    return Notice("negative_prompt_not_steering", why, {"text": negative})


def weights_notices(generator: GeneratorInfo, *texts: str) -> tuple[Notice, ...]:
    """Warn about each text with weights that the generator does not apply."""
    return tuple(notice for text in texts for notice in _weights_notices(generator, text))


def _weights_notices(generator: GeneratorInfo, text: str) -> Iterator[Notice]:
    read = read_weights(text)
    if read is None:
        return
    applied = generator.prompt_weights == "applied"
    marks = read.rejected if applied else read.marks
    if marks:
        reason = f"use a weight from 0 to {MAX_WEIGHT:g}" if applied else _NO_WEIGHTS[generator.prompt_weights]
        detail = f"the marks for weights were read as letters: {reason}"
        yield Notice("weights_ignored", detail, {"text": text, "marks": list(marks)})
    if applied and read.limited:
        detail = f"nested weights were limited: use weights with a product of at most {MAX_WEIGHT:g}"
        yield Notice("weights_limited", detail, {"text": text, "limit": MAX_WEIGHT})
