"""Every error the service answers with: one small tree, each leaf with a code, an HTTP status and a title.

    FrontrunnerError
    +- Invalid              422 invalid_request       a field is out of range or contradicts another
    |  +- NothingAboveMinScore  422 nothing_above_min_score  no candidate reached `min_score`
    |  +- KeyReused         422 idempotency_key_reused  the idempotency key came with another request before
    |  +- ProfileLimit      422 profile_limit         the owner's taste profiles would pass their number or size
    |  +- NoPatches         422 no_patches            a heat map of a scorer that sees no parts of a picture
    |  +- OtherScorer       422 other_scorer          embeddings or votes of another scorer than the one loaded
    +- Unauthorized         401 unauthorized          no API key, or one that is not good
    +- Forbidden            403 forbidden             the key has no right to do this
    +- QuotaExceeded        429 quota_exceeded        the key has used what it may in this window (with Retry-After)
    +- NotFound             404 not_found             no such generation, candidate or model, or not the caller's
    +- NotReady             409 not_ready             the generation has no result yet, or ended without one
    +- BadImage             400 bad_image             an upload is not a readable image
    +- UnsupportedMedia     415 unsupported_media     the media type is not one of those accepted
    +- TooLarge             413 too_large             body, file or image larger than the limit
    |  +- TooComplex        413 image_too_complex     decoding an upload needs more time, memory or parts than allowed
    +- EngineFailed         500 engine_failed         a device call failed; this generation ended with it
    |  +- OutOfDeviceMemory 500 out_of_device_memory  not even the smallest batch fitted
    |  +- Interrupted       500 interrupted           every process that worked on the generation has died
    +- Unavailable          503 (with Retry-After)
       +- Overloaded        503 queue_full            admission: the queue holds its limit of candidates
       +- Draining          503 draining              shutting down; ask another replica
       +- Loading           503 loading               the models are not loaded yet
       +- EngineDead        503 engine_dead           the device thread died; the process is about to end
       +- StoreUnavailable  503 store_unavailable     database or blob store out of reach
       +- DecoderUnavailable 503 decoder_unavailable  no process that decodes uploads can be started

Owns no HTTP: `app.api.problems` renders them. Messages are for the caller: no path, no traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FrontrunnerError(Exception):
    """Base of the tree. `detail` helps the caller mend the request; `pointer` is a JSON Pointer to the field.

    `generation_id` names what the caller waited for, where there is such a thing to look at: see `about`.
    """

    code = "internal_error"
    status = 500
    title = "Internal error"
    generation_id: str | None = None

    def __init__(self, detail: str, *, pointer: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.pointer = pointer


class Invalid(FrontrunnerError):
    """A field is out of range or contradicts another."""

    code, status, title = "invalid_request", 422, "The request is not valid"


class NothingAboveMinScore(Invalid):
    """An image was asked for and no candidate reached `min_score`."""

    code, title = "nothing_above_min_score", "No candidate reached min_score"


class ProfileLimit(Invalid):
    """The caller's taste profiles would pass the limit of their number or size: delete one first."""

    code, title = "profile_limit", "Too many taste profiles"


class NoPatches(Invalid):
    """A heat map was asked for and the scorer does not see parts of a picture."""

    code, title = "no_patches", "The scorer sees no parts of a picture"


class OtherScorer(Invalid):
    """Embeddings or votes were made with another scorer; nothing can be compared."""

    code, title = "other_scorer", "Made with another scorer"


class KeyReused(Invalid):
    """The idempotency key came with another request before."""

    code, title = "idempotency_key_reused", "The idempotency key was used for another request"


class Unauthorized(FrontrunnerError):
    """No API key came with the request, or one that is not good."""

    code, status, title = "unauthorized", 401, "A key is needed"


class Forbidden(FrontrunnerError):
    """The key has no right to do this."""

    code, status, title = "forbidden", 403, "The key does not allow it"


class QuotaExceeded(FrontrunnerError):
    """The key has used what it may; `retry_after_s` is when its next window begins.

    `left` is how many candidates it has left.
    """

    code, status, title = "quota_exceeded", 429, "The key's quota is used up"

    def __init__(self, detail: str, *, left: int = 0, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.left = left
        self.retry_after_s = retry_after_s


class NotFound(FrontrunnerError):
    """No such thing, or not the caller's."""

    code, status, title = "not_found", 404, "Not found"


class NotReady(FrontrunnerError):
    """The generation has no result yet, or ended without one."""

    code, status, title = "not_ready", 409, "Not ready"


class BadImage(FrontrunnerError):
    """An upload is not a readable image."""

    code, status, title = "bad_image", 400, "The image cannot be read"


class UnsupportedMedia(FrontrunnerError):
    """The media type is not one of those accepted."""

    code, status, title = "unsupported_media", 415, "Unsupported media type"


class TooLarge(FrontrunnerError):
    """A body, file or image is larger than the limit."""

    code, status, title = "too_large", 413, "Too large"


class TooComplex(TooLarge):
    """Decoding an upload takes more time or memory, or the file has more parts, than is allowed."""

    code, title = "image_too_complex", "The image is too costly to decode"


class EngineFailed(FrontrunnerError):
    """A device call failed; the generations in it ended with it."""

    code, status, title = "engine_failed", 500, "The engine failed"


class OutOfDeviceMemory(EngineFailed):
    """Not even the smallest batch fitted the device."""

    code, title = "out_of_device_memory", "Out of device memory"


class Interrupted(EngineFailed):
    """Every process that worked on the generation has died; nobody begins with it again."""

    code, title = "interrupted", "Interrupted"


class Unavailable(FrontrunnerError):
    """Not now; `retry_after_s` says when to try again, at most 120 s."""

    code, status, title = "unavailable", 503, "Not available"

    def __init__(self, detail: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = min(120.0, max(1.0, retry_after_s))


class Overloaded(Unavailable):
    """The queue holds its limit of candidates."""

    code, title = "queue_full", "The queue is full"


class Draining(Unavailable):
    """Shutting down; another replica may answer."""

    code, title = "draining", "Shutting down"


class Loading(Unavailable):
    """The models are not loaded yet."""

    code, title = "loading", "Loading"


class EngineDead(Unavailable):
    """The device thread died; the process is about to end."""

    code, title = "engine_dead", "The engine is dead"


class StoreUnavailable(Unavailable):
    """Database or blob store out of reach."""

    code, title = "store_unavailable", "The store cannot be reached"


class DecoderUnavailable(Unavailable):
    """No process that decodes uploads can be started."""

    code, title = "decoder_unavailable", "Uploads cannot be decoded"


@contextmanager
def about(generation_id: str) -> Iterator[None]:
    """Let every error of this block name the generation, but for the one that says that it is not there."""
    try:
        yield
    except NotFound:
        raise
    except FrontrunnerError as error:
        error.generation_id = generation_id
        raise
