"""The use cases: submit, get, wait, watch, image, cancel, forget, rank. The only caller of engine and stores."""

from app.service.core import Service
from app.service.cutting import PruningPolicy
from app.service.values import Draft, ImageFile, Limits, QueuePlace, RankedImage, RankResult

__all__ = ["Draft", "ImageFile", "Limits", "PruningPolicy", "QueuePlace", "RankResult", "RankedImage", "Service"]
