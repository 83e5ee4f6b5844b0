"""Filters around a cascade: prompts that are refused, videos that are withheld."""

from imagen_video.safety.filters import Filters, shipped_prompt_checks
from imagen_video.safety.frames import explicit
from imagen_video.safety.guard import Guarded, filtered, guarded
from imagen_video.safety.policy import Policy
from imagen_video.safety.refusal import FrameCheck, PromptCheck, Refusal, Refused

__all__ = [
    "Filters",
    "FrameCheck",
    "Guarded",
    "Policy",
    "PromptCheck",
    "Refusal",
    "Refused",
    "explicit",
    "filtered",
    "guarded",
    "shipped_prompt_checks",
]
