"""The use cases: submit, get, wait, watch, image, cancel, forget. The only caller of engine and stores.

`Dialogue` ranks without sampling, candidates of a generation that is done or uploads; `References` looks up the
pictures that a ranking refers to, `Refiner` those that candidates begin as.
"""

from app.service.auth import Caller, Keyring, acting, new_key, owner
from app.service.candidates.arrays import Fields
from app.service.candidates.explain import Explainer, Told, Why
from app.service.generations.img2img import Refiner
from app.service.generations.pruning_policy import PruningPolicy
from app.service.generations.service import Service
from app.service.generations.worker import Terms
from app.service.presets import Presets
from app.service.ranking.references import AskedReference, References
from app.service.ranking.rerank import Dialogue, Lineage, Reranking
from app.service.ranking.taste import Ballot, Tastes
from app.service.ranking.taste import Summary as TasteSummary
from app.service.types import Draft, ImageFile, Limits, MakeDraft, Once, QueuePlace, RankedImage, RankResult
from app.service.webhooks.dispatcher import Courier, HookPolicy
from app.service.webhooks.http_client import Poster
from app.stores.protocols import ApiKey, Right

__all__ = [
    "ApiKey",
    "AskedReference",
    "Ballot",
    "Caller",
    "Courier",
    "Dialogue",
    "Draft",
    "Explainer",
    "Fields",
    "HookPolicy",
    "ImageFile",
    "Keyring",
    "Limits",
    "Lineage",
    "MakeDraft",
    "Once",
    "Poster",
    "Presets",
    "PruningPolicy",
    "QueuePlace",
    "RankResult",
    "RankedImage",
    "References",
    "Refiner",
    "Reranking",
    "Right",
    "Service",
    "TasteSummary",
    "Tastes",
    "Terms",
    "Told",
    "Why",
    "acting",
    "new_key",
    "owner",
]
