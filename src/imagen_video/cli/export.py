"""imagen-video export."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional


@dataclass
class Export:
    """Write a training folder as a stage, or the folders of --stage all as a cascade."""

    run: Positional[Path]
    """The --out of imagen-video train."""
    out: Path
    """Folder to write; generate --model takes a cascade's, train --init-from a stage's."""
    preset: str = "mini"
    """The preset of a cascade, whose sampling settings it gets."""
    which: Literal["latest", "best"] = "latest"
    """The checkpoint of each stage; best is the one with the lowest validation loss."""
    weights: Literal["average", "trained"] = "average"
    dtype: Literal["bf16", "fp32"] = "bf16"
    push: str | None = None
    """org/name of the Hugging Face hub, to upload the cascade to: its README, then --out."""


def run_export(options: Export) -> None:
    import torch

    from imagen_video import presets
    from imagen_video.cascade import Cascade
    from imagen_video.training.export import export_cascade, export_stage

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    if not options.run.is_dir():
        raise ValueError(f"no folder {options.run}: give the --out of imagen-video train")
    if (options.run / "checkpoints").is_dir():
        if options.push:
            raise ValueError(f"--push uploads a cascade, and {options.run} is of one stage")
        step = export_stage(
            options.run, options.out, which=options.which, weights=options.weights, dtype=dtype
        )
        print(f"{options.out}: {options.weights} weights of step {step}")
        return
    spec = presets.find(options.preset)
    export_cascade(
        options.run, spec, options.out, which=options.which, weights=options.weights, dtype=dtype
    )
    print(f"{options.out}: imagen-video generate ... --model {options.out}")
    if options.push:
        print(Cascade.from_pretrained(options.out, dtype=dtype).push_to_hub(options.push))
