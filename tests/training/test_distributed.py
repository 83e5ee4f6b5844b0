"""Many processes train as one: the same losses and averages, resumed on any number of them."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import tiny_job  # pyright: ignore
import torch
from forked import fork, together  # pyright: ignore
from safetensors.torch import load_file
from tiny_job import STEPS, distil_base, train_base, train_spoiled  # pyright: ignore

from imagen_video.spec import GuidanceSpec
from imagen_video.stage import Stage
from imagen_video.training.checkpoint import facts_of, latest, tensors_in
from imagen_video.training.guard import IN_A_ROW
from imagen_video.training.watch import read_log


def train(out: Path, *more: str, ranks: int, steps: int = 20, stop: int = 0, shards=None):
    """Run to the end; the loss of every step that its log has."""
    words = (str(out), steps, stop, shards or ranks, *more)
    together(train_base, *words, said=out.with_name(f"{out.name}.said"), ranks=ranks)
    return losses(out)


def losses(out: Path) -> list[float]:
    lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def torchrun(*words: str) -> None:
    """Be torchrun with these words."""
    from torch.distributed.run import main

    main(list(words))


def begin(out: Path, *more: str) -> tuple[BaseProcess, list[int], Path]:
    """A long run of two processes under torchrun that has saved something, the two, and what they
    say."""
    words = (tiny_job.__file__, str(out), str(10**5), "0", "2", *more)
    said = out.with_name(f"{out.name}.said")
    (run,) = fork(torchrun, "--standalone", "--nproc-per-node=2", *words, said=said)
    until_saved(out, run.is_alive)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    ranks = [int(pid) for pid in children if b"-u\0" in command_line(pid)]
    return run, ranks, said.with_name(f"{said.name}.err")


def begin_alone(out: Path) -> tuple[list[BaseProcess], Path]:
    """The same without anyone who looks after the two, and what they say."""
    said = out.with_name(f"{out.name}.said")
    run = fork(train_base, str(out), 10**5, 0, 2, said=said, ranks=2)
    until_saved(out, lambda: all(process.is_alive() for process in run))
    return run, said.with_name(f"{said.name}.err")


def until_saved(out: Path, alive: Callable[[], bool]) -> None:
    while latest(out) is None:
        assert alive()
        time.sleep(0.1)


@pytest.mark.slow
def test_two_nodes_train_as_one(alone, tmp_path):
    """Two agents of torchrun that meet at an address, each with a process whose local rank is 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        meet = f"--rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
    out, said = tmp_path / "run", tmp_path / "said"
    words = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=1", meet)
    words += (tiny_job.__file__, str(out), "20", "0", "2")
    nodes = [node for _ in range(2) for node in fork(torchrun, *words, said=said)]
    for node in nodes:
        node.join(300)
    assert [node.exitcode for node in nodes] == [0, 0], (tmp_path / "said.err").read_text()[-3000:]
    assert losses(out) == pytest.approx(alone[0], abs=1e-4)


def command_line(pid: str) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_killed_process_ends_the_job_under_torchrun(tmp_path):
    run, processes, errors = begin(tmp_path)
    os.kill(processes[0], signal.SIGKILL)
    run.join(120)
    assert run.exitcode == 1
    assert_whole(tmp_path, errors.read_text())


@pytest.mark.parametrize("which", [0, 1])
def test_a_killed_process_ends_the_other_and_spoils_no_checkpoint(tmp_path, which):
    run, errors = begin_alone(tmp_path)
    run[which].kill()
    run[1 - which].join(120)
    assert run[1 - which].exitcode == 1
    assert_whole(tmp_path, errors.read_text())


def assert_whole(out: Path, said: str) -> None:
    """The loss was told in a line, and training goes on from what was saved."""
    assert "imagen-video: another process of this run is gone" in said
    before = facts_of(latest(out))["step"]
    train(out, ranks=1, steps=10**5, stop=before + 2)
    assert len(losses(out)) == before + 2


def test_sigterm_to_a_process_saves_and_ends_all_well(tmp_path):
    run, errors = begin_alone(tmp_path)
    run[1].terminate()
    for process in run:
        process.join(120)
    assert [process.exitcode for process in run] == [0, 0], errors.read_text()
    assert facts_of(latest(tmp_path))["step"] == len(losses(tmp_path))


def test_sigterm_to_torchrun_saves_and_spares_the_loaders(tmp_path):
    # torchrun tells every process of a group, the loaders' workers too.
    run, _, errors = begin(tmp_path, "--workers", "1")
    run.terminate()
    run.join(120)
    assert run.exitcode == 1  # as torchrun ends on any signal
    assert "DataLoader worker" not in errors.read_text()
    assert facts_of(latest(tmp_path))["step"] == len(losses(tmp_path))


def train_apart(out: str) -> None:
    train_base(f"{out}/{os.environ['RANK']}", 2, 0, 2)


def test_a_folder_that_not_all_processes_see_is_refused_before_the_first_step(tmp_path):
    run = fork(train_apart, str(tmp_path), said=tmp_path / "said", ranks=2)
    for process in run:
        process.join(60)
    assert all(process.exitcode for process in run)
    assert "every process must see the same" in (tmp_path / "said.err").read_text()
    assert not list(tmp_path.rglob("checkpoints"))


def test_two_processes_go_back_together_where_weights_are_spoiled(tmp_path):
    together(train_spoiled, str(tmp_path / "run"), said=tmp_path / "said", ranks=2)
    lines = read_log(tmp_path / "run")
    back = [line for line in lines if "rolled_back_to" in line]
    assert back == [{"step": 3 + IN_A_ROW, "rolled_back_to": "step-00000003"}]
    seen = {line["step"]: line["loss"] for line in lines if "loss" in line}
    assert [step for step, loss in seen.items() if loss is None] == [*range(5, 5 + IN_A_ROW)]
    assert facts_of(latest(tmp_path / "run"))["step"] == 7 + IN_A_ROW


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> tuple[list[float], Path]:
    out = tmp_path_factory.mktemp("alone")
    return train(out, ranks=1), out


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


@pytest.mark.parametrize("ranks", [2, 4])
def test_many_processes_train_as_one(alone, tmp_path, ranks):
    found = train(tmp_path, ranks=ranks)
    assert len(found) == 20
    assert found == pytest.approx(alone[0], abs=1e-4)
    close(tmp_path, alone[1])


def test_two_processes_distil_as_one(tiny, tmp_path):
    """A trained network beside a frozen one, both in shards."""
    base = tiny.stages[0]
    spec = replace(
        base.spec,
        train=replace(base.spec.train, clips=2, image_packs=2),
        sampler=replace(base.spec.sampler, guidance=GuidanceSpec(weight=3.0)),
    )
    teacher = tiny.with_stages(Stage(spec, base.unet))
    teacher.save_pretrained(tmp_path / "teacher", dtype=torch.float32)
    found = []
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        teacher_at = str(tmp_path / "teacher")
        said = out.with_name(f"{ranks}.said")
        together(distil_base, teacher_at, str(out), ranks, said=said, ranks=ranks)
        found.append(losses(out / "1-guidance"))
    assert len(found[0]) == 6 and found[1] == pytest.approx(found[0], rel=1e-4)
    one, two = (load_file(tmp_path / n / "1-guidance" / "model.safetensors") for n in "12")
    own = [name for name in one if name.startswith("side.")]
    assert all(torch.equal(two[name], weight) for name, weight in one.items() if name not in own)
    apart = torch.cat([(two[name].float() - one[name].float()).flatten() for name in own])
    assert apart.abs().max() < 1e-3


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 1e-4), ("bf16", 0.02)])
def test_copies_and_half_precision_learn_the_same(alone, tmp_path, precision, bound):
    """Two copies of the network in float32, by two rows in turn; two halves of it in bfloat16."""
    shards, parts = (1, "2") if precision == "fp32" else (2, "1")
    more = ("--precision", precision, "--accumulate", parts)
    found = train(tmp_path, *more, ranks=2, stop=6, shards=shards)
    assert found == pytest.approx(alone[0][:6], abs=bound)
    assert precision == "fp32" or found != pytest.approx(alone[0][:6], abs=1e-5)


def test_shards_train_in_parts_and_recompute(alone, tmp_path):
    found = train(tmp_path, "--recompute", "--accumulate", "2", ranks=2, stop=10)
    assert found == pytest.approx(alone[0][:10], abs=1e-4)


def test_two_then_four_then_one_process_go_on_as_one(alone, tmp_path):
    train(tmp_path, ranks=2, stop=4)
    train(tmp_path, ranks=4, stop=8, shards=2)
    assert len(list(latest(tmp_path).glob("*.safetensors"))) == 4
    found = train(tmp_path, ranks=1)
    assert (tmp_path / STEPS).read_text().split() == [
        str(step) for step in (*range(4), *range(3, 8), *range(7, 20))
    ]
    assert found == pytest.approx(alone[0], abs=1e-4)
    close(tmp_path, alone[1])
