"""The whole evaluation on a random tiny cascade: a command, its records, its report, its page."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from imagen_video.cli import main
from imagen_video.cli.evaluate import Evaluate, run_evaluate
from imagen_video.distributed import Ranks
from imagen_video.evaluation.evaluate import EvaluationSpec, tools_of
from imagen_video.evaluation.prompts import Prompt, prompts_of
from imagen_video.evaluation.records import Tools
from imagen_video.evaluation.run import Column, Counts, Evaluation
from imagen_video.metrics.features import clip_extractor, frame_extractor
from imagen_video.sampling import save_video
from imagen_video.video import VideoFormat

COMMAND = [sys.executable, "-m", "imagen_video", "evaluate"]
SMALL = ["--until", "tsr1", "--count", "2", "--reference-clips", "4", "--threads", "1"]


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("tiny")
    tiny.save_pretrained(path)
    return path


def run(*words, start: list[str] | None = None) -> subprocess.CompletedProcess:
    command = [*(start or COMMAND), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def inside(monkeypatch, capsys):
    """The same command in this process, which has torch loaded already."""

    def run_inside(*words) -> Done:
        monkeypatch.setattr(sys, "argv", ["imagen-video", "evaluate", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        return Done(code, *capsys.readouterr())

    return run_inside


def told(out: Path) -> dict:
    """The report without the times that runs took."""
    report = json.loads((out / "report.json").read_text())
    for section in report["sections"]:
        del section["seconds"]
    return report


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    """Three stages, undisturbed."""
    out = tmp_path_factory.mktemp("whole")
    run_evaluate(
        Evaluate(str(folder), out=out, until="tsr1", count=2, reference_clips=4, threads=1)
    )
    return out


def test_every_stage_is_measured_with_its_settings(whole):
    report = told(whole)
    assert [s["name"] for s in report["sections"]] == ["base", "tsr1"]
    base, tsr1 = report["sections"]
    for section in (base, tsr1):
        measures = {m["name"]: m for m in section["measures"]}
        assert {"FID", "FVD", "KID", "Vendi", "warping", "flicker", "background"} <= set(measures)
        # Random networks make noise: true clips are nearer, and have the colour asked for.
        assert measures["FID"]["truth"] < measures["FID"]["low"] <= measures["FID"]["value"]
        assert measures["FID"]["proxy"] and measures["background"]["truth"] == 100
        assert measures["FID"]["of"] == 2
    assert len(base["by_position"]) == 4 and len(tsr1["by_position"]) == 8
    assert not base["own"]
    own = {m["name"]: m["value"] for m in tsr1["own"]}
    assert own["inherited"] == pytest.approx(own["FID in the cascade"] - own["FID alone"])
    assert own["psnr"] < own["interpolated"]  # a random network beats nothing
    settings = report["settings"]
    assert settings["frames"]["weights"] == "579344248a93e230"
    assert "160x160" in settings["frames"]["resize"]
    assert settings["computed"]["device"] == "cpu"
    assert settings["computed"]["dtype"] in ("float32", "bfloat16")
    assert settings["seed"] == 0 and len(settings["asked"]) == 2
    assert any("--count" in note for note in report["notes"])


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(folder, whole, tmp_path):
    first = subprocess.Popen(
        [*COMMAND, str(folder), *SMALL, "--out", str(tmp_path)], stderr=subprocess.DEVNULL
    )
    while not list(tmp_path.glob("records/*/*/00001.safetensors")):
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("records/**/*.safetensors")}
    done = run(folder, *SMALL, "--out", tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FID (proxy)" in done.stdout
    again = {p for p in made if p.stat().st_mtime_ns != made[p]}
    assert len(again) <= 2  # no more than the video that was being made
    assert told(tmp_path) == told(whole)


@pytest.mark.slow
def test_two_processes_find_what_one_does(folder, whole, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    start = [*torchrun, "--nproc-per-node=2", "-m", "imagen_video", "evaluate"]
    done = run(folder, *SMALL, "--out", tmp_path, start=start)
    assert done.returncode == 0, done.stderr[-3000:]
    assert told(tmp_path) == told(whole)


@pytest.mark.slow
def test_a_record_that_was_deleted_is_made_again(inside, folder, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "again")
    lost = tmp_path / "again" / "records" / "cascade" / "base" / "00000.safetensors"
    lost.unlink()
    done = inside(folder, *SMALL, "--out", tmp_path / "again")
    assert done.returncode == 0 and lost.is_file()
    assert told(tmp_path / "again") == told(whole)


@pytest.mark.slow
def test_references_are_kept_for_other_evaluations(inside, folder, whole, tmp_path):
    kept = whole / "reference.safetensors"
    done = inside(folder, *SMALL, "--out", tmp_path, "--reference", kept)
    assert done.returncode == 0, done.stderr[-3000:]
    assert told(tmp_path)["settings"]["counts"]["reference"] == 4
    for ours, theirs in zip(told(tmp_path)["sections"], told(whole)["sections"], strict=True):
        found = {m["name"]: m for m in ours["measures"]}
        for measure in theirs["measures"]:
            mine = found[measure["name"]]
            assert mine["value"] == pytest.approx(measure["value"], abs=1e-3)
            assert mine["truth"] is None
    done = inside(folder, "--until", "ssr1", "--out", tmp_path / "ssr1", "--reference", kept)
    assert done.returncode == 2
    assert "holds no features of 8x16x24" in done.stderr
    assert not (tmp_path / "ssr1").exists()  # before anything is made


def test_features_of_another_network_are_no_reference(inside, folder, whole, tmp_path):
    kept = tmp_path / "kept.safetensors"
    with safe_open(whole / "reference.safetensors", framework="pt") as file:
        facts = file.metadata()["facts"].replace("579344248a93e230", "0" * 16)
    save_file(load_file(whole / "reference.safetensors"), kept, metadata={"facts": facts})
    done = inside(folder, *SMALL, "--out", tmp_path / "out", "--reference", kept)
    assert done.returncode == 2
    assert "was made by" in done.stderr and "use one extractor" in done.stderr


def test_words_are_not_read_without_a_reader(monkeypatch, tmp_path):
    """As where RapidOCR is not installed: said in the notes, and no column of numbers."""
    monkeypatch.setitem(sys.modules, "rapidocr_onnxruntime", None)
    asked = Prompt("the word OAK", {"word": "OAK"})
    with pytest.warns(UserWarning, match="sh install.sh words"):
        tools = tools_of(EvaluationSpec(), [asked])
    assert tools.words is None
    facts = tools.record(torch.zeros(16, 3, 24, 40, dtype=torch.uint8), asked=asked.facts).facts
    assert "word" not in facts["answers"]


def test_clips_too_short_for_their_features_are_refused_first(tmp_path):
    needy = replace(clip_extractor("proxy"), shortest=10)
    with pytest.raises(ValueError, match=r"base has 8 frames to look at and .* needs 10 or more"):
        Evaluation(
            columns=[Column("base", VideoFormat(8, 24, 40, 3.0))],
            prompts=[Prompt("a duck")],
            counts=Counts(samples=2, reference=2, own=0),
            tools=Tools(frames=frame_extractor("proxy"), clips=needy),
            reference=tmp_path,
            out=tmp_path,
            ranks=Ranks(),
        )


def test_other_settings_need_another_folder(inside, folder, whole):
    done = inside(folder, *SMALL, "--out", whole, "--seed", "7")
    assert done.returncode == 2
    assert "another seed" in done.stderr and "--out" in done.stderr


def videos(folder: Path, count: int, size: tuple[int, int] = (24, 40)) -> Path:
    """Noise, told to be a duck."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    prompt = "a duck moving left to right on a blue background, 3D render"
    for i in range(count):
        frames = torch.randint(0, 256, (16, 3, *size), dtype=torch.uint8, generator=generator)
        path = folder / f"{size[0]}-{i}.mp4"
        save_video(path, frames, fps=3.0, metadata={"prompt": prompt})
    return folder


def test_a_folder_of_videos_is_measured_and_judged(inside, tmp_path):
    made = videos(tmp_path / "videos", 3)
    done = inside(made, "--out", tmp_path / "out", "--reference-clips", "4", "--threads", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    (section,) = told(tmp_path / "out")["sections"]
    measures = {m["name"]: m for m in section["measures"]}
    assert section["format"] == "16x24x40@3"
    assert {"motion", "concept", "style", "background", "fit"} <= set(measures)
    assert measures["background"]["truth"] == 100 and measures["motion"]["truth"] > 50
    assert {a["question"] for a in section["judges"]} >= {"motion", "concept", "style", "match"}
    assert {a["size"] for a in section["judges"]} == {"24x40"}
    assert sum(section["confusions"]["motion"]["moving left to right"].values()) == 3


def test_a_video_that_was_cut_is_named(inside, tmp_path):
    made = videos(tmp_path / "videos", 2)
    whole = (made / "24-1.mp4").read_bytes()
    (made / "24-1.mp4").write_bytes(whole[:-1500])
    done = inside(made, "--out", tmp_path / "out", "--reference-clips", "2", "--threads", "1")
    assert done.returncode == 2
    assert "24-1.mp4" in done.stderr and "Traceback" not in done.stderr


def test_other_facts_of_a_prompt_need_another_folder(inside, tmp_path):
    made, prompts = videos(tmp_path / "videos", 2), tmp_path / "prompts.jsonl"
    words = (made, "--prompts", prompts, "--reference-clips", "2", "--out", tmp_path / "out")
    for ground, code in (("red", 0), ("red", 0), ("green", 2)):
        rows = [{"prompt": f"a video {i}", "background": ground} for i in range(2)]
        prompts.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
        done = inside(*words)
        assert done.returncode == code, done.stderr[-2000:]
    assert "another asked" in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'\n{"prompt": null}', "line 2: expected"),
        (b'{"prompt": " "}', "line 1: expected"),
        (b'{"prompt": "a", "word": "HELLO WORLD"}', "letters A to Z, got 'HELLO WORLD'"),
        (b'{"prompt": "sp\xe4t"}', "no UTF-8"),
    ],
    ids=["null", "empty", "word", "latin-1"],
)
def test_prompts_that_cannot_be_read_say_where(tmp_path, content, says):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        prompts_of(str(tmp_path / "a.jsonl"), None)


def test_one_video_is_no_distribution(inside, folder, tmp_path):
    done = inside(folder, "--count", "1", "--until", "base", "--out", tmp_path)
    assert done.returncode == 2
    assert "two videos or more" in done.stderr


@pytest.mark.parametrize(
    ("make", "words", "says"),
    [
        (lambda at: at.mkdir(), [], "two or more .mp4"),
        (lambda at: videos(at, 1), [], "holds one video"),
        (
            lambda at: videos(videos(at, 1), 1, (32, 40)),
            ["--reference-clips", "2"],
            "videos of one size",
        ),
        (lambda at: None, [], "no cascade and no videos"),
        (lambda at: videos(at, 2), ["--prompts", "nothing.txt"], "no prompts at nothing.txt"),
        (lambda at: videos(at, 2), ["--count", "4"], "made already"),
        (lambda at: videos(at, 2), ["--reference-clips", "1"], "reference_clips must be 2"),
        (lambda at: videos(at, 2), ["--frame-features", "inception.pt"], "no network at"),
        (lambda at: videos(at, 2), ["--clip", "src"], "cannot load AutoModel"),
        (lambda at: videos(at, 2), ["--reference", "nowhere"], "no source 'nowhere'"),
    ],
    ids=[
        "empty",
        "one",
        "mixed",
        "missing",
        "prompts",
        "count",
        "few",
        "inception",
        "clip",
        "data",
    ],
)
def test_bad_input_is_one_line(inside, tmp_path, make, words, says):
    make(tmp_path / "videos")
    done = inside(tmp_path / "videos", "--out", tmp_path / "out", *words)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("imagen-video:")]
    assert says in line
    assert not (tmp_path / "out" / "settings.json").exists()


def browser() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium: install your distribution's package")
    return found


def test_the_page_plays_its_videos_and_needs_nothing_else(whole, tmp_path):
    """In a real browser, alone in an empty folder, with the network off."""
    report = (whole / "report.html").read_text()
    said = """<script>
    const videos = [...document.querySelectorAll("video")];
    const pictures = [...document.images];
    Promise.all([
      ...videos.map((v) => new Promise((done) => {
        if (v.readyState >= 2) done(); else { v.onloadeddata = done; v.onerror = done; }
      })),
      ...pictures.map((p) => p.decode().catch(() => 0)),
    ]).then(() => {
      const playing = videos.filter((v) => v.readyState >= 2 && v.videoWidth > 0).length;
      const drawn = pictures.filter((p) => p.naturalWidth > 0).length;
      document.body.dataset.found = `${playing} videos, ${drawn} plots`;
    });</script>"""
    page = tmp_path / "report.html"
    page.write_text(report + said)
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,1600"]
    command += ["--virtual-time-budget=10000", "--host-resolver-rules=MAP * ~NOTFOUND"]
    env = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, env=env
    )
    # By frame position, and time against distance: three videos are too few for the others.
    assert 'data-found="2 videos, 2 plots"' in done.stdout
    fid = next(m for m in told(whole)["sections"][0]["measures"] if m["name"] == "FID")
    for words in (f"{fid['value']:.4g}", f"{fid['low']:.4g} to", "a duck moving left to right"):
        assert words in done.stdout
