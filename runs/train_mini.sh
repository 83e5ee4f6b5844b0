#!/bin/sh
# Trains the seven mini stages on the sticker world, one after the other, and assembles the cascade.
#   sh runs/train_mini.sh out/mini [minutes a stage, default 60]
# Expected: base 6 hours or more, every other stage about 1 hour, on two cores with AMX; run again to go on.
set -eu
out=$1; minutes=${2:-60}
for stage in ssr1 tsr1 ssr3 ssr2 tsr2 tsr3; do
  imagen-video train --preset mini --stage "$stage" --out "$out/$stage" --minutes "$minutes"
done
imagen-video train --preset runs/base_phases.py:images --stage base --out "$out/images" --minutes "$minutes"
imagen-video train --preset runs/base_phases.py:strided --stage base --out "$out/strided" --init-from "$out/images" \
  --minutes "$((minutes * 2))"
imagen-video train --preset runs/base_phases.py:things --stage base --out "$out/things" --init-from "$out/strided" \
  --minutes "$minutes"
imagen-video train --preset mini --stage base --out "$out/base" --init-from "$out/things" --minutes "$((minutes * 2))"
imagen-video export "$out" --out src/imagen_video/mini
