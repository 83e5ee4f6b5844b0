"""The command line as a user meets it: processes of its own, real files."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import tyro
from forked import imagen_video as run  # pyright: ignore
from PIL import Image

from imagen_video.cli import KINDS
from imagen_video.video import read_video
from imagen_video.weights import load_stage


@pytest.fixture(scope="module")
def model(tiny, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny.save_pretrained(folder)
    return folder


def test_help_comes_at_once():
    command = [sys.executable, "-m", "imagen_video", "--help"]
    subprocess.run(command, capture_output=True)  # compiled files are there from now on
    took = []
    for _ in range(3):  # another test may hold the core for a while
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        took.append(time.monotonic() - start)
    assert min(took) < 1
    assert done.returncode == 0
    assert "generate" in done.stdout


COMPLETE = """
source "$1"
shift
COMP_WORDS=(imagen-video "$@") COMP_CWORD=$#
_tyro_imagen_video
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_commands_and_their_options(tmp_path):
    script = tmp_path / "imagen-video"
    assert run("--tyro-write-completion", "bash", script).returncode == 0
    subprocess.run(["bash", "-n", script], check=True)

    def completed(*words: str) -> set[str]:
        command = ["bash", "-c", COMPLETE, "bash", str(script), *words]
        return set(subprocess.check_output(command, text=True).split())

    assert completed("") == KINDS.keys() | {"-h", "--help"}
    assert completed("generate", "--un") == {"--until"}


def test_generate_writes_every_stage_and_says_what_it_made(model, tmp_path):
    output = tmp_path / "made" / "cat.mp4"
    done = run(
        "generate", "a cat", "a dog", "--model", model, "--seed", 5, "--save-stages", "-o", output
    )
    assert done.returncode == 0, done.stderr
    names = {path.name for path in output.parent.iterdir()}
    stages = ("base", "tsr1", "ssr1", "ssr2", "tsr2", "tsr3")
    for i in (0, 1):
        expected = [f"cat-{i}"] + [f"cat-{i}.{stage}" for stage in stages]
        assert names >= {f"{name}{end}" for name in expected for end in (".mp4", ".json")}
    clip = read_video(output.with_stem("cat-1"))
    assert clip.frames.shape == (32, 3, 64, 96)
    assert clip.fps == 24
    assert (clip.metadata["prompt"], clip.metadata["seed"]) == ("a dog", 5)
    assert "32 frames of 96x64 at 24 fps" in done.stdout
    assert "base" in done.stderr  # a bar a stage


def test_generate_continues_from_a_saved_stage(model, tmp_path):
    first, second = tmp_path / "low.mp4", tmp_path / "high.mp4"
    assert (
        run("generate", "a cat", "--model", model, "--until", "ssr2", "-o", first).returncode == 0
    )
    done = run(
        "generate", "a cat", "--model", model, "--from", "tsr2", "--input", first, "-o", second
    )
    assert done.returncode == 0, done.stderr
    assert read_video(second).frames.shape == (32, 3, 64, 96)


def test_prompts_from_a_file(model, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\n\na dog\n")
    done = run(
        "generate", "--prompts-file", prompts, "--model", model, "--until", "base",
        "-o", tmp_path / "v.mp4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.glob("*.mp4")} == {"v-0.mp4", "v-1.mp4"}


def test_upscale_keeps_every_frame(model, tmp_path):
    small = tmp_path / "small.mp4"
    assert (
        run("generate", "a cat", "--model", model, "--until", "ssr1", "-o", small).returncode == 0
    )
    done = run("upscale", small, "--model", model, "-o", tmp_path / "large.mp4")
    assert done.returncode == 0, done.stderr
    clip = read_video(tmp_path / "large.mp4")
    assert clip.frames.shape == (8, 3, 32, 48)
    assert clip.fps == 6
    facts = json.loads((tmp_path / "large.json").read_text())
    assert facts["source"] == str(small) and facts["stages"] == ["ssr3"]
    assert {"seed", "steps", "version", "spec"} <= facts.keys()


def test_train_twice_goes_on_where_it_stopped(tmp_path):
    words = ("train", "--preset", "tiny", "--stage", "ssr1", "--steps", 6, "--out", tmp_path)
    assert run(*words, "--minutes", "0").returncode == 0
    assert json.loads((tmp_path / "stage.json").read_text())["name"] == "ssr1"
    again = run(*words)
    assert again.returncode == 0
    assert "| 1/6 [" in again.stderr  # the bar starts where the first run stopped
    assert (tmp_path / "sheets" / "step-000006.png").exists()


def test_training_begins_with_the_weights_it_is_given_once(model, tmp_path):
    words = ("train", "--preset", "tiny", "--stage", "base", "--steps", 2, "--out", tmp_path)
    base = model / "base"
    first = run(*words, "--init-from", base, "--minutes", 0)
    assert first.returncode == 0 and f"weights are those of {base}" in first.stderr
    given, moved = load_stage(base).unet.state_dict(), load_stage(tmp_path).unet.state_dict()
    apart = torch.stack([(moved[name].float() - w).abs().max() for name, w in given.items()])
    assert 0 < apart.max() < 0.02  # one step, and the rounding to bfloat16
    again = run(*words, "--init-from", base)
    assert again.returncode == 0 and "| 1/2 [" in again.stderr and "those of" not in again.stderr
    assert f"{tmp_path} goes on; --init-from is of its first step" in again.stderr


def test_a_folder_of_images_alone_trains_a_base(tmp_path):
    """Checked, packed, its captions embedded, and trained on from the tars."""
    for i in range(4):
        Image.new("RGB", (64, 48), (60 * i, 90, 90)).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text(f"shade {i}")
    (tmp_path / "stills.py").write_text(STILLS)
    preset, tars, captions = (
        f"{tmp_path}/stills.py:stills",
        tmp_path / "tars",
        tmp_path / "captions",
    )
    done = run(
        *("data", "check", "--data", tmp_path, "--preset", preset, "--stage", "base"),
        *("--out", tmp_path / "check"),
    )
    assert done.returncode == 0, done.stderr
    assert "4" in done.stdout and list((tmp_path / "check").glob("*.png"))
    done = run("data", "pack", "--data", tmp_path, "--out", tars)
    assert done.returncode == 0 and len(list(tars.glob("*.tar"))) == 1
    done = run("data", "embed", "--data", tars, "--preset", preset, "--out", captions)
    assert done.returncode == 0, done.stderr
    found = list(captions.rglob("captions"))
    words = ("train", "--preset", preset, "--stage", "base", "--data", tars, "--steps", 1)
    done = run(*words, "--captions", found[0], "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "sheets" / "step-000001.png").exists()


STILLS = """
from dataclasses import replace
from imagen_video import presets

def stills():
    base, *others = presets.tiny().stages
    train = replace(base.train, clips=0, image_packs=2)
    return replace(presets.tiny(), stages=(replace(base, train=train), *others))
"""


TEN = Path(__file__).parents[1] / "docs" / "training.md"


def test_the_commands_of_the_training_guide_are_ten_and_are_understood():
    blocks = re.findall(r"^```(?:sh)?\n(.+?)^```", TEN.read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.strip().splitlines()]
    assert len(re.findall(r"^\*\*\d+\.", TEN.read_text(), re.M)) == 10
    asked = [shlex.split(line) for line in lines if "imagen" in line]
    assert len(asked) >= 8
    for words in asked:
        names = [word.rpartition("/")[2].replace("_", "-") for word in words]
        command = words[names.index("imagen-video") + 1 :]
        tyro.extras.subcommand_cli_from_dict(KINDS, args=command)


def test_info_as_table_and_json():
    table = run("info", "mini").stdout
    assert "128x768x1280@24" in table
    assert "temporal attention" in table
    rows = json.loads(run("info", "tiny", "--json").stdout)
    assert rows[0]["stage"] == "base"
    assert all(row["parameters"] > 0 and row["flops_per_call"] > 0 for row in rows)


def test_data_preview(tmp_path):
    done = run("data", "preview", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "preview.png").read_bytes().startswith(b"\x89PNG")
    assert read_video(tmp_path / "preview.mp4").frames.shape[0] > 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate",), "give a prompt"),
        (("generate", "a", "-o", "a.gif"), "must end in .mp4"),
        (("generate", "a", "-o", "/proc/nowhere/a.mp4"), "/proc/nowhere"),
        (("generate", "a", "--model", "/nowhere"), "give 'mini', a folder"),
        (("generate", "a", "--until", "ssr9", "-o", "out.mp4"), "no stage 'ssr9'"),
        (("generate", "a", "--from", "ssr1", "--input", "no.mp4"), "no.mp4"),
        (("upscale", "no.mp4"), "no.mp4"),
        (("train", "--stage", "x", "--out", "o", "--preset", "tiny"), "no stage 'x'"),
        (("train", "--stage", "x", "--out", "o", "--out", "p"), "--out is given twice"),
        (("train", "--stage", "base", "--out", "o", "--shards", 0), "in 0 shards"),
        (
            ("train", "--stage", "base", "--out", "o", "--threads", 0),
            "must lie in 1..1024, got 0",
        ),
        (
            ("train", "--stage", "all", "--slurm", "s", "--out", "o", "--accumulate", 0),
            "accumulate",
        ),
        (("data", "embed", "--data", ".", "--device", "xyz"), "no device 'xyz' here"),
        (("data", "pack", "--data", ".", "--tar-megabytes", 0), "a tar holds a byte or more"),
        (("data", "check", "--data", "stickers"), "are drawn when they are asked for"),
        (("data", "check", "--data", "a=2"), "there is no source 'a'"),
        (("export", "nowhere", "--out", "o"), "no folder nowhere"),
        (("data", "carry", "--steps", 0), "steps must be 1 or more"),
        (("info", "huge"), "no preset 'huge'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, message, tmp_path, model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if words[0] == "generate" and "--model" not in words:
        words = (*words, "--model", model)
    done = run(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


BARE = """
import sys
absent = ("transformers", "tokenizers", "resvg_py", "PIL", "av", "tyro", "jaxtyping", "beartype")
sys.modules.update(dict.fromkeys(absent))
from pathlib import Path
from imagen_video import presets
from imagen_video.training.job import JobSpec, train_stage
from imagen_video.training.run import RunSpec
out, captions = map(Path, sys.argv[1:])
for steps in (2, 9):
    job = JobSpec(stage="base", out=out / str(steps), steps=steps)
    train_stage(presets.tiny(), job, RunSpec(captions=captions))
"""


def test_training_needs_no_encoder_and_no_drawing_tool_beside_what_was_carried(tmp_path):
    carried, out = tmp_path / "carried", tmp_path / "run"
    done = run("data", "carry", "--preset", "tiny", "--steps", "2", "--out", carried)
    assert done.returncode == 0, done.stderr

    command = [sys.executable, "-c", BARE, str(out), str(carried / "captions")]
    environment = os.environ | {"IMAGEN_VIDEO_CACHE": str(carried)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    # Captions of two steps were carried, which longer runs find too few.
    assert done.returncode == 1 and "does not hold" in done.stderr
    assert (out / "2" / "sheets" / "step-000002.png").is_file(), done.stderr
    whitened = load_stage(out / "2").unet.text_in.weight.diag().float()
    assert whitened.mean() > 1.2  # it began as the identity


def test_a_reader_that_has_seen_enough_is_no_error():
    command = [sys.executable, "-m", "imagen_video", "info", "tiny"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None and run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 128 + signal.SIGPIPE
