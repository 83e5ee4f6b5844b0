"""The options of the safety filters, which `generate`, `upscale` and `serve` share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second to import: only commands that need it pay
    from imagen_video.safety import Filters


@dataclass(kw_only=True)
class Safety:
    """What is refused and withheld."""

    safe: bool = False
    """Refuse prompts and withhold videos by the safety filters."""
    policy: Path | None = None
    """What the filters go by, a JSON file (default: the shipped policy)."""

    def filters(self, *, log_prompts: bool = False) -> "Filters | None":
        """The filters that were asked for."""
        if not self.safe:
            if self.policy:
                raise ValueError("--policy says what the filters go by, which are off: add --safe")
            return None
        from imagen_video.safety import Filters, Policy

        policy = Policy.read(self.policy) if self.policy else None
        return Filters.of(policy, log_prompts=log_prompts)
