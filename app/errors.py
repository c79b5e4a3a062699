"""Errors of the service: each leaf has a code, an HTTP status and a title.

    FrontrunnerError
    +- InvalidRequest       422 invalid_request       a field is out of range or contradicts another
    |  +- NothingAboveMinScore  422 nothing_above_min_score  no candidate reached `min_score` or `min_probability`
    |  +- EverythingVetoed  422 everything_vetoed     every candidate has a flag that the request vetoes
    |  +- GuardNotInstalled 422 guard_not_installed   a vetoed flag belongs to a guard that is not installed
    |  +- AllFlagged        422 all_flagged           the safety classifier flagged every finished candidate
    |  +- SafetyRequired    422 safety_required       a weaker safety mode than the server requires
    |  +- SafetyUnavailable 422 safety_unavailable    a safety mode without a classifier
    |  +- PromptListed      422 prompt_on_word_list   a prompt with words of the server's list, under `veto`
    |  +- KeyReused         422 idempotency_key_reused  the idempotency key belongs to another request
    |  +- ProfileLimit      422 profile_limit         the owner's taste profiles exceed the maximum number or size
    |  +- PatchesUnsupported         422 no_patches            a heat map of a scorer without patch embeddings
    |  +- NoInpainting      422 no_inpainting         an edit with a sketch on the image
    |  +- WrongModelKind     422 wrong_model_kind      a scorer where a generator is used, or the other way round
    |  +- NoSteering        422 no_steering           steering of models without gradients
    |  +- RemoteRefused      422 remote_refused        the remote generator refuses the prompt or the parameters
    |  +- ProbeRanks        422 probe_ranks           the probe of an audit took part in the ranking
    |  +- ScorerMismatch       422 other_scorer          embeddings or votes of a scorer that is not loaded
    +- Unauthorized         401 unauthorized          the API key is missing or invalid
    +- Forbidden            403 forbidden             the key lacks the permission
    |  +- InvalidLink       403 invalid_link          the signature of an image link is forged or of another image
    |  +- ImageWithheld     403 image_withheld        the safety mode veto withholds a flagged image
    |  +- LinkExpired       403 link_expired          an image link has expired
    +- QuotaExceeded        429 quota_exceeded        the key's quota in this window is used up (with Retry-After)
    +- NotFound             404 not_found             no such generation, candidate or model for this caller
    +- NotReady             409 not_ready             the generation has no result yet, or ended without one
    +- BadImage             400 bad_image             an upload is not a readable image
    +- UnsupportedMedia     415 unsupported_media     the media type is not accepted
    +- TooLarge             413 too_large             body, file or image exceeds the limit
    |  +- TooComplex        413 image_too_complex     an upload exceeds the limits of decoding: time, memory, parts
    +- EngineFailed         500 engine_failed         a device call failed and ended this generation
    |  +- OutOfDeviceMemory 500 out_of_device_memory  the smallest batch does not fit
    |  +- RemoteFailed      500 remote_failed         the remote generator made no image
    |  |  +- RemoteBudgetSpent 500 remote_budget_spent  its calls or money of today are used up
    |  +- Interrupted       500 interrupted           every process that worked on the generation has died
    +- SigningFailed        500 signing_failed        a file could not be signed: certificate, key or library
    +- Unavailable          503 (with Retry-After)
       +- Overloaded        503 queue_full            the queue holds its maximum of candidates
       +- Draining          503 draining              shutting down; another replica may respond
       +- Loading           503 loading               the models are not loaded yet
       |  +- ModelAway      503 loading               another replica holds the model, or it makes room
       +- ModelLoadFailed   503 model_load_failed     the model could not be loaded; other models go on
       +- EngineDead        503 engine_dead           the device thread died; the process is ending
       +- StoreUnavailable  503 store_unavailable     the database or blob store is unavailable
       +- DecoderUnavailable 503 decoder_unavailable  no process that decodes uploads can be started

Owns no HTTP: `app.api.problems` renders the errors. Messages are for the caller: no path, no traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FrontrunnerError(Exception):
    """Base of the tree.

    `detail` helps the caller correct the request; `pointer` is a JSON Pointer to the field. `generation_id` names the
    affected generation, if any: see `error_context`.
    """

    code = "internal_error"
    status = 500
    title = "Internal error"
    generation_id: str | None = None

    def __init__(self, detail: str, *, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class InvalidRequest(FrontrunnerError):
    """A field is out of range or contradicts another."""

    code, status, title = "invalid_request", 422, "The request is not valid"


class InvalidEntries(InvalidRequest):
    """Entries of a batch are invalid; `fields` are their messages and pointers."""

    def __init__(self, detail: str, *, pointer: str | None = None, fields: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(detail, pointer=pointer)
        self.fields = fields


class NothingAboveMinScore(InvalidRequest):
    """An image was requested, but no candidate reached the minimum of the ranking."""

    code, title = "nothing_above_min_score", "No candidate reached the minimum"


class EverythingVetoed(InvalidRequest):
    """An image was requested, but every candidate has a vetoed flag."""

    code, title = "everything_vetoed", "Every candidate was vetoed"


class GuardNotInstalled(InvalidRequest):
    """The request vetoes flags of a guard that is not installed."""

    code, title = "guard_not_installed", "The guard is not installed"


class ProbeRanks(InvalidRequest):
    """The probe of an audit took part in the ranking, without `force`."""

    code, title = "probe_ranks", "The probe took part in the ranking"


class AllFlagged(InvalidRequest):
    """The safety classifier flagged every finished candidate, under `veto`."""

    code, title = "all_flagged", "Every candidate was flagged"


class SafetyRequired(InvalidRequest):
    """The request asks for a weaker safety mode than the server requires."""

    code, title = "safety_required", "The safety mode is required"


class SafetyUnavailable(InvalidRequest):
    """A safety mode was requested, but the server has no classifier."""

    code, title = "safety_unavailable", "No safety classifier"


class PromptListed(InvalidRequest):
    """The prompt has words of the server's list, under the safety mode `veto`."""

    code, title = "prompt_on_word_list", "The prompt is on the word list"


class ProfileLimit(InvalidRequest):
    """The caller's taste profiles exceed the maximum number or size: delete one."""

    code, title = "profile_limit", "Too many taste profiles"


class PatchesUnsupported(InvalidRequest):
    """A heat map was requested, but the scorer has no patch embeddings."""

    code, title = "no_patches", "The scorer has no patch embeddings"


class NoInpainting(InvalidRequest):
    """An edit has `markup`, a sketch on the image: send a `mask` instead."""

    code, title = "no_inpainting", "The model reads no sketch on an image"


class WrongModelKind(InvalidRequest):
    """`model` names a scorer where a generator is used, or the other way round."""

    code, title = "wrong_model_kind", "The model is of another kind"


class NoSteering(InvalidRequest):
    """Steering was requested, but the loaded models cannot be steered: omit it."""

    code, title = "no_steering", "The models cannot be steered"


class RemoteRefused(InvalidRequest):
    """The remote generator refuses the prompt or the parameters."""

    code, title = "remote_refused", "The remote generator refused the request"


class ScorerMismatch(InvalidRequest):
    """Embeddings or votes come from another scorer and cannot be compared."""

    code, title = "other_scorer", "Made with another scorer"


class KeyReused(InvalidRequest):
    """The idempotency key was used for another request."""

    code, title = "idempotency_key_reused", "The idempotency key was used for another request"


class Unauthorized(FrontrunnerError):
    """The API key is missing or invalid."""

    code, status, title = "unauthorized", 401, "An API key is required"


class Forbidden(FrontrunnerError):
    """The key lacks the permission for this request."""

    code, status, title = "forbidden", 403, "The key lacks the permission"


class InvalidLink(Forbidden):
    """The signature of an image link is forged, or belongs to another image."""

    code, title = "invalid_link", "The link is not valid"


class ImageWithheld(Forbidden):
    """The safety mode `veto` withholds a flagged image."""

    code, title = "image_withheld", "The image is withheld"


class LinkExpired(Forbidden):
    """A signed image link has expired: read the generation for a new one."""

    code, title = "link_expired", "The link has expired"


class QuotaExceeded(FrontrunnerError):
    """The key's quota is used up; its next window begins in `retry_after_s` seconds.

    `left` is the number of candidates that remain.
    """

    code, status, title = "quota_exceeded", 429, "The key's quota is used up"

    def __init__(self, detail: str, *, left: int = 0, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.left = left
        self.retry_after_s = retry_after_s


class NotFound(FrontrunnerError):
    """The resource does not exist or does not belong to the caller."""

    code, status, title = "not_found", 404, "Not found"


class NotReady(FrontrunnerError):
    """The generation has no result yet, or has ended without one."""

    code, status, title = "not_ready", 409, "Not ready"


class BadImage(FrontrunnerError):
    """An upload is not a readable image."""

    code, status, title = "bad_image", 400, "The image cannot be read"


class UnsupportedMedia(FrontrunnerError):
    """The media type is not accepted."""

    code, status, title = "unsupported_media", 415, "Unsupported media type"


class TooLarge(FrontrunnerError):
    """A body, file or image exceeds the limit."""

    code, status, title = "too_large", 413, "Too large"


class TooComplex(TooLarge):
    """An upload exceeds the limits of decoding: time, memory or parts."""

    code, title = "image_too_complex", "The image is too costly to decode"


class EngineFailed(FrontrunnerError):
    """A device call failed and ended its generations."""

    code, status, title = "engine_failed", 500, "The engine failed"


class SigningFailed(FrontrunnerError):
    """An image file could not be signed: certificate, key or library."""

    code, status, title = "signing_failed", 500, "The image file could not be signed"


class OutOfDeviceMemory(EngineFailed):
    """The smallest batch does not fit the device."""

    code, title = "out_of_device_memory", "Out of device memory"


class RemoteFailed(EngineFailed):
    """The remote generator made no image: it fails, is busy, or cannot be reached."""

    code, title = "remote_failed", "The remote generator failed"


class RemoteBudgetSpent(RemoteFailed):
    """Today's calls or money for the remote generator are used up."""

    code, title = "remote_budget_spent", "The budget of the remote generator is used up"


class Interrupted(EngineFailed):
    """Every process that worked on the generation has died; it is not retried."""

    code, title = "interrupted", "Interrupted"


class Unavailable(FrontrunnerError):
    """Temporarily unavailable; retry after `retry_after_s`, at most 120 s."""

    code, status, title = "unavailable", 503, "Not available"

    def __init__(self, detail: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = min(120.0, max(1.0, retry_after_s))


class Overloaded(Unavailable):
    """The queue holds its maximum of candidates."""

    code, title = "queue_full", "The queue is full"


class Draining(Unavailable):
    """Shutting down; another replica may respond."""

    code, title = "draining", "Shutting down"


class Loading(Unavailable):
    """The models are not loaded yet."""

    code, title = "loading", "Loading"


class ModelAway(Loading):
    """The model is not in this process now; the shared queue takes its requests."""


class ModelLoadFailed(Unavailable):
    """The model could not be loaded; other models of the process go on."""

    code, title = "model_load_failed", "The model could not be loaded"


class EngineDead(Unavailable):
    """The device thread died; the process is ending."""

    code, title = "engine_dead", "The engine is dead"


class StoreUnavailable(Unavailable):
    """The database or blob store is unavailable."""

    code, title = "store_unavailable", "The store is unavailable"


class DecoderUnavailable(Unavailable):
    """No process that decodes uploads can be started."""

    code, title = "decoder_unavailable", "Uploads cannot be decoded"


@contextmanager
def error_context(generation_id: str) -> Iterator[None]:
    """Set `generation_id` on every error of this block except NotFound."""
    try:
        yield
    except NotFound:
        raise
    except FrontrunnerError as error:
        error.generation_id = generation_id
        raise


def stored_error(code: str, detail: str) -> FrontrunnerError:
    """The error with the code of a stored failure; EngineFailed for an unknown code."""
    found = _errors_by_code(FrontrunnerError).get(code)
    return found(detail) if found else EngineFailed(detail)


def _errors_by_code(root: type[FrontrunnerError]) -> dict[str, type[FrontrunnerError]]:
    found = {root.code: root}
    for kind in root.__subclasses__():
        found |= _errors_by_code(kind)
    return found
