"""Working through the table: every arm once a seed, several processes side by side if asked."""

import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from imagen_video.files import alone_in, replacing
from imagen_video.pictures import contact_sheet, write_png
from imagen_video.stage import Stage
from imagen_video.weights import load_stage
from study import judges, measure, upsampling
from study.arms import SEEDS, Arm, table
from study.library import LIBRARIES, Library
from study.measure import Measured, Subject
from study.train import SHEET, SPENT, Place, Stopped, conclude, finished, trained

MEASURES: dict[str, Callable[[Subject], Measured]] = {
    "base": measure.base,
    "guidance": measure.guidance,
    "bias": measure.bias,
    "steps": measure.few_steps,
    "turning": measure.turning,
    "words": measure.words,
    "fine": upsampling.fine,
    "crops": upsampling.crops,
}
ERROR = "error.txt"
WAIT = 2.0
"""Seconds until what other processes do is looked at again."""


def work(place: Place, studies: Sequence[str]) -> None:
    """Do what nobody has done or is doing, until all is done or the time is over."""
    left = list(itertools.product(chosen(studies), SEEDS))
    while left and not place.late():
        for arm, seed in list(left):
            if settled(arm, seed, place):
                left.remove((arm, seed))
            elif not place.late() and (arm.of is None or finished(place, arm.of, seed)):
                with claimed(place.folder(arm.key, seed)) as free:
                    if free and not settled(arm, seed, place):
                        attempt(arm, seed, place)
        time.sleep(WAIT if left else 0)


def chosen(studies: Sequence[str]) -> list[Arm]:
    """The arms of these studies, of all if none is named."""
    return [arm for arm in table().values() if not studies or arm.study in studies]


def settled(arm: Arm, seed: int, place: Place) -> bool:
    """Whether an arm is finished, or has failed, or what it waits for has."""
    failed = [
        key for key in (arm.key, arm.of) if key and (place.folder(key, seed) / ERROR).exists()
    ]
    return finished(place, arm.key, seed) or bool(failed)


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether this process has the folder for itself."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone_in(folder))
            free = True
        except ValueError:
            free = False
        yield free


def attempt(arm: Arm, seed: int, place: Place) -> None:
    """Do an arm; one that fails leaves its error behind and lets the others be done."""
    start, error = time.monotonic(), place.folder(arm.key, seed) / ERROR
    try:
        do(arm, seed, place)
        print(f"{arm.key}-{seed}: {time.monotonic() - start:.0f} s", flush=True)
    except Stopped as told:
        print(f"stopped: {told}", flush=True)
        with replacing(error.with_name(SPENT)) as path:
            path.write_text(f"{spent(error.parent) + time.monotonic() - start:.1f}\n")
        if not place.late():  # by hand
            sys.exit(1)
    except Exception:
        error.write_text(traceback.format_exc())
        print(f"{arm.key}-{seed} failed: see {error}, and remove it to try again", flush=True)


def spent(folder: Path) -> float:
    """Seconds that earlier runs of an arm took, which were stopped."""
    kept = folder / SPENT
    return float(kept.read_text()) if kept.exists() else 0.0


def do(arm: Arm, seed: int, place: Place) -> None:
    """Train an arm, or go on, and measure it."""
    start, folder = time.monotonic(), place.folder(arm.key, seed)

    def look(stage: Stage, step: int) -> None:
        found = measured(arm, seed, place, stage)
        with replacing(folder / f"look-{step:06d}.json") as path:
            path.write_text(json.dumps(found.facts))

    if arm.trains:
        trained(arm, seed, place, look)
    weights = folder if arm.trains or arm.of is None else place.folder(arm.of, seed)
    stage = load_stage(weights, dtype=torch.float32)
    found = measured(arm, seed, place, stage)
    write_png(folder / SHEET, contact_sheet(found.shown, columns=stage.spec.output.frames))
    result = {
        "arm": arm.key,
        "seed": seed,
        "steps": stage.spec.train.steps if arm.trains else 0,
        "parameters": sum(weight.numel() for weight in stage.unet.parameters()),
        "device": place.device.type,
        "seconds": round(spent(folder) + time.monotonic() - start, 1),
        "looks": looks_in(folder),
        "judges": judges.known(place.carried / "judges"),
        "measured": found.facts,
    }
    conclude(folder, result, keep_weights=arm.kept)


def measured(arm: Arm, seed: int, place: Place, stage: Stage) -> Measured:
    """What is measured of such an arm, with the base before it where there is one."""
    source = table()[arm.of] if arm.of else None
    diet = arm.diet or (source.diet if source else None)
    assert diet is not None, arm
    before = None
    if arm.of and arm.stage is not None:
        before = load_stage(place.folder(arm.of, seed), device=place.device, dtype=torch.float32)
    stage.unet.to(place.device)
    return MEASURES[arm.measure](Subject(arm, seed, place, stage, diet, before))


def looks_in(folder: Path) -> dict[str, dict]:
    """What was measured on the way, by step; the files are then no longer needed."""
    paths = sorted(folder.glob("look-*.json"))
    found = {path.stem.removeprefix("look-"): json.loads(path.read_text()) for path in paths}
    for path in paths:
        path.unlink()
    return found


TRUTH = {
    "base": "truth",
    "steps": "truth",
    "guidance": "truth",
    "fine": "fine truth",
    "crops": "crop truth",
}
"""The library of true clips that a measure compares with."""


def needed(studies: Sequence[str]) -> list[Library]:
    """The libraries that arms of these studies read."""
    names: dict[str, None] = {}
    for arm in chosen(studies):
        names |= dict.fromkeys(
            filter(None, (arm.diet and arm.diet.library, TRUTH.get(arm.measure)))
        )
    return [LIBRARIES[name] for name in names]
