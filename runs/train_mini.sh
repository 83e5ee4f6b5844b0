#!/bin/sh
# Trains the seven mini stages on the sticker world, one after the other, and assembles the cascade.
#   sh runs/train_mini.sh out/mini
# About 18 hours of one core (12 of them the base); run again to go on. The shipped weights had these
# steps, give or take, but in pieces with pauses for thought (docs/log.md); made in one go they were
# never. From there runs/mini_on_gpu.py went on: with a GPU, begin with that. Trained for many steps,
# the stages are then asked in few (docs/results.md, "In how few steps"), and the base gets the network
# that answers with guidance beside it, which is an hour of two cores. The end is $out/mini/cascade.
set -eu
out=$1
train() { stage=$1; steps=$2; shift 2; imagen-video train --stage "$stage" --steps "$steps" "$@"; }
train ssr1 2500 --out "$out/ssr1"
train ssr2 1250 --out "$out/ssr2"
train ssr3 5600 --out "$out/ssr3"
train tsr1 1200 --out "$out/tsr1"
train tsr2 1200 --out "$out/tsr2"
train tsr3 2600 --out "$out/tsr3"
phases=runs/base_phases.py
train base 2500 --preset $phases:images --out "$out/images"
train base 1500 --preset $phases:strided --out "$out/strided" --init-from "$out/images"
train base 4000 --preset $phases:things --out "$out/things" --init-from "$out/strided"
train base 4000 --out "$out/base" --init-from "$out/things"
imagen-video export "$out" --out "$out/long"
python - "$out" <<'END'
import sys

import torch

from imagen_video import presets
from imagen_video.cascade import Cascade

out = sys.argv[1]
mini = Cascade.from_pretrained(f"{out}/long")
for stage in presets.shipped("mini").stages:
    mini = mini.with_sampler(stage.name, stage.sampler)
mini.save_pretrained(f"{out}/short", dtype=torch.bfloat16)
END
python runs/distilled.py train --model "$out/short" --out "$out/mini" --threads 2
