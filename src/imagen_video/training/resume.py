"""Whether a run is the one that a checkpoint is of."""

from dataclasses import fields
from pathlib import Path

from imagen_video.spec import StageSpec
from imagen_video.spec_json import from_json
from imagen_video.training.lora import name_of


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
    changed = [f.name for f in fields(spec) if getattr(before, f.name) != getattr(spec, f.name)]
    if set(changed) - {"sampler"}:  # sampling another way changes nothing of the training
        raise ValueError(
            f"{out} was trained with another {', '.join(changed)} of stage {before.name!r}: give "
            f"the same, or another --out with --init-from {out}"
        )
    # Folders may have moved: names within them, captions and how much was shown say what they are.
    if list(saved["data"].values()) != list(now["data"].values()):
        raise ValueError(
            f"{out} was trained on other data: up to step {saved['step']} on {saved['data']}, not "
            f"{now['data']}; give the same --data and --cropping, as they were, or another --out "
            f"with --init-from {out}"
        )
