"""Use cases over engine and stores. Only this package calls both.

`RankingService` ranks stored candidates or uploads without sampling. `ReferenceResolver` resolves the images a ranking
refers to; `Img2ImgService`, those that candidates start from.
"""

from app.engine.texts.readings import understood
from app.service.aliases import Aliases, LoadedModels
from app.service.audits import MAX_GENERATIONS, AuditParams, AuditReport, AuditService
from app.service.auth import ApiKeyAuthenticator, Caller, as_caller, create_api_key, current_owner
from app.service.batches import MAX_ENTRIES, BatchService
from app.service.candidates.arrays import CandidateArrays
from app.service.candidates.explain import Explainer, Explanation, PhraseScore
from app.service.candidates.guards import ImageGuards
from app.service.candidates.images import CandidateImages
from app.service.candidates.keys import file_metadata, file_size, image_metadata
from app.service.candidates.receipts import Receipts
from app.service.candidates.safety import SafetyChecker, SafetySettings
from app.service.candidates.sealing import FileSealer
from app.service.candidates.upscaling import LANCZOS, ImageUpscaler
from app.service.generations.event_log import Notifier
from app.service.generations.img2img import Img2ImgService, RedrawMask
from app.service.generations.pruning_policy import PruningPolicy
from app.service.generations.queue_worker import LeasePolicy
from app.service.generations.service import GenerationService
from app.service.links import LinkSigner, SignedLink, batch_path, generation_path, image_path, using_links
from app.service.presets import Presets
from app.service.quality import all_qualities
from app.service.ranking.embed import Embedded, Embedder
from app.service.ranking.ensemble import Ensembles
from app.service.ranking.references import ReferenceResolver, UnresolvedReference
from app.service.ranking.rerank import Lineage, RankingService, RerankParams
from app.service.ranking.taste import Ballot, TasteService, TasteSummary
from app.service.types import (
    GenerationParams,
    IdempotencyKey,
    ImageFile,
    Limits,
    ModelDemand,
    ParamsFactory,
    PreparedGeneration,
    QueuePosition,
    RankedImage,
    RankResult,
)
from app.service.variants import ChatRewriter, VariantMaker, Wordings
from app.service.webhooks.dispatcher import WebhookDispatcher, WebhookPolicy
from app.service.webhooks.http_client import WebhookClient
from app.stores.protocols import ApiKey, ListQuery, PageMark, Permission

__all__ = [
    "LANCZOS",
    "MAX_ENTRIES",
    "MAX_GENERATIONS",
    "Aliases",
    "ApiKey",
    "ApiKeyAuthenticator",
    "AuditParams",
    "AuditReport",
    "AuditService",
    "Ballot",
    "BatchService",
    "Caller",
    "CandidateArrays",
    "CandidateImages",
    "ChatRewriter",
    "Embedded",
    "Embedder",
    "Ensembles",
    "Explainer",
    "Explanation",
    "FileSealer",
    "GenerationParams",
    "GenerationService",
    "IdempotencyKey",
    "ImageFile",
    "ImageGuards",
    "ImageUpscaler",
    "Img2ImgService",
    "LeasePolicy",
    "Limits",
    "Lineage",
    "LinkSigner",
    "ListQuery",
    "LoadedModels",
    "ModelDemand",
    "Notifier",
    "PageMark",
    "ParamsFactory",
    "Permission",
    "PhraseScore",
    "PreparedGeneration",
    "Presets",
    "PruningPolicy",
    "QueuePosition",
    "RankResult",
    "RankedImage",
    "RankingService",
    "Receipts",
    "RedrawMask",
    "ReferenceResolver",
    "RerankParams",
    "SafetyChecker",
    "SafetySettings",
    "SignedLink",
    "TasteService",
    "TasteSummary",
    "UnresolvedReference",
    "VariantMaker",
    "WebhookClient",
    "WebhookDispatcher",
    "WebhookPolicy",
    "Wordings",
    "all_qualities",
    "as_caller",
    "batch_path",
    "create_api_key",
    "current_owner",
    "file_metadata",
    "file_size",
    "generation_path",
    "image_metadata",
    "image_path",
    "understood",
    "using_links",
]
