"""The stages of mini trained on one GPU, each for some minutes.

    python runs/mini_on_gpu.py out/gpu --stages base --minutes 20 --compiled \
        --init-from src/imagen_video/mini
    python runs/mini_on_gpu.py out/gpu --stages ssr1 ssr2 ssr3 tsr1 tsr2 tsr3 --minutes 2 \
        --init-from src/imagen_video/mini
    imagen-video export out/gpu --out out/mini

Batches fill the card, and the learning rate follows the clock instead of the step: it goes down
over the last COOLDOWN of the time. Drawing stickers is slower than training on them, so every batch
is shown ECHOES times, with other noise. The shipped weights had eight minutes of an H100 for the
base and 4.6 for the six others, side by side (docs/log.md).
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from imagen_video import presets
from imagen_video.data.mix import Mix
from imagen_video.data.stickers.source import StickerSource
from imagen_video.distributed import Ranks
from imagen_video.spec import StageSpec
from imagen_video.stage import Stage
from imagen_video.text.encoder import load_encoder
from imagen_video.training.ahead import Data
from imagen_video.training.engine import initialise_from
from imagen_video.training.job import fit_text
from imagen_video.training.run import RunSpec
from imagen_video.training.sheets import SheetDrawer, what_to_show
from imagen_video.training.trainer import Trainer

SEED, ECHOES = 0, 3
COOLDOWN = 0.4
WARMUP = 150
RATE = 8e-4
# Videos and packs of images a batch.
BATCHES = {
    "base": (72, 56),
    "tsr1": (48, 16),
    "ssr1": (48, 24),
    "ssr2": (32, 16),
    "tsr2": (96, 0),
    "tsr3": (96, 0),
    "ssr3": (64, 32),
}


class Timed(Trainer):
    """Trains for the minutes of its run."""

    started = 0.0

    def schedule(self) -> float:
        self.started = self.started or time.monotonic()
        assert self.run_spec.minutes is not None
        left = 1 - (time.monotonic() - self.started) / (60 * self.run_spec.minutes)
        return max(0.0, min(1.0, (self.step + 1) / WARMUP, left / COOLDOWN))


def stage_spec(name: str) -> StageSpec:
    """mini's stage with the batch and the rate of a GPU; the clock ends it before its steps do."""
    spec = presets.mini().stage(name)
    clips, packs = BATCHES[name]
    train = replace(
        spec.train,
        clips=clips,
        image_packs=packs,
        echoes=ECHOES,
        learning_rate=RATE,
        steps=1_000_000,
        ema=0.998,
    )
    return replace(spec, train=train)


def train(name: str, wanted: argparse.Namespace) -> None:
    spec, text, out = stage_spec(name), presets.mini().text, wanted.out / name
    torch.manual_seed(SEED)
    stage = Stage(spec)
    if wanted.init_from is not None:
        initialise_from(stage, wanted.init_from / name)
    mix = Mix(StickerSource(SEED), spec, seed=SEED, steps=spec.train.steps)
    encoder = load_encoder(text, dtype=torch.bfloat16, device=wanted.device)
    if wanted.init_from is None:
        fit_text(stage, mix, encoder, workers=0)
    run = RunSpec(
        seed=SEED,
        minutes=wanted.minutes,
        save_minutes=2,
        sheet_minutes=1e6,
        workers=wanted.workers,
        compiled=wanted.compiled,
    )
    ranks = Ranks(device=torch.device(wanted.device))
    trainer = Timed(stage, Data(mix, encoder), out, run, ranks=ranks)
    shown = what_to_show(spec, StickerSource(0, part="test"), stickers=True, workers=0)
    trainer.run(SheetDrawer(spec, encoder, out / "sheets", shown, step=lambda: trainer.step))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--stages", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--minutes", type=float, default=2.0, help="a stage")
    parser.add_argument("--init-from", type=Path, help="a cascade whose weights are the start")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compiled", action="store_true")
    wanted = parser.parse_args()
    for name in wanted.stages:
        train(name, wanted)


if __name__ == "__main__":
    main()
