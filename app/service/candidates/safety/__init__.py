"""Safety of images: what a classifier finds, and who leaves the ranking.

`app.service.candidates.images` refuses flagged images on every way out.
"""

from app.service.candidates.safety.checker import NO_SAFETY, SafetyChecker, SafetySettings
from app.service.candidates.safety.generation import GenerationSafety, all_flagged

__all__ = ["NO_SAFETY", "GenerationSafety", "SafetyChecker", "SafetySettings", "all_flagged"]
