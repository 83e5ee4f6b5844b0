"""One arm trained into its folder, by the product's trainer, and gone on with where it stopped."""

import json
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch

from imagen_video.data.mix import Mix, batches
from imagen_video.distributed import Ranks
from imagen_video.files import replacing
from imagen_video.stage import Stage
from imagen_video.text.encoder import TextEncoder
from imagen_video.training.ahead import Data
from imagen_video.training.checkpoint import latest
from imagen_video.training.engine import initialise_from
from imagen_video.training.job import fit_text
from imagen_video.training.run import Every, RunSpec, noting_interrupt
from imagen_video.training.student import Student
from imagen_video.training.trainer import Trainer
from imagen_video.training.watch import Watch
from imagen_video.weights import load_stage, working_dtype
from study.arms import SPACING, Arm
from study.library import LIBRARIES, Shelf
from study.sample import with_sampler

SAVE_MINUTES = 5.0
RESULT, SHEET, SPENT = "result.json", "sheet.png", "seconds.txt"


class Stopped(Exception):
    """An arm that was asked to stop, or had no time left; its folder goes on from there."""


@dataclass(frozen=True)
class Place:
    """Where arms are run: folders, device, text, and the time (monotonic) at which it ends."""

    out: Path
    carried: Path
    encoder: TextEncoder
    device: torch.device
    end: float

    def folder(self, key: str, seed: int) -> Path:
        """Where an arm's result lies."""
        return self.out / f"{key.replace(' ', '-')}-{seed}"

    def late(self) -> bool:
        return time.monotonic() > self.end

    @property
    def libraries(self) -> Path:
        return self.out / "libraries"


def finished(place: Place, key: str, seed: int) -> bool:
    return (place.folder(key, seed) / RESULT).is_file()


def trained(arm: Arm, seed: int, place: Place, look: Callable[[Stage, int], None]) -> Path:
    """The folder with the averaged weights of an arm after its last step; Stopped before that.

    `look` is called at the steps that the arm names, with a stage on the CPU.
    """
    trainer = ready(arm, seed, place)
    steps, log_every = trainer.train.steps, trainer.run_spec.log_every
    watch = Watch(trainer.ranks, flops_per_row=0, peak_flops=1.0)
    due, loader = Every(SAVE_MINUTES), batches(trainer.data.mix, start=trainer.step, workers=0)
    with noting_interrupt() as stops, closing(loader):
        for batch in loader:
            rate, norm = trainer.train_on(trainer.made_ready(batch), watch)
            trainer.saver.poll()
            if trainer.step % log_every == 0 and trainer.log is not None:
                facts = {"step": trainer.step, "lr": rate, "grad_norm": norm}
                trainer.log.write(facts | watch.facts())
            if trainer.step in arm.looks:
                averaged = trainer.averaged()
                assert averaged is not None, "there is one process"
                look(averaged, trainer.step)
            ends = trainer.step < steps and (stops() or place.late())
            if ends or due() or trainer.step == steps:
                trainer.save()
            if ends:
                trainer.saver.finish()
                raise Stopped(f"{arm.key}-{seed} at step {trainer.step} of {steps}")
    trainer.saver.finish()
    return trainer.out


def ready(arm: Arm, seed: int, place: Place) -> Trainer:
    """The product's trainer, at the step that the arm's folder has reached."""
    assert arm.diet is not None, arm
    folder = place.folder(arm.key, seed)
    pixels = LIBRARIES[arm.diet.library].opened(place.libraries)
    shelf = Shelf(arm.diet, pixels, seed)
    stage = begun(arm, seed, place)
    mix = Mix(shelf, stage.spec, seed=seed, steps=stage.spec.train.steps)
    if arm.lesson is None and latest(folder) is None:
        fit_text(stage, mix, place.encoder, workers=0)
    run = RunSpec(seed=seed, keep=1)
    ranks = Ranks(device=place.device)
    return Trainer(stage, Data(mix, place.encoder), folder, run, ranks=ranks)


def begun(arm: Arm, seed: int, place: Place) -> Stage:
    """The stage of an arm before its first step: a student has the weights of its teacher."""
    torch.manual_seed(seed)
    if arm.lesson is None:
        assert arm.stage is not None, arm
        return Stage(arm.stage)
    assert arm.of is not None and arm.train is not None, arm
    folder = place.folder(arm.of, seed)
    teacher = load_stage(folder, device=place.device, dtype=working_dtype(place.device))
    teacher = with_sampler(teacher, logsnr_shift=SPACING)
    stage = Stage(arm.lesson.spec(teacher.spec, arm.train))
    initialise_from(stage, folder)
    return Student(stage.spec, stage.unet, teacher, arm.lesson)


def conclude(folder: Path, result: dict, *, keep_weights: bool) -> None:
    """Write an arm's result, and let go of all that it took to get there."""
    with replacing(folder / RESULT) as path:
        path.write_text(json.dumps(result, indent=1) + "\n")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in (
        "log.jsonl",
        SPENT,
        *(() if keep_weights else ("model.safetensors", "stage.json")),
    ):
        (folder / name).unlink(missing_ok=True)
