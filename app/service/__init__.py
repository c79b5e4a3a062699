"""The use cases: submit, get, wait, watch, image, cancel, forget. The only caller of engine and stores.

`Dialogue` ranks without sampling, candidates of a generation that is done or uploads; `References` looks up the
pictures that a ranking refers to, `Refiner` those that candidates begin as.
"""

from app.service.callers import Caller, Keyring, acting, new_key, owner
from app.service.core import Service
from app.service.cutting import PruningPolicy
from app.service.dialogue import Dialogue, Lineage, Reranking
from app.service.explaining import Explainer, Told, Why
from app.service.fields import Fields
from app.service.hooks import Courier, HookPolicy
from app.service.posting import Poster
from app.service.presets import Presets
from app.service.references import AskedReference, References
from app.service.refining import Refiner
from app.service.taste import Ballot, Tastes
from app.service.taste import Summary as TasteSummary
from app.service.values import Draft, ImageFile, Limits, MakeDraft, Once, QueuePlace, RankedImage, RankResult
from app.service.work import Terms
from app.stores.contract import ApiKey, Right

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
