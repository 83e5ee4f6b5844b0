"""Fifty SIGKILLs, at random moments of training and saving; every time the run goes on.

    .venv/bin/python bench/torture.py                  # one process, about 15 minutes
    .venv/bin/python bench/torture.py --ranks 2        # two, about 45 minutes

Trains the tiny base twice on the sticker world, once undisturbed, and once killed again and again:
the whole group, or with several ranks one of them. After every kill the newest checkpoint must be
whole, and the next run must go on from it. In every step each process must have trained on the
samples of the undisturbed run. In the end one process must have the very weights of that run;
several must have had its losses, to 1e-3.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import machine
from safetensors import safe_open
from safetensors.torch import load_file

from imagen_video.training.checkpoint import facts_of, latest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder) / "whole", Path(folder) / "killed"
        if start(whole, options).wait():
            raise SystemExit((Path(folder) / "said.txt").read_text()[-3000:])
        kills = torture(killed, options)
        begun = beginning(killed)
        assert start(killed, options).wait() == 0
        went_on(killed, *begun)
        result = {"machine": machine(), "ranks": options.ranks, "kills": kills}
        print(json.dumps(result | compared(whole, killed, options.ranks), indent=2))


def start(out: Path, options: argparse.Namespace) -> subprocess.Popen:
    job = ["-m", "imagen_video", "train", "--preset", f"{__file__}:shared", "--stage", "base"]
    job += ["--out", str(out), "--steps", str(options.steps), "--threads", "1"]
    job += ["--save-minutes", "0.005", "--sheet-minutes", "999", "--log-every", "1"]
    launch = [sys.executable]
    if options.ranks > 1:
        launch += ["-m", "torch.distributed.run", "--standalone"]
        launch += [f"--nproc-per-node={options.ranks}"]
        job += ["--shards", str(options.ranks)]
    beside = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"  # the preset's imports
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": beside}
    with open(out.parent / "said.txt", "ab") as said:
        return subprocess.Popen(launch + job, stderr=said, start_new_session=True, env=environment)


def shared():
    """The tiny cascade with a batch that two or four processes can share, which note it."""
    from dataclasses import replace

    from imagen_video import presets

    note_samples()
    tiny = presets.tiny()
    base = tiny.stages[0]
    base = replace(base, train=replace(base.train, clips=2, image_packs=2))
    return replace(tiny, stages=(base, *tiny.stages[1:]))


def note_samples() -> None:
    """Let a process append to a file what each of its steps trains on."""
    from imagen_video.training.trainer import Trainer

    train_on = Trainer.train_on

    def noting(self: Trainer, parts, watch):
        (batch,) = (part.batch for part in parts)
        rows = batch.video.numpy().tobytes() + repr(batch.captions).encode()
        with open(self.out / f"samples{self.ranks.rank}.jsonl", "a") as file:
            file.write(json.dumps([self.step, hashlib.sha256(rows).hexdigest()]) + "\n")
        return train_on(self, parts, watch)

    Trainer.train_on = noting


def torture(out: Path, options: argparse.Namespace) -> int:
    """Kill a run again and again, each time a while after it has saved something new."""
    chance, kills = random.Random(0), 0
    while kills < options.kills:
        begun = beginning(out)
        before, run = latest(out), start(out, options)
        while run.poll() is None and latest(out) == before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 2))
        if run.poll() is not None:
            raise SystemExit(f"the run ended after {kills} kills: give more --steps")
        one = options.ranks > 1 and chance.random() < 0.5
        if one:
            os.kill(chance.choice(workers(run)), signal.SIGKILL)
            assert run.wait(timeout=120) != 0
        else:
            own = workers(run) if options.ranks > 1 else []  # each with a group of its own
            for process in [*own, run.pid]:
                os.killpg(process, signal.SIGKILL)
            run.wait()
        kills += 1
        went_on(out, *begun)
        check(latest(out))
        print(f"kill {kills} at step {facts_of(latest(out))['step']}", file=sys.stderr)
    return kills


def workers(run: subprocess.Popen) -> list[int]:
    """The processes that torchrun started, if it is torchrun."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, line in lines.items() if b"imagen_video\0train" in line]


def beginning(out: Path) -> tuple[int, int]:
    """How many steps were done in a folder, those done again too, and the one to go on with."""
    path, found = out / "samples0.jsonl", latest(out)
    count = len(path.read_text().splitlines()) if path.exists() else 0
    return count, facts_of(found)["step"] if found else 0


def went_on(out: Path, count: int, step: int) -> None:
    """Whether what came after so many steps began with that one: a run that begins anew does the
    same steps, and ends the same."""
    line = (out / "samples0.jsonl").read_text().splitlines()[count]
    assert json.loads(line)[0] == step, (line, step)


def check(checkpoint: Path | None) -> None:
    """Every tensor of a checkpoint can be read."""
    assert checkpoint is not None
    for file in checkpoint.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensors.get_tensor(name)


def compared(whole: Path, killed: Path, ranks: int) -> dict:
    first, second = losses(whole), losses(killed)
    assert first.keys() == second.keys()
    worst = max(abs(first[step] - second[step]) for step in first)
    batches = samples(whole, ranks)
    assert samples(killed, ranks) == batches and len(batches) == ranks * len(first)
    if ranks > 1:
        assert worst < 1e-3
        return {"steps_of_equal_samples": len(first), "largest_difference_of_losses": worst}
    a, b = (load_file(next(latest(path).glob("*.safetensors"))) for path in (whole, killed))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return {"tensors_equal": len(a), "largest_difference_of_losses": worst}


def samples(out: Path, ranks: int) -> set[tuple[int, int, str]]:
    """Rank, step and digest of all batches: of a step done again and again, each way once."""
    files = [(rank, out / f"samples{rank}.jsonl") for rank in range(ranks)]
    return {(i, *json.loads(line)) for i, file in files for line in file.read_text().splitlines()}


def losses(out: Path) -> dict[int, float]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


if __name__ == "__main__":
    main()
