"""Many processes train as one: the same losses and averages, resumed on any number of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from imagen_video.training.checkpoint import facts_of, latest, tensors_in

# A batch of four rows, of clips and images, so that it can be shared by one, two or four.
JOB = """
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from imagen_video import presets
from imagen_video.cli import main
from imagen_video.training import job

torch.set_num_threads(1)
out, steps, stop, shards = Path(sys.argv[1]), *map(int, sys.argv[2:5])
cascade = presets.tiny()
base = cascade.stages[0]
optimizer = os.environ.get("OPTIMIZER", "adamw")
train = replace(base.train, clips=2, image_packs=2, warmup=4, optimizer=optimizer)
base = replace(base, train=train)
cascade = replace(cascade, stages=(base, *cascade.stages[1:]))
presets.find = lambda name: cascade
if stop:  # a run that ends early, as one that is killed does
    step = job.Trainer.train_on

    def stopping(trainer, parts, watch):
        if trainer.step == stop - 1:
            trainer.save()
        elif trainer.step == stop:
            trainer.saver.finish()
            trainer.ranks.wait()
            sys.exit(0)
        return step(trainer, parts, watch)

    job.Trainer.train_on = stopping
sys.argv = ["imagen-video", "train", "--out", str(out), "--stage", "base", "--steps", str(steps),
            "--precision", "fp32", "--shards", str(shards),
            "--save-minutes", "0.02" if steps > 100 else "60",
            "--sheet-minutes", "60", "--log-every", "1", *sys.argv[5:]]
if "--workers" not in sys.argv:
    sys.argv += ["--workers", "0"]
main()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("job") / "job.py"
    path.write_text(JOB)
    return path


def command(
    script: Path, out: Path, *more, ranks: int, steps: int = 20, stop: int = 0, shards=None
):
    arguments = [str(out), str(steps), str(stop), str(shards or ranks), *more]
    if ranks == 1:
        return [sys.executable, str(script), *arguments]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={ranks}", str(script), *arguments]


def train(script: Path, out: Path, *more: str, **options) -> list[float]:
    """Run to the end; the loss of every step that its log has."""
    done = subprocess.run(
        command(script, out, *more, **options), capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return losses(out)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "JAXTYPING_DISABLE": "1"}


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def begin(script: Path, out: Path, *more: str) -> tuple[subprocess.Popen, list[int]]:
    """A long run of two processes that has saved something, and the two."""
    run = subprocess.Popen(
        command(script, out, *more, ranks=2, steps=10**5),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    while latest(out) is None:
        assert run.poll() is None
        time.sleep(0.1)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    return run, [int(pid) for pid in children if b"-u\0" in command_line(pid)]


def command_line(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_process_ends_the_job_and_spoils_no_checkpoint(script, tmp_path, which):
    run, processes = begin(script, tmp_path)
    os.kill(processes[which], signal.SIGKILL)
    _, said = run.communicate(timeout=120)
    assert run.returncode != 0
    assert "imagen-video: another process of this run is gone" in said
    before = facts_of(latest(tmp_path))["step"]
    train(script, tmp_path, ranks=1, steps=10**5, stop=before + 2)
    assert len(losses(tmp_path)) == before + 2


@pytest.mark.parametrize("whom", ["a process", "torchrun"])
def test_sigterm_saves_and_ends_all_well(script, tmp_path, whom):
    # torchrun tells every process of a group, the loaders' workers too.
    run, processes = begin(script, tmp_path, "--workers", "0" if whom == "a process" else "1")
    os.kill(processes[1] if whom == "a process" else run.pid, signal.SIGTERM)
    _, said = run.communicate(timeout=120)
    if whom == "a process":  # torchrun itself always tells what ended it
        assert run.returncode == 0, said
    assert "DataLoader worker" not in said
    assert facts_of(latest(tmp_path))["step"] == len(losses(tmp_path))


@pytest.fixture(scope="module")
def alone(script, tmp_path_factory) -> tuple[list[float], Path]:
    out = tmp_path_factory.mktemp("alone")
    return train(script, out, ranks=1), out


def close(a: Path, b: Path) -> None:
    """The averaged weights that two runs ended with agree in float32: half of them to a twentieth
    of a step (2e-3), nine of ten to a fifth, a few by less than two, as Adam makes whole ones of
    the rounding of gradients that are nearly 0; no average can have missed a step."""
    shapes = {f"ema/{n}": w.shape for n, w in load_file(a / "model.safetensors").items()}
    first, second = (tensors_in(latest(path), shapes) for path in (a, b))
    apart = torch.cat([(second[name] - weight).flatten() for name, weight in first.items()])
    assert apart.abs().median() < 1e-4
    assert apart.abs().quantile(0.9) < 4e-4
    assert apart.abs().max() < 3e-3
    assert apart.norm() < 1e-3 * torch.cat([w.flatten() for w in first.values()]).norm()


@pytest.mark.parametrize(
    "shards",
    [2, pytest.param(1, marks=pytest.mark.slow)],
    ids=["sharded", "data parallel"],
)
def test_two_processes_train_as_one(script, alone, tmp_path, shards):
    found = train(script, tmp_path, ranks=2, shards=shards)
    assert len(found) == 20
    assert found == pytest.approx(alone[0], abs=1e-4)
    close(tmp_path, alone[1])


def test_shards_train_in_parts_and_recompute(script, alone, tmp_path):
    found = train(script, tmp_path, "--recompute", "--accumulate", "2", ranks=2, stop=10)
    assert found == pytest.approx(alone[0][:10], abs=1e-4)


def test_two_then_four_then_one_process_go_on_as_one(script, alone, tmp_path):
    train(script, tmp_path, ranks=2, stop=6)
    train(script, tmp_path, ranks=4, stop=13, shards=2)
    assert len(list(latest(tmp_path).glob("*.safetensors"))) == 4
    found = train(script, tmp_path, ranks=1)
    assert found == pytest.approx(alone[0], abs=1e-4)
    close(tmp_path, alone[1])
