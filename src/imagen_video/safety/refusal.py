"""What a filter says: why a prompt is refused or a video withheld, never what the prompt was."""

from collections.abc import Callable
from dataclasses import dataclass

from imagen_video.video import Frames


@dataclass(frozen=True)
class Refusal:
    """The category, and a reason that may be shown to anybody."""

    category: str
    reason: str


PromptCheck = Callable[[str], Refusal | None]
"""What is wrong with a prompt, if anything."""
FrameCheck = Callable[[Frames], Refusal | None]
"""What is wrong with a clip, if anything."""


class Refused(ValueError):
    """Prompt `prompt` of a call is refused, or its video of stage `stage` withheld."""

    def __init__(self, refusal: Refusal, *, prompt: int, stage: str | None = None):
        what = f"prompt {prompt} is refused"
        if stage is not None:
            what = f"the video of prompt {prompt} is withheld after {stage}"
        super().__init__(f"{what} ({refusal.category}): {refusal.reason}")
        self.refusal, self.prompt, self.stage = refusal, prompt, stage
