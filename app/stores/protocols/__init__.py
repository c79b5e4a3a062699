"""Protocols of the stores. SQL modules implement them; `blobs` stores files.

Every SQL method is one transaction. Every method raises StoreUnavailable while its store is unreachable or full.
"""

from app.stores.protocols.api_keys import ApiKey, ApiKeyStore, Permission
from app.stores.protocols.batches import BatchStore
from app.stores.protocols.blobs import BlobStore
from app.stores.protocols.generations import (
    Claim,
    Claimable,
    Claimed,
    GenerationStore,
    Held,
    IdempotencyMatch,
    KeyRecord,
    ListQuery,
    NewEvent,
    PageMark,
    QueueFull,
    QuotaCharge,
    QuotaUsage,
)
from app.stores.protocols.models import MODELS_TOPIC, ServedModelRow, ServedModelStore
from app.stores.protocols.votes import ProfileCaps, ProfileCapsExceeded, VoteStore
from app.stores.protocols.webhooks import DeliveryLimits, EndedBatch, PendingDelivery, WebhookOutbox

__all__ = [
    "MODELS_TOPIC",
    "ApiKey",
    "ApiKeyStore",
    "BatchStore",
    "BlobStore",
    "Claim",
    "Claimable",
    "Claimed",
    "DeliveryLimits",
    "EndedBatch",
    "GenerationStore",
    "Held",
    "IdempotencyMatch",
    "KeyRecord",
    "ListQuery",
    "NewEvent",
    "PageMark",
    "PendingDelivery",
    "Permission",
    "ProfileCaps",
    "ProfileCapsExceeded",
    "QueueFull",
    "QuotaCharge",
    "QuotaUsage",
    "ServedModelRow",
    "ServedModelStore",
    "VoteStore",
    "WebhookOutbox",
]
