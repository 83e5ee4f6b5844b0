"""A training run of the tiny base that one, two or four processes can share."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from imagen_video import presets
from imagen_video.cli import main
from imagen_video.training import job
from imagen_video.training.distill import DistillSpec, distill
from imagen_video.training.guard import IN_A_ROW
from imagen_video.training.run import RunSpec


def train_base(out: str, steps: int, stop: int, shards: int, *more: str) -> None:
    """Train on batches of four rows, of clips and images; end early after step `stop` unless it is
    0, as one that is killed does."""
    torch.set_num_threads(1)
    cascade = presets.tiny()
    base, optimizer = cascade.stages[0], os.environ.get("OPTIMIZER", "adamw")
    train = replace(base.train, clips=2, image_packs=2, warmup=4, optimizer=optimizer)
    cascade = replace(cascade, stages=(replace(base, train=train), *cascade.stages[1:]))
    presets.find = lambda name: cascade
    job.FITTED_STEPS = 4  # what captions look like is seen in a few
    job.Trainer.train_on = noting_steps()
    if stop:
        job.Trainer.train_on = stopping_after(stop)
    save = "0.02" if steps > 100 else "60"
    words = ["--out", out, "--stage", "base", "--steps", str(steps), "--shards", str(shards)]
    words += ["--save-minutes", save, "--sheet-minutes", "60", "--log-every", "1", *more]
    for option, value in (("--precision", "fp32"), ("--workers", "0")):
        words += [] if option in more else [option, value]
    sys.argv = ["imagen-video", "train", *words]
    main()


def train_spoiled(out: str) -> None:
    """The same on two shards, whose weights are spoiled in the step after one that is saved."""
    step = job.Trainer.train_on

    def spoiling(trainer, parts, watch):
        if trainer.step == 3:
            trainer.save()
        elif trainer.step == 4:
            trainer.saver.finish()
            next(trainer.stage.unet.parameters()).data.fill_(torch.nan)
        return step(trainer, parts, watch)

    job.Trainer.train_on = spoiling
    train_base(out, 4 + IN_A_ROW + 3, 0, 2)


def distil_base(teacher: str, out: str, shards: int) -> None:
    """Teach a network beside the base of a cascade what guidance adds."""
    torch.set_num_threads(1)
    spec = DistillSpec(guidance_only=True, side=8, updates=6, learning_rate=1e-3)
    run = RunSpec(precision="fp32", workers=0, log_every=1)
    asked = job.JobSpec(stage="base", out=Path(out), shards=shards)
    list(distill(presets.find(teacher), Path(teacher) / "base", asked, spec, run))


STEPS = "steps.txt"


def noting_steps():
    """The trainer's step, which the first process writes down: a log looks the same where a run
    begins anew instead of going on."""
    step = job.Trainer.train_on

    def noting(trainer, parts, watch):
        if trainer.ranks.first:
            with open(trainer.out / STEPS, "a") as file:
                file.write(f"{trainer.step}\n")
        return step(trainer, parts, watch)

    return noting


def stopping_after(stop: int):
    """The trainer's step, which saves after step `stop` and exits in the one after."""
    step = job.Trainer.train_on

    def stopping(trainer, parts, watch):
        if trainer.step == stop - 1:
            trainer.save()
        elif trainer.step == stop:
            trainer.saver.finish()
            trainer.ranks.wait()
            sys.exit(0)
        return step(trainer, parts, watch)

    return stopping


if __name__ == "__main__":  # by torchrun
    train_base(sys.argv[1], *map(int, sys.argv[2:5]), *sys.argv[5:])
