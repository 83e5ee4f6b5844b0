"""Everything that is asked about prompts and videos, from a policy and from checks of one's own."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from imagen_video.safety.frames import explicit
from imagen_video.safety.meaning import about
from imagen_video.safety.policy import Policy
from imagen_video.safety.readings import scripts
from imagen_video.safety.refusal import FrameCheck, PromptCheck, Refusal, Refused
from imagen_video.safety.terms import Terms
from imagen_video.video import Frames

LOG = logging.getLogger(__name__)
"""Told of every refusal, at level INFO."""


@dataclass(frozen=True, kw_only=True)
class Filters:
    """Checks, asked in order: the first that finds something decides. With `log_prompts` the log
    holds what was refused, else only why."""

    prompt_checks: Sequence[PromptCheck]
    frame_checks: Sequence[FrameCheck]
    log_prompts: bool = False

    @classmethod
    def of(
        cls,
        policy: Policy | None = None,
        *,
        prompt_checks: Sequence[PromptCheck] = (),
        frame_checks: Sequence[FrameCheck] = (),
        log_prompts: bool = False,
    ) -> "Filters":
        """The checks of a policy (default: the shipped one), then one's own."""
        policy = policy or Policy.shipped()
        return cls(
            prompt_checks=(*shipped_prompt_checks(policy), *prompt_checks),
            frame_checks=(explicit(policy), *frame_checks),
            log_prompts=log_prompts,
        )

    def prompt(self, prompt: str) -> Refusal | None:
        """Why a prompt is refused, or None."""
        return next(filter(None, (check(prompt) for check in self.prompt_checks)), None)

    def frames(self, frames: Frames) -> Refusal | None:
        """Why a clip is withheld, or None."""
        return next(filter(None, (check(frames) for check in self.frame_checks)), None)

    def refuse_prompts(self, prompts: Sequence[str]) -> None:
        """Refused for the first prompt that a check finds something in."""
        for index, prompt in enumerate(prompts):
            refusal = self.prompt(prompt)
            if refusal is not None:
                self._tell(Refused(refusal, prompt=index), prompt)

    def withhold(self, frames: Frames, prompts: Sequence[str], index: int, *, stage: str) -> None:
        """Refused if a check finds something in the video of prompt `index`."""
        refusal = self.frames(frames)
        if refusal is not None:
            self._tell(Refused(refusal, prompt=index, stage=stage), prompts[index])

    def _tell(self, refused: Refused, prompt: str) -> None:
        LOG.info("%s", f"{refused}: {prompt!r}" if self.log_prompts else refused)
        raise refused


def shipped_prompt_checks(policy: Policy) -> tuple[PromptCheck, ...]:
    """The word lists, the script, the classifier: what costs least first."""
    return Terms(policy), legible(policy), about(policy)


def legible(policy: Policy) -> PromptCheck:
    """The check that no more than half the letters are of scripts that the filter cannot read."""

    def check(prompt: str) -> Refusal | None:
        found = scripts(prompt)
        if 2 * sum(script in policy.scripts for script in found) >= len(found):
            return None
        known = ", ".join(policy.scripts)
        return Refusal("script", f"the filter cannot read most of its letters, only {known}")

    return check
