"""Whether a run is the one that a checkpoint is of."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from imagen_video.spec import StageSpec
from imagen_video.spec_json import from_json
from imagen_video.training.lora import name_of

# So many differences say which.
TOLD = 3


def refuse_other(out: Path, saved: dict, now: dict) -> None:
    """ValueError where the facts of a checkpoint in `out` are of another run than `now`."""
    if saved["seed"] != now["seed"]:
        raise ValueError(
            f"{out} was trained with seed {saved['seed']}, not {now['seed']}: give that seed, or "
            "another --out folder"
        )
    if name_of(saved.get("lora")) != name_of(now["lora"]):
        raise ValueError(
            f"{out} trains {name_of(saved.get('lora'))}, not {name_of(now['lora'])}: give the same "
            "--lora and --init-from, or another --out folder"
        )
    before, spec = from_json(StageSpec, saved["spec"]), from_json(StageSpec, now["spec"])
    # Sampling another way changes nothing of the training.
    other = [line for line in different(before, spec) if not line.startswith("sampler")]
    if other:
        more = f"; and {len(other) - TOLD} more" if len(other) > TOLD else ""
        raise ValueError(
            f"{out} was trained as another stage ({'; '.join(other[:TOLD])}{more}): give the same, "
            f"or another --out with --init-from {out}"
        )
    if saved.get("text", now["text"]) != now["text"]:
        kinds = [f"{kind} of {length} tokens" for kind, length in (saved["text"], now["text"])]
        raise ValueError(
            f"{out} was trained on embeddings of {kinds[0]}, not of {kinds[1]}: give that encoder"
        )
    # Folders may have moved: names within them, captions and how much was shown say what they are.
    if list(saved["data"].values()) != list(now["data"].values()):
        pairs = zip_longest(saved["data"].items(), now["data"].items())
        was, got = next((a, b) for a, b in pairs if a is None or b is None or a[1] != b[1])
        raise ValueError(
            f"{out} was trained on other data: up to step {saved['step']} on {told(was)}, not on "
            f"{told(got)}; give the same --data and --cropping, as they were, or another --out "
            f"with --init-from {out}"
        )


def different(before: Any, now: Any) -> Iterator[str]:
    """What differs between two specs, such as "train.steps 200, not 400"."""
    for field in fields(before):
        was, got = getattr(before, field.name), getattr(now, field.name)
        if was == got:
            continue
        if is_dataclass(was) and type(was) is type(got):
            yield from (f"{field.name}.{line}" for line in different(was, got))
        else:
            yield f"{field.name} {was}, not {got}"


def told(source: tuple[str, dict] | None) -> str:
    """A source and how far it was read, in words."""
    if source is None:
        return "nothing more"
    name, where = source
    content = f", content {where['content']}" if where["content"] else ""
    return f"{name} ({where['clips']} clips and {where['stills']} stills of it{content})"
