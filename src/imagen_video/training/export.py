"""From training folders to stages and cascades that can be sampled and shared: safetensors only."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from imagen_video.cascade import Cascade
from imagen_video.spec import CascadeSpec, StageSpec
from imagen_video.spec_json import from_json
from imagen_video.stage import Stage, build_unet
from imagen_video.text.encoder import load_encoder
from imagen_video.training.checkpoint import best, facts_of, holds, latest, tensors_in
from imagen_video.training.ema import trained
from imagen_video.training.engine import side_alone
from imagen_video.training.lora import lora_of, merged
from imagen_video.training.resume import different
from imagen_video.weights import load_stage, plain_spec, save_stage

# What must be the same in a stage and in the cascade that it becomes part of.
SAME = re.compile("(name|input|output|unet)[ .]")
Which = Literal["latest", "best"]
Weights = Literal["average", "trained"]


def export_stage(
    run: Path,
    out: Path,
    *,
    which: Which = "latest",
    weights: Weights = "average",
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Write one checkpoint of a training folder as a stage's folder; returns its step. Adapters
    are added into the weights they were trained over.

    `best` is the one with the lowest validation loss of those kept. ValueError if there is none.
    """
    stage, step = _read(run, which, weights)
    save_stage(stage, out, dtype=dtype)
    return step


def _read(run: Path, which: Which, weights: Weights) -> tuple[Stage, int]:
    found = best(run) if which == "best" else latest(run)
    if found is None:
        raise ValueError(f"{run} holds no checkpoint: give the --out of imagen-video train")
    facts = facts_of(found)
    spec = from_json(StageSpec, facts["spec"])
    lora = lora_of(facts)
    prefix = {"average": "ema", "trained": "weight"}[weights]
    beside = spec.unet.side is not None and not holds(found, f"{prefix}/z_in.weight")
    if lora is not None:
        unet = lora.load_base(spec).unet
        wrapper = lora.adapt(unet)
    elif beside:  # what was frozen lies in the training's folder
        unet = wrapper = load_stage(run, dtype=torch.float32).unet
        side_alone(unet)
    else:
        unet = wrapper = build_unet(spec, device="meta")
    names = {f"{prefix}/{name}": value.shape for name, value in trained(unet).items()}
    state = {name.split("/", 1)[1]: w for name, w in tensors_in(found, names).items()}
    unet.load_state_dict(state, assign=True, strict=lora is None and not beside)
    return Stage(spec, unet if lora is None else merged(wrapper)), facts["step"]


def export_cascade(
    runs: Path,
    spec: CascadeSpec,
    out: Path,
    *,
    which: Which = "latest",
    weights: Weights = "average",
    dtype: torch.dtype = torch.bfloat16,
) -> None:
    """Write the stages below `runs`, each a stage's or a training's folder, as one cascade; of
    trainings the checkpoints and weights that `export_stage` would.

    Sampling settings are those of `spec`, not of when training began; all others are those of the
    training. ValueError where a stage is missing, or its name, its videos or its network (with a
    side network or without) are not those of `spec`.
    """
    stages = []
    for wanted in spec.stages:
        folder = runs / wanted.name
        trained_here = (folder / "checkpoints").is_dir()
        stage = _read(folder, which, weights)[0] if trained_here else load_stage(folder)
        plain = plain_spec(stage.spec)
        nearest = plain if wanted.unet == plain.unet else stage.spec
        other = [line for line in different(nearest, wanted) if SAME.match(line)]
        if other:
            raise ValueError(f"{folder} is another stage than the preset's: {'; '.join(other)}")
        stages.append(Stage(replace(stage.spec, sampler=wanted.sampler), stage.unet))
    spec = replace(spec, stages=tuple(stage.spec for stage in stages))
    Cascade(spec, stages, load_encoder(spec.text)).save_pretrained(out, dtype=dtype)
