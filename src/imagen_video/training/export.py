"""From training folders to stages and cascades that can be sampled and shared: safetensors only."""

from pathlib import Path
from typing import Literal

import torch

from imagen_video.cascade import Cascade
from imagen_video.spec import CascadeSpec, StageSpec
from imagen_video.spec_json import from_json
from imagen_video.stage import Stage, build_unet
from imagen_video.text.encoder import load_encoder
from imagen_video.training.checkpoint import best, facts_of, latest, tensors_in
from imagen_video.weights import load_stage, save_stage

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
    """Write one checkpoint of a training folder as a stage's folder; returns its step.

    `best` is the one with the lowest validation loss of those kept. ValueError if there is none.
    """
    found = best(run) if which == "best" else latest(run)
    if found is None:
        raise ValueError(f"{run} holds no checkpoint: give the --out of imagen-video train")
    facts = facts_of(found)
    spec = from_json(StageSpec, facts["spec"])
    unet = build_unet(spec, device="meta")
    prefix = {"average": "ema", "trained": "weight"}[weights]
    names = {f"{prefix}/{name}": value.shape for name, value in unet.state_dict().items()}
    state = {name.split("/", 1)[1]: w for name, w in tensors_in(found, names).items()}
    unet.load_state_dict(state, assign=True)
    save_stage(Stage(spec, unet), out, dtype=dtype)
    return facts["step"]


def export_cascade(
    runs: Path, spec: CascadeSpec, out: Path, *, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write the stages below `runs`, each a stage's or a training's folder, as one cascade.

    Sampling settings are those of `spec`, not of when training began. ValueError where a stage is
    missing or its network is not the one of `spec`.
    """
    stages = []
    for wanted in spec.stages:
        stage = load_stage(runs / wanted.name)
        if stage.spec.unet != wanted.unet:
            raise ValueError(f"{runs / wanted.name} has another network than the preset's")
        stages.append(Stage(wanted, stage.unet))
    Cascade(spec, stages, load_encoder(spec.text)).save_pretrained(out, dtype=dtype)
