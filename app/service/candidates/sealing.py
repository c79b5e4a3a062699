"""Signed origin of candidates' files: what their C2PA manifests say."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app import __version__
from app.domain import Candidate, Generation, Provenance
from app.errors import InvalidRequest, SigningFailed
from app.imaging import MEDIA_TYPES
from app.imaging.provenance import CertificateError, Origin, Parent, SigningPair, sign
from app.service.candidates.keys import file_size, image_key
from app.stores.protocols import BlobStore

GENERATOR = ("Frontrunner", __version__)

REFINED = "c2pa.edited"
RESIZED = "c2pa.resized"
"""C2PA's names of what was done to a parent."""


class FileSealer:
    """Signs files of generations whose provenance is C2PA; leaves others as they are.

    Without a `pair` such generations are refused.
    """

    def __init__(self, pair: SigningPair | None = None) -> None:
        self._pair = pair

    @property
    def pair(self) -> SigningPair | None:
        """The key and the certificate; None if there are none."""
        return self._pair

    def check(self, provenance: Provenance) -> None:
        """Raise InvalidRequest if files of this provenance cannot be made here."""
        if provenance is not Provenance.C2PA:
            return
        try:
            self._usable()
        except SigningFailed as error:
            raise InvalidRequest(f"{error.detail}; or send `none` or `metadata`", pointer="#/provenance") from None

    async def seal(
        self,
        generation: Generation,
        index: int,
        data: bytes,
        output_format: str,
        parent: Parent | None = None,
        action: str = REFINED,
    ) -> bytes:
        """The file of a candidate with its manifest. Raises SigningFailed."""
        if generation.provenance is not Provenance.C2PA:
            return data
        pair = self._usable()
        candidate = generation.candidates[index]
        title = f"{generation.id}-{index}.{output_format}"
        origin = Origin(title, GENERATOR, origin_parameters(generation, candidate), parent, action)
        try:
            return await asyncio.to_thread(sign, data, MEDIA_TYPES[output_format], origin, pair)
        except CertificateError as error:
            raise SigningFailed(str(error)) from error

    async def seal_all(self, generation: Generation, files: Mapping[str, bytes], blobs: BlobStore) -> dict[str, bytes]:
        """The files of a generation, by key, with its returned candidates signed.

        Raises SigningFailed.
        """
        sealed, form = dict(files), generation.output_format
        if generation.provenance is Provenance.C2PA:
            parent = await parent_file(generation, blobs)
            for candidate in generation.best:
                key = image_key(generation.id, candidate.index, form)
                sealed[key] = await self.seal(generation, candidate.index, files[key], form, parent)
        return sealed

    def _usable(self) -> SigningPair:
        if self._pair is None:
            raise SigningFailed(
                "c2pa is not available without a certificate: ask the operator to set FRONTRUNNER_C2PA_CERTIFICATE"
            )
        try:
            self._pair.check(datetime.now(UTC))
        except CertificateError as error:
            raise SigningFailed(str(error)) from None
        return self._pair


async def parent_file(generation: Generation, blobs: BlobStore) -> Parent | None:
    """The stored image that a refinement starts from; None if there is none."""
    origin = generation.spec.parent
    if generation.spec.start is None or origin is None or origin.generation is None or origin.index is None:
        return None
    for form, media_type in MEDIA_TYPES.items():
        data = await blobs.get(image_key(origin.generation, origin.index, form))
        if data is not None:
            return Parent(data, media_type, f"{origin.generation}-{origin.index}.{form}")
    return None


def origin_parameters(generation: Generation, candidate: Candidate) -> Mapping[str, Any]:
    """What a manifest says of a candidate.

    It holds hashes of texts. `prompt_sha256` is that of the text, in UTF-8, that the image was sampled from. The seed
    is text, since 64 bits exceed many readers' numbers.
    """
    spec, parent = generation.spec, generation.spec.parent
    width, height = file_size(generation)
    said = {
        "generation": spec.id,
        "index": candidate.index,
        "seed": str(candidate.seed),
        "model": generation.model,
        "model_revision": generation.model_revision,
        "scorer": generation.scorer,
        "scorer_revision": generation.scorer_revision,
        "score": candidate.score.score if candidate.score is not None else None,
        "rank": candidate.rank,
        "n_candidates": spec.n_candidates,
        "prompt_sha256": _hash(spec.sampling_prompt(candidate.index)),
        "negative_prompt_sha256": _hash(spec.negative_prompt) if spec.negative_prompt else None,
        "steps": spec.steps,
        "sampler": spec.sampler,
        "guidance_scale": spec.guidance_scale,
        "width": width,
        "height": height,
        "loras": [lora.name for lora in spec.loras] or None,
        "parent": {"generation": parent.generation, "index": parent.index} if parent and parent.generation else None,
        "started_from_image": True if spec.start is not None else None,
    }
    return {name: value for name, value in said.items() if value is not None}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
