"""Safety of images: what a classifier finds, and what is withheld."""

from app.service.candidates.safety.checker import NO_SAFETY, SafetyChecker, SafetySettings
from app.service.candidates.safety.generation import GenerationSafety, all_flagged

__all__ = ["NO_SAFETY", "GenerationSafety", "SafetyChecker", "SafetySettings", "all_flagged"]
