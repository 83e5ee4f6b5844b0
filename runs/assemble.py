"""Put trained stage folders together into a cascade folder.

    python runs/assemble.py out/mini src/imagen_video/mini        # a second or two

Each stage folder is what `imagen-video train` leaves behind: stage.json and model.safetensors with
the averaged weights. Sampling settings come from the preset as it is now, not from when training
began. Prints the size of the weights.
"""

import sys
from pathlib import Path

import torch

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.text.encoder import load_encoder
from imagen_video.weights import load_stage


def main(trained: Path, into: Path, preset: str = "mini") -> None:
    """Raises ValueError where a trained network is not the preset's."""
    spec = presets.find(preset)
    stages = []
    for wanted in spec.stages:
        stage = load_stage(trained / wanted.name)
        if stage.spec.unet != wanted.unet:
            raise ValueError(f"{trained / wanted.name} has another network than {preset}'s")
        stage.spec = wanted
        stages.append(stage)
    Cascade(spec, stages, load_encoder(spec.text)).save_pretrained(into, dtype=torch.bfloat16)
    size = sum(path.stat().st_size for path in into.rglob("*.safetensors"))
    print(f"{into}: {len(stages)} stages, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:3]), *sys.argv[3:])
