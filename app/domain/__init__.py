"""Domain types: frozen dataclasses for generation parameters and results.

No wire format (see `app.api.schemas.requests`), no storage (see `app.stores`), no tensors. Times are seconds since the
epoch; durations name their unit.
"""

from app.domain.batches import BATCH_PREFIX, Batch, BatchCounts, BatchEntry, RefusedEntry
from app.domain.events import Event, EventKind
from app.domain.generation import (
    SEED_LIMIT,
    SHORT_SEED_LIMIT,
    Candidate,
    Checkpoint,
    ControlUse,
    Failure,
    Generation,
    GenerationSpec,
    InitImage,
    Notice,
    Parent,
    ParentKind,
    Progress,
    Provenance,
    RefereeOpinion,
    Status,
    StopReason,
    Timings,
    Webhook,
    Work,
)
from app.domain.ranking import Balance, Flag, Negative, Ranking, Reference, Score, ScorerUse, Taste
from app.domain.safety import Safety, SafetyVerdict, strictest
from app.domain.votes import TasteProfile, Vote, VoteKind

__all__ = [
    "BATCH_PREFIX",
    "SEED_LIMIT",
    "SHORT_SEED_LIMIT",
    "Balance",
    "Batch",
    "BatchCounts",
    "BatchEntry",
    "Candidate",
    "Checkpoint",
    "ControlUse",
    "Event",
    "EventKind",
    "Failure",
    "Flag",
    "Generation",
    "GenerationSpec",
    "InitImage",
    "Negative",
    "Notice",
    "Parent",
    "ParentKind",
    "Progress",
    "Provenance",
    "Ranking",
    "RefereeOpinion",
    "Reference",
    "RefusedEntry",
    "Safety",
    "SafetyVerdict",
    "Score",
    "ScorerUse",
    "Status",
    "StopReason",
    "Taste",
    "TasteProfile",
    "Timings",
    "Vote",
    "VoteKind",
    "Webhook",
    "Work",
    "strictest",
]
