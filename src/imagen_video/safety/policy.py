"""What is refused and what is not: a JSON file, checked when it is read."""

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from imagen_video.spec_json import from_json
from imagen_video.spec_unet import require

SHIPPED = Path(__file__).with_name("policy.json")
TERM = re.compile(r"[a-z0-9]+(?:[ '-][a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """`scripts` are those that the filter can read; `frames` is the explicitness, in (0, 1], above
    which a video is withheld; `thresholds` are the same for prompts, by the category of the
    classifier (one without a threshold is not asked for); `deny` and `allow` are words and phrases.
    """

    scripts: tuple[str, ...]
    frames: float
    thresholds: dict[str, float]
    deny: dict[str, tuple[str, ...]]
    allow: tuple[str, ...]

    def __post_init__(self):
        unknown = sorted(set(self.scripts) - _scripts())
        require(not unknown, f"unknown scripts {unknown}: give Unicode's names, such as LATIN")
        bounds = {f"thresholds.{name}": bound for name, bound in self.thresholds.items()}
        for name, bound in {"frames": self.frames, **bounds}.items():
            require(0 < bound <= 1, f"{name} must lie in (0, 1], got {bound}")
        for name, terms in {"allow": self.allow, **self.deny}.items():
            bad = [term for term in terms if not TERM.fullmatch(term)]
            require(
                not bad,
                f"{name}: terms are words of small letters a-z and digits, with a space, a hyphen "
                f"or an apostrophe between them, got {bad[:3]}",
            )

    @classmethod
    def shipped(cls) -> "Policy":
        """The default."""
        return cls.read(SHIPPED)

    @classmethod
    def read(cls, path: str | Path) -> "Policy":
        """The policy of a file. With "extends": "shipped" its terms are added to those of the
        default, and the rest of what it names takes the place of the default's."""
        try:
            found = json.loads(Path(path).read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"no policy in {path}: {error}") from None
        if isinstance(found, dict) and "extends" in found:
            found = _extended(found, path)
        try:
            return from_json(cls, json.dumps(found))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _extended(found: dict[str, Any], path: str | Path) -> dict[str, Any]:
    base, shipped = found.pop("extends"), json.loads(SHIPPED.read_text())
    require(base == "shipped", f'{path}: "extends" can only be "shipped", got {base!r}')
    return {**shipped, **{name: _joined(shipped.get(name), value) for name, value in found.items()}}


def _joined(old: Any, new: Any) -> Any:
    """Terms are added, in any depth; thresholds replaced. The check tells what does not fit."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: _joined(old.get(name), value) for name, value in new.items()}}
    return [*old, *new] if isinstance(old, list) and isinstance(new, list) else new


@cache
def _scripts() -> set[str]:
    letters = (chr(i) for i in range(0x10000) if chr(i).isalpha())
    return {unicodedata.name(letter, "UNKNOWN").split()[0] for letter in letters}
