"""What is asked for: prompts, and the facts that can be checked where they are known."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from imagen_video.data.stickers import StickerWorld
from imagen_video.data.stickers.concepts import COLOURS, CONCEPTS, STYLES
from imagen_video.data.stickers.evaluation import FIELDS, eval_prompts
from imagen_video.data.stickers.motions import MOTIONS, SOLID_MOTIONS
from imagen_video.data.stickers.words import LETTERS
from imagen_video.files import lines_of

STICKERS = "stickers"
CHECKED = {
    "concept": tuple(CONCEPTS),
    "style": tuple(STYLES),
    "background": tuple(COLOURS),
    "motion": (*MOTIONS, *SOLID_MOTIONS),
}
"""What the judges know of each fact."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and what it names: `concept`, `style`, `background`, `motion`, or `word`."""

    text: str
    facts: Mapping[str, str] = field(default_factory=dict)


def prompts_of(name: str, count: int | None) -> list[Prompt]:
    """The first `count` prompts (default: all of a file, 8 stickers).

    "stickers" are the committed 64, then more single objects of the test split; a file holds a
    prompt a line, or ends in .jsonl with {"prompt": ..., other facts} a line.
    """
    if count is not None and count < 1:
        raise ValueError(f"an evaluation needs one prompt or more, got {count}")
    if name == STICKERS:
        return list(islice(_stickers(), count or 8))
    found = _read(Path(name))
    if count is not None and count > len(found):
        raise ValueError(
            f"{name} holds {len(found)} prompts, not {count}: ask for fewer, or for more --seeds"
        )
    return found[:count]


def facts_by_text() -> dict[str, Mapping[str, str]]:
    """The facts of the committed prompts, by their text."""
    return {row["prompt"]: {name: row[name] for name in FIELDS} for row in eval_prompts()}


def _stickers():
    for text, facts in facts_by_text().items():
        yield Prompt(text, facts)
    world, index = StickerWorld(2, split="test"), 0
    while True:
        scene = world.clip(index)
        if scene.attributes.family == "flat":
            yield Prompt(scene.caption, {n: getattr(scene.attributes, n) for n in FIELDS})
        index += 1


def _read(path: Path) -> list[Prompt]:
    if not path.is_file():
        raise ValueError(f"no prompts at {path}: give 'stickers', a text file or a .jsonl")
    numbered = [(n, line) for n, line in enumerate(lines_of(path), 1) if line.strip()]
    if path.suffix == ".jsonl":
        found = [_row(path, number, line) for number, line in numbered]
    else:
        known = facts_by_text()
        found = [
            Prompt(text, known.get(text, {})) for _, line in numbered if (text := line.strip())
        ]
    if not found:
        raise ValueError(f"{path} holds no prompt: write one a line")
    return found


def _row(path: Path, number: int, line: str) -> Prompt:
    try:
        row = json.loads(line)
        facts = {k: v for k, v in row.items() if k != "prompt" and isinstance(v, str)}
        if not row["prompt"].strip():
            raise KeyError("prompt")
        prompt = Prompt(row["prompt"], facts)
    except (json.JSONDecodeError, KeyError, AttributeError, TypeError):
        raise ValueError(
            f'{path}, line {number}: expected {{"prompt": ...}}, got {line[:60]!r}'
        ) from None
    word = facts.get("word", "A")
    if not word or set(word.upper()) - set(LETTERS):
        raise ValueError(f"{path}, line {number}: a word is of letters A to Z, got {word!r}")
    for name, names in CHECKED.items():
        if facts.get(name, names[0]) not in names:
            raise ValueError(
                f"{path}, line {number}: {name} {facts[name]!r} is nothing that can be judged; use "
                f"one of {', '.join(names)}, or leave it out"
            )
    return prompt
