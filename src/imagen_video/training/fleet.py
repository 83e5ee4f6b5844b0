"""The stages of a cascade trained as jobs of their own: here, in turn or side by side, or by Slurm
(the paper trains all seven in parallel: none needs another)."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from imagen_video.files import replacing
from imagen_video.index import SPEC
from imagen_video.spec import CascadeSpec
from imagen_video.training.run import NODE, noting_interrupt, ranks_for, with_steps
from imagen_video.training.watch import read_log

# What a job says, and the line with which it begins.
SAID, BEGUN = "train.txt", "--- imagen-video train ---"
# Seconds between two looks at the jobs.
LOOK = 1.0


@dataclass(frozen=True)
class Job:
    """One stage: its command below `python -m imagen_video`, its folder, its length and batch."""

    stage: str
    arguments: tuple[str, ...]
    out: Path
    steps: int
    rows: int


def jobs_of(
    cascade: CascadeSpec,
    out: Path,
    arguments: Sequence[str],
    *,
    steps: int | None,
    init_from: Path | None = None,
) -> list[Job]:
    """One job a stage, below `out`; `arguments` are what all of them are given besides.

    Each starts from its own folder below `init_from`; ValueError where there is none.
    """
    return [
        Job(
            stage.name,
            (
                *("train", "--stage", stage.name, "--out", str(out / stage.name)),
                *(_beginning(init_from, stage.name) if init_from else ()),
                *arguments,
            ),
            out / stage.name,
            with_steps(stage, steps).train.steps,
            stage.train.clips + stage.train.image_packs,
        )
        for stage in cascade.stages
    ]


def _beginning(init_from: Path, stage: str) -> tuple[str, str]:
    folder = init_from / stage
    if not (folder / SPEC).is_file():
        raise ValueError(
            f"no {SPEC} in {folder}: with --stage all, --init-from is a folder with one a stage, "
            "such as a cascade's"
        )
    return "--init-from", str(folder)


def train_all(jobs: Sequence[Job], devices: Sequence[str]) -> None:
    """Run every job, at most one a device at a time, with a line of progress each.

    What a job says is in train.txt in its folder. ValueError naming the stages that failed, when
    the others have ended; Ctrl-C and SIGTERM stop all of them, and the same call goes on.
    ValueError under torchrun, whose processes would each start all of them.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "--stage all starts a process a stage: run it without torchrun, or take --slurm"
        )
    waiting, free = list(jobs), list(devices)
    running: dict[str, tuple[subprocess.Popen, str, Job]] = {}
    bars = {job.stage: _bar(job, place) for place, job in enumerate(jobs)}
    failed: list[tuple[Job, int]] = []
    try:
        with noting_interrupt() as interrupted:
            while (waiting or running) and not interrupted():
                while waiting and free:
                    job, device = waiting.pop(0), free.pop(0)
                    running[job.stage] = (_start(job, device), device, job)
                time.sleep(LOOK)
                for stage, (process, device, job) in list(running.items()):
                    _show(bars[stage], job, device)
                    if process.poll() is not None:
                        del running[stage]
                        free.append(device)
                        failed += [(job, process.returncode)] if process.returncode else []
    finally:
        for process, _, _ in running.values():
            process.terminate()  # saves, and ends
        for process, _, _ in running.values():
            process.wait()
        for bar in bars.values():
            bar.close()
    if failed:
        raise ValueError(f"{len(failed)} of {len(jobs)} stages failed: {_ends(failed)}")


def _start(job: Job, device: str) -> subprocess.Popen:
    job.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "imagen_video", *job.arguments, "--device", device]
    with open(job.out / SAID, "ab") as said:
        said.write(f"{BEGUN}\n".encode())
        said.flush()
        # Not in the terminal's group: Ctrl-C comes from here, once.
        return subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)


def _bar(job: Job, place: int) -> tqdm:
    return tqdm(total=job.steps, desc=f"{job.stage:>5}", position=place, unit="step")


def _show(bar: tqdm, job: Job, device: str) -> None:
    facts = read_log(job.out, last=4)
    if facts:
        bar.n = facts[-1]["step"]
        known = {name: value for line in facts for name, value in line.items()}
        shown = ("loss", "validation", "clips_per_second")
        bar.set_postfix({"on": device, **{name: known[name] for name in shown if name in known}})


def _ends(failed: Sequence[tuple[Job, int]]) -> str:
    """Every reason once, with the stages that had it."""
    stages: dict[str, list[str]] = {}
    for job, code in failed:
        stages.setdefault(_end_of(job, code), []).append(job.stage)
    return "; ".join(f"{', '.join(names)}: {why}" for why, names in stages.items())


def _end_of(job: Job, code: int) -> str:
    """Why a job failed, as it or its exit code says."""
    if code < 0:
        why = ", as for want of memory" if code == -signal.SIGKILL else ""
        return f"ended by signal {-code} ({signal.strsignal(-code)}){why}"
    lines = (job.out / SAID).read_text(errors="replace").rpartition(BEGUN)[2].splitlines()
    said = [line for line in reversed(lines) if line.strip() and "%|" not in line]  # no progress
    own = [line for line in said if line.startswith("imagen-video: ")]
    return (own or said or ["it said nothing"])[0]


SLURM = """\
#!/bin/bash
# One job a stage; before its time is over each saves and queues again, to go on where it was.
#SBATCH --job-name=imagen-video
#SBATCH --array=0-{last}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@180
#SBATCH --output={said}
#SBATCH --open-mode=append

commands=(
{commands}
)
export TORCHRUN={torchrun}
# As many as share the stage's batch equally.
processes=({processes})
srun --kill-on-bad-exit=1 bash -c 'exec "$TORCHRUN" --shutdown-timeout=170 \\
    --nnodes="$SLURM_NNODES" --nproc-per-node="$0" --rdzv-backend=c10d \\
    --rdzv-id="$SLURM_JOB_ID" --rdzv-endpoint="$(scontrol show hostnames | head -n1):29500" \\
    -m imagen_video '"${{commands[$SLURM_ARRAY_TASK_ID]}}" "${{processes[$SLURM_ARRAY_TASK_ID]}}" &
training=$!
# This stage's alone: of one of them the job's own number is that of the whole array.
job="${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
again() {{
    scancel --signal=TERM "$job"  # the processes save; srun, told itself, kills them
    wait $training
    scontrol requeue "$job"
    exit
}}
trap again TERM
wait $training
"""


def write_slurm(
    path: Path, jobs: Sequence[Job], out: Path, *, shards: int = 1, accumulate: int = 1
) -> None:
    """Write a batch script that trains every job on a node of GPUs.

    ValueError where a batch cannot be shared by processes in such shards and parts.
    """
    out.mkdir(parents=True, exist_ok=True)  # Slurm makes no folder for what jobs say
    commands = [
        "    " + shlex.quote(shlex.join([*job.arguments, "--device", "cuda"])) for job in jobs
    ]
    processes = [ranks_for(j.rows, NODE, shards=shards, accumulate=accumulate) for j in jobs]
    text = SLURM.format(
        last=len(jobs) - 1,
        said=shlex.quote(f"{out}/slurm-%A-%a.txt"),
        commands="\n".join(commands),
        processes=" ".join(map(str, processes)),
        torchrun=shlex.quote(str(Path(sys.executable).with_name("torchrun"))),
    )
    with replacing(path) as temporary:
        temporary.write_text(text)
