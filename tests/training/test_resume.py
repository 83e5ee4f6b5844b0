"""A killed run ends where an undisturbed one does."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
from forked import command, fork  # pyright: ignore
from safetensors.torch import load_file
from tiny_job import STEPS, noting_steps  # pyright: ignore

from imagen_video.training.checkpoint import facts_of, latest
from imagen_video.training.trainer import Trainer

# One thread and one job after the other: the same sums in the same order.
WORDS = ["--preset", "tiny", "--stage", "base", "--steps", "18", "--threads", "1"]
WORDS += ["--save-minutes", "0.02", "--sheet-minutes", "60", "--log-every", "6"]
# After the second, Ctrl-C, a run saves and ends by itself.
SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGKILL)


def paced(*words: str) -> None:
    """imagen-video with steps that are long enough to be killed on any machine, which it writes
    down."""
    step = noting_steps()

    def slower(*given):
        time.sleep(0.2)
        return step(*given)

    Trainer.train_on = slower
    command(*words)


def start(folder: Path, program: Callable[..., None] = paced) -> BaseProcess:
    words = ["train", *WORDS, "--out", str(folder)]
    (process,) = fork(program, *words, said=folder.with_suffix(".said"))
    return process


def ended(run: BaseProcess) -> int | None:
    run.join()
    return run.exitcode


def stamp(folder: Path) -> str | None:
    """The newest checkpoint."""
    found = latest(folder)
    return found and found.name


def steps(folder: Path) -> list[int]:
    """All that were done in a folder, those done again too."""
    path = folder / STEPS
    return list(map(int, path.read_text().split())) if path.exists() else []


def saved_step(folder: Path) -> int:
    found = latest(folder)
    return facts_of(found)["step"] if found else 0


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)


def test_killed_runs_end_with_the_weights_of_an_undisturbed_one(tmp_path):
    undisturbed = start(tmp_path / "whole", command)
    assert ended(undisturbed) == 0
    chance, kills, begun = random.Random(0), 0, []
    while kills < len(SIGNALS):
        begun.append((len(steps(tmp_path / "killed")), saved_step(tmp_path / "killed")))
        run = start(tmp_path / "killed")
        before = stamp(tmp_path / "killed")
        while run.is_alive() and stamp(tmp_path / "killed") == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.4))
        if not run.is_alive():
            break
        os.killpg(run.pid, SIGNALS[kills])  # loaders and all, as a terminal does
        run.join()
        kills += 1
    begun.append((len(steps(tmp_path / "killed")), saved_step(tmp_path / "killed")))
    last = start(tmp_path / "killed")
    assert ended(last) == 0
    assert kills >= 2  # both kinds
    # Every run went on where the one before had saved: one begun anew would end the same.
    done = steps(tmp_path / "killed")
    assert all(done[count] == step for count, step in begun) and begun[-1][1] > 0
    log = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert [line["step"] for line in map(json.loads, log) if "loss" in line] == [6, 12, 18]
    whole, killed = (tensors(latest(tmp_path / name)) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
