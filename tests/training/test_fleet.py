"""All stages from one command: each trains in its folder, and what fails is named."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import imagen_video  # pyright: ignore
from safetensors.torch import load_file

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.files import alone_in
from imagen_video.index import located
from imagen_video.stage import Stage
from imagen_video.training.checkpoint import facts_of, latest
from imagen_video.training.export import export_cascade
from imagen_video.training.fleet import Job, jobs_of, train_all, write_slurm
from imagen_video.training.run import with_steps
from imagen_video.weights import load_stage, save_stage

OPTIONS = ["--preset", "tiny", "--steps", "2", "--threads", "1", "--sheet-minutes", "60"]


def command(*arguments: str) -> subprocess.CompletedProcess:
    return imagen_video("train", *arguments)


SHORT = """
from dataclasses import replace
from imagen_video import presets
def short():
    tiny = presets.tiny()
    return replace(tiny, stages=tiny.stages[:3])
"""


def test_torchrun_would_start_every_stage_again(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="without torchrun"):
        train_all(jobs_of(presets.tiny(), tmp_path, [], steps=2), ["cpu"])
    assert not any(tmp_path.iterdir())


def test_all_stages_train_side_by_side(tmp_path):
    (tmp_path / "short.py").write_text(SHORT)
    options = ["--preset", f"{tmp_path}/short.py:short", *OPTIONS[2:]]
    done = command("--stage", "all", "--out", str(tmp_path), "--device", "cpu", "cpu", *options)
    assert done.returncode == 0, done.stderr
    names = [stage.name for stage in presets.tiny().stages[:3]]
    assert all(facts_of(latest(tmp_path / name))["step"] == 2 for name in names)
    for name in names:
        assert re.search(rf"{name}: 100%.*2/2", done.stderr), name


def test_a_stage_that_fails_is_named_and_the_others_end(tmp_path):
    spec = presets.tiny()
    two = replace(spec, stages=spec.stages[:2])
    jobs = jobs_of(two, tmp_path, ["--preset", "tiny", "--workers", "0"], steps=2)
    good = replace(jobs[0], arguments=(*jobs[0].arguments, "--steps", "2"))
    bad = replace(jobs[1], arguments=(*jobs[1].arguments, "--data", "nowhere"))
    with pytest.raises(ValueError, match=r"1 of 2 stages failed: tsr1: .* no source 'nowhere'"):
        train_all([good, bad], ["cpu"])
    assert facts_of(latest(tmp_path / "base"))["step"] == 2


def test_a_reason_that_stages_share_is_told_once_and_a_killed_one_as_such(tmp_path, monkeypatch):
    """By a program in the place of Python that is killed, or ends after a bar of progress."""
    jobs = jobs_of(presets.tiny(), tmp_path, [], steps=2)[:3]
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/bash\nprintf 'imagen-video: no data of imagen-video train\\n  50%%|## | 1/2' >&2\n"
        '[[ "$*" == *tsr1* ]] && kill -KILL $$\nexit 2'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(ValueError, match="3 of 3 stages failed") as told:
        train_all(jobs, ["cpu"])
    said = str(told.value)
    assert "base, ssr1: imagen-video: no data of imagen-video train" in said
    assert "tsr1: ended by signal 9 (Killed), as for want of memory" in said
    program.write_text("#!/bin/bash\necho 'RuntimeError: CUDA out of memory' >&2\nexit 1")
    with pytest.raises(ValueError, match=r"base, tsr1, ssr1: RuntimeError: CUDA") as told:
        train_all(jobs, ["cpu"])  # not what was said the time before


@pytest.mark.parametrize(
    ("more", "error"),
    [
        (["--lora", "3"], "give --init-from"),
        (["--accumulate", "7"], "in 7 parts"),
        (["--device", "nowhere"], "no device 'nowhere'"),
        (["--max-bad", "2"], "max_bad is a share"),
        (["--log-every", "0"], "log_every must be above 0"),
    ],
)
def test_what_is_wrong_with_all_stages_is_said_before_any_starts(inside, tmp_path, more, error):
    done = inside("train", "--stage", "all", "--out", tmp_path / "o", *OPTIONS, *more)
    assert done.returncode == 2 and error in done.stderr
    assert not (tmp_path / "o").exists()


def test_sigterm_ends_all_stages_which_go_on_later(tmp_path):
    line = [sys.executable, "-m", "imagen_video", "train", "--stage", "all", "--threads", "1"]
    line += ["--preset", "tiny", "--out", str(tmp_path), "--save-minutes", "0.02"]
    run = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    while latest(tmp_path / "base") is None:
        assert run.poll() is None
        time.sleep(0.1)
    run.terminate()
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    lines = (tmp_path / "base" / "log.jsonl").read_text().splitlines()
    assert facts_of(latest(tmp_path / "base"))["step"] >= json.loads(lines[-1])["step"]
    with alone_in(tmp_path / "base"):  # nobody trains there any more
        pass


FAKES = {
    "srun": 'shift; exec "$@"',
    "scontrol": "echo node1",
    "torchrun": 'printf "%s\\n" "$@"',
}


def on_a_cluster(
    jobs: list[Job], at: Path, monkeypatch: pytest.MonkeyPatch, **texts: str
) -> dict[str, str]:
    """Write train.slurm; the variables of a job of it, with the cluster's programs in its path."""
    programs = at / "my bin"
    programs.mkdir()
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    write_slurm(at / "train.slurm", jobs, at / "out dir")
    for name, does in (FAKES | texts).items():
        (programs / name).write_text(f"#!/bin/bash\n{does}\n")
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "2",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_JOB_ID": "5",  # one of an array has the number of all
        "SLURM_ARRAY_JOB_ID": "5",
    }


def test_the_slurm_script_starts_the_stage_of_its_number(tmp_path, monkeypatch):
    """The script is run by bash; the cluster's own programs are not there, and only tell."""
    jobs = jobs_of(presets.mini(), tmp_path / "out dir", ["--data", "my $clips"], steps=None)
    environment = on_a_cluster(jobs, tmp_path, monkeypatch)
    assert (tmp_path / "out dir").is_dir()  # Slurm fails a job whose output has no folder
    said = subprocess.run(
        ["bash", str(tmp_path / "train.slurm")], capture_output=True, text=True, env=environment
    )
    assert said.returncode == 0, said.stderr
    lines = said.stdout.splitlines()
    assert "--rdzv-endpoint=node1:29500" in lines and "--nproc-per-node=3" in lines
    start = lines.index("train")
    assert tuple(lines[start:]) == (*jobs[2].arguments, "--device", "cuda")
    assert jobs[2].arguments[2] == "ssr1"


def test_the_slurm_script_lets_training_save_and_queues_again(tmp_path, monkeypatch):
    """Slurm tells the script alone, three minutes before the time is over; srun kills on SIGTERM
    what it started, and scancel tells that."""
    jobs = jobs_of(presets.mini(), tmp_path, [], steps=None)
    programs = {
        "torchrun": "trap 'sleep 0.3; echo saved; exit 0' TERM; echo $$ > step; echo started\n"
        "while :; do sleep 0.05; done",
        "srun": "\"${@:2}\" & trap 'kill -KILL $!' TERM; wait $!; wait $!",
        "scancel": '[ "$*" = "--signal=TERM 5_2" ] && kill -TERM $(cat step)',
        "scontrol": '[ "$1" = show ] && echo node1 || echo "$@"',
    }
    environment = on_a_cluster(jobs, tmp_path, monkeypatch, **programs)
    script = ["bash", str(tmp_path / "train.slurm")]
    job = subprocess.Popen(script, stdout=subprocess.PIPE, text=True, env=environment, cwd=tmp_path)
    assert job.stdout is not None and job.stdout.readline() == "started\n"
    job.terminate()
    assert job.communicate(timeout=20)[0].splitlines() == ["saved", "requeue 5_2"]
    assert job.returncode == 0


def test_a_failed_job_of_slurm_fails(tmp_path, monkeypatch):
    jobs = jobs_of(presets.mini(), tmp_path, [], steps=None)
    environment = on_a_cluster(jobs, tmp_path, monkeypatch, torchrun="exit 3")
    assert subprocess.run(["bash", str(tmp_path / "train.slurm")], env=environment).returncode == 3


def test_the_slurm_script_starts_as_many_processes_as_can_share_the_batch(tmp_path):
    path, jobs = tmp_path / "train.slurm", jobs_of(presets.paper(), tmp_path, [], steps=None)
    write_slurm(path, jobs, tmp_path, shards=4, accumulate=2)
    assert "processes=(8 8 8 8 8 8 8)" in path.read_text()
    jobs = jobs_of(presets.mini(), tmp_path, [], steps=None)
    with pytest.raises(ValueError, match=r"a batch of 5 .* 2 shards"):
        write_slurm(path, jobs, tmp_path, shards=2)


def test_every_stage_begins_with_its_own_folder(tmp_path):
    mini = located("mini")
    for job in jobs_of(presets.mini(), tmp_path, [], steps=None, init_from=mini):
        where = job.arguments.index("--init-from")
        assert job.arguments[where + 1] == str(mini / job.stage)
    with pytest.raises(ValueError, match=r"no stage.json in .*base: with --stage all"):
        jobs_of(presets.mini(), tmp_path, [], steps=None, init_from=tmp_path)


def test_slurm_and_many_devices_are_for_all_stages(tmp_path):
    for more in (["--slurm", "a"], ["--device", "cpu", "cpu"]):
        done = command("--stage", "base", "--out", str(tmp_path / "o"), *OPTIONS, *more)
        assert done.returncode == 2 and done.stderr.startswith("imagen-video: ")


def test_what_was_trained_becomes_a_stage_and_a_cascade(tmp_path):
    base = tmp_path / "runs" / "base"
    done = command("--stage", "base", "--out", str(base), *OPTIONS)
    assert done.returncode == 0, done.stderr
    done = imagen_video("export", base, "--out", tmp_path / "stage", "--which", "best")
    assert done.returncode == 0 and "average weights of step 2" in done.stdout, done.stderr
    exported, saved = load_stage(tmp_path / "stage"), load_stage(base)
    state = saved.unet.state_dict()
    assert all(torch.equal(v, state[name]) for name, v in exported.unet.state_dict().items())
    done = imagen_video(
        "export", base, "--out", tmp_path / "raw", "--weights", "trained", "--dtype", "fp32"
    )
    raw = load_stage(tmp_path / "raw").unet.state_dict()
    (shard,) = latest(base).glob("*.safetensors")
    checkpoint = load_file(shard)
    assert all(torch.equal(v, checkpoint[f"weight/{name}"]) for name, v in raw.items())
    done = imagen_video(
        "export", tmp_path / "runs", "--preset", "tiny", "--out", tmp_path / "cascade"
    )
    assert done.returncode == 2 and "tsr1" in done.stderr
    for stage in presets.tiny().stages[1:]:
        save_stage(Stage(stage), tmp_path / "runs" / stage.name)
    done = imagen_video(
        "export", tmp_path / "runs", "--preset", "tiny", "--out", tmp_path / "cascade"
    )
    assert done.returncode == 0, done.stderr
    spec = Cascade.from_pretrained(tmp_path / "cascade").spec
    assert spec.stages[1:] == presets.tiny().stages[1:]
    assert spec.stages[0] == with_steps(presets.tiny().stages[0], 2)  # as it was trained
    (tmp_path / "runs" / "tsr2").rename(tmp_path / "runs" / "other")
    (tmp_path / "runs" / "tsr3").rename(tmp_path / "runs" / "tsr2")
    with pytest.raises(ValueError, match=r"tsr2 is another stage .*: name tsr3, not tsr2; input"):
        export_cascade(tmp_path / "runs", presets.tiny(), tmp_path / "swapped")
