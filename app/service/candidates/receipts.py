"""Receipts of generations: what they claim.

Nothing is computed before one is asked for.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np

from app import __version__
from app.domain import Candidate, Generation, Status
from app.errors import NotFound, NotReady, SigningFailed
from app.imaging.provenance import CertificateError, SigningPair
from app.imaging.provenance.receipts import VERSION, public_key, sign_receipt
from app.service.candidates.keys import arrays_key, file_size, image_key
from app.stores.protocols import BlobStore


class Receipts:
    """Makes receipts; `get` returns a generation that the caller may see.

    Without a `pair` there are none.
    """

    def __init__(
        self,
        get: Callable[[str], Awaitable[Generation]],
        blobs: BlobStore,
        pair: SigningPair | None,
    ) -> None:
        self._get = get
        self._blobs = blobs
        self._pair = pair

    def key(self) -> dict[str, Any]:
        """The public key that receipts are signed with. Raises NotFound, SigningFailed."""
        pair = self._usable()
        return {"algorithm": pair.algorithm, "public_key": public_key(pair), "certificate": pair.chain.decode("ascii")}

    async def receipt(self, generation_id: str) -> dict[str, Any]:
        """The signed receipt of a generation.

        Raises NotFound, NotReady, SigningFailed.
        """
        pair = self._usable()
        generation = await self._get(generation_id)
        if generation.status is not Status.SUCCEEDED:
            raise NotReady(f"the generation is {generation.status}: only a succeeded one has a receipt")
        arrays = await self._blobs.get(arrays_key(generation.id))
        if arrays is None:
            raise NotFound("the generation's files are gone: generate again")
        files = {c.index: await self._file(generation, c) for c in generation.best}
        claims = await asyncio.to_thread(_claims, generation, arrays, files)
        try:
            return await asyncio.to_thread(sign_receipt, claims, pair)
        except CertificateError as error:
            raise SigningFailed(str(error)) from error

    async def _file(self, generation: Generation, candidate: Candidate) -> str | None:
        data = await self._blobs.get(image_key(generation.id, candidate.index, generation.output_format))
        return None if data is None else hashlib.sha256(data).hexdigest()

    def _usable(self) -> SigningPair:
        if self._pair is None:
            raise NotFound("this service signs no receipts: ask the operator to set FRONTRUNNER_C2PA_CERTIFICATE")
        try:
            self._pair.check(datetime.now(UTC))
        except CertificateError as error:
            raise SigningFailed(str(error)) from None
        return self._pair


def _claims(generation: Generation, arrays: bytes, files: Mapping[int, str | None]) -> dict[str, Any]:
    """What a receipt says. Seeds are texts, since they exceed many readers' numbers."""
    spec, (width, height) = generation.spec, file_size(generation)
    parent = spec.parent
    return {
        "version": VERSION,
        "software": f"frontrunner {__version__}",
        "generation": spec.id,
        "created": generation.created,
        "finished": generation.finished,
        "parent": asdict(parent) if parent is not None else None,
        "prompt_sha256": _text(spec.prompt),
        "negative_prompt_sha256": _text(spec.negative_prompt),
        "model": {"id": generation.model, "revision": generation.model_revision},
        "scorer": {"id": generation.scorer, "revision": generation.scorer_revision},
        "seed": str(spec.seed),
        "n_candidates": spec.n_candidates,
        "n": spec.n,
        "steps": spec.steps,
        "sampler": spec.sampler,
        "guidance_scale": spec.guidance_scale,
        "file_size": f"{width}x{height}",
        "loras": [asdict(lora) for lora in spec.loras],
        "checkpoints": [asdict(checkpoint) for checkpoint in spec.checkpoints],
        "safety": str(spec.safety),
        "ranking": _ranking(generation),
        "candidates": _candidates(generation, arrays, files),
    }


def _ranking(generation: Generation) -> dict[str, Any]:
    spec, ranking = generation.spec, generation.spec.ranking
    return {
        "prompt_sha256": _text(spec.ranking_prompt),
        "negative_weight": ranking.negative_weight,
        "negatives": [{"text_sha256": _text(each.text), "weight": each.weight} for each in ranking.negatives],
        "references": [
            {"generation": each.generation, "index": each.index, "weight": each.weight} for each in ranking.references
        ],
        "taste": {"profile": ranking.taste.profile, "weight": ranking.taste.weight} if ranking.taste else None,
        "diversity": ranking.diversity,
        "min_score": ranking.min_score,
        "min_probability": ranking.min_probability,
        "veto": list(ranking.veto),
        "scorers": [asdict(each) for each in ranking.scorers],
        "uncertainty": ranking.uncertainty,
        "contrast": ranking.contrast,
        "cascade": ranking.cascade,
        "balance": asdict(ranking.balance) if ranking.balance is not None else None,
    }


def _candidates(generation: Generation, arrays: bytes, files: Mapping[int, str | None]) -> list[dict[str, Any]]:
    """All candidates, in the order of their indices."""
    with np.load(io.BytesIO(arrays), allow_pickle=False) as stored:
        latents = stored["latents"]
    return [
        {
            "index": c.index,
            "seed": str(c.seed),
            "rank": c.rank,
            "score": _number(c.score.score) if c.score is not None else None,
            "similarity": _number(c.score.similarity) if c.score is not None else None,
            "penalty": _number(c.score.penalty) if c.score is not None else None,
            "probability": c.probability,
            "score_is_preview": c.score_is_preview,
            "pruned_at_step": c.pruned_at_step,
            "failed": c.failure is not None,
            "flags": [flag.guard for flag in c.flags],
            "flagged": c.safety.flagged if c.safety is not None else None,
            "file_sha256": files.get(c.index),
            "latents_sha256": hashlib.sha256(np.ascontiguousarray(latents[c.index]).tobytes()).hexdigest()
            if c.index < len(latents)
            else None,
        }
        for c in generation.candidates
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
