"""Wire types of batches."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from app.api.problems import FieldError
from app.api.schemas.base import RequestModel, ResponseModel
from app.api.schemas.requests import GenerationRequest, WebhookInput
from app.api.schemas.responses import FailureOutput
from app.domain import Batch, BatchCounts, BatchEntry, RefusedEntry
from app.service import MAX_ENTRIES


class SkippedEntry(GenerationRequest):
    """An entry that is not a valid generation request, with its errors."""

    _value: Any = PrivateAttr(None)
    _errors: Sequence[Mapping[str, Any]] = PrivateAttr(())

    @classmethod
    def of(cls, value: Any, error: ValidationError) -> SkippedEntry:
        """An entry that fails validation; its JSON stands for the prompt."""
        entry = cls.model_construct(prompt=json.dumps(value, default=str))
        entry._value, entry._errors = value, error.errors(include_url=False)
        return entry

    @property
    def value(self) -> Any:
        """The entry as sent."""
        return self._value

    @property
    def errors(self) -> Sequence[Mapping[str, Any]]:
        """The errors of its fields."""
        return self._errors


def _skip_invalid(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    try:
        return handler(value)
    except ValidationError as error:
        if info.data.get("on_error") != "skip":
            raise
        return SkippedEntry.of(value, error)


class BatchRequest(RequestModel):
    """Generations to make when no single request waits."""

    on_error: Literal["fail", "skip"] = Field(
        "fail", description="fail refuses a batch with an invalid entry; skip makes the other entries."
    )
    webhook: WebhookInput | None = Field(None, description="Receiver of a notification when the batch ends.")
    requests: list[Annotated[GenerationRequest, WrapValidator(_skip_invalid)]] = Field(
        min_length=1, max_length=MAX_ENTRIES, description="Bodies of POST /v1/generations."
    )


class BatchCountsOutput(ResponseModel):
    """Entries by state.

    `refused` ones were invalid; `deleted` ones were deleted as generations.
    """

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    refused: int
    deleted: int


class EntryErrorOutput(FailureOutput):
    """Why an entry was refused; `pointer` is into the batch's body."""

    pointer: str | None


class BatchEntryOutput(ResponseModel):
    """An entry; `id` is that of its generation, null if it was refused or deleted."""

    index: int
    id: str | None
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "refused", "deleted"]
    progress: float
    error: EntryErrorOutput | None


class BatchSummary(ResponseModel):
    """A batch without its entries.

    `failed` means that no entry succeeded. `progress` is the share of entries that have ended.
    """

    id: str
    object: Literal["batch"] = "batch"
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    created: int
    finished: float | None
    progress: float
    counts: BatchCountsOutput

    @classmethod
    def from_domain(cls, batch: Batch, counts: BatchCounts) -> BatchSummary:
        """Convert from the domain."""
        return cls(**_summary(batch, counts))


class BatchResponse(BatchSummary):
    """A batch with its entries, by index."""

    entries: list[BatchEntryOutput]

    @classmethod
    def with_entries(cls, batch: Batch, counts: BatchCounts, entries: Sequence[BatchEntry]) -> BatchResponse:
        """Convert from the domain; entries that are missing were deleted."""
        found = {entry.index: _entry(entry) for entry in entries}
        for one in batch.refused:
            error = EntryErrorOutput(code=one.code, message=_message(one), pointer=one.pointer)
            found[one.index] = BatchEntryOutput(index=one.index, id=None, status="refused", progress=0.0, error=error)
        every = [found.get(index) or _deleted(index) for index in range(batch.entries)]
        return cls(**_summary(batch, counts), entries=every)


class BatchListResponse(ResponseModel):
    """A page of batches, newest first.

    `next` is the `after` of the next page; null on the last page.
    """

    object: Literal["list"] = "list"
    data: list[BatchSummary]
    has_more: bool
    next: str | None


def _summary(batch: Batch, counts: BatchCounts) -> dict[str, Any]:
    status = batch.status or counts.status(cancelled=batch.cancelled is not None)
    return {
        "id": batch.id,
        "status": status.value,
        "created": int(batch.created),
        "finished": batch.finished,
        "progress": counts.ended / counts.total,
        "counts": BatchCountsOutput.model_validate(counts, from_attributes=True),
    }


def _entry(entry: BatchEntry) -> BatchEntryOutput:
    return BatchEntryOutput(
        index=entry.index,
        id=entry.generation_id,
        status=entry.status.value,
        progress=1.0 if entry.status.value == "succeeded" else entry.progress,
        error=None,
    )


def _message(one: RefusedEntry) -> str:
    """The message of a refused entry, with the field in the entry."""
    inside = (one.pointer or "").removeprefix(f"#/requests/{one.index}")
    return FieldError(detail=one.detail, pointer=inside).named if inside else one.detail


def _deleted(index: int) -> BatchEntryOutput:
    return BatchEntryOutput(index=index, id=None, status="deleted", progress=0.0, error=None)
