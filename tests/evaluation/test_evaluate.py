"""The whole evaluation on a random tiny cascade: a command, its records, its report, its page."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import command, fork, imagen_video, together  # pyright: ignore
from noise import videos  # pyright: ignore
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from imagen_video.cli.evaluate import Evaluate, run_evaluate
from imagen_video.evaluation.asked import EvaluationSpec, tools_of
from imagen_video.evaluation.prompts import Prompt, prompts_of
from imagen_video.evaluation.reference import StickerReference
from imagen_video.evaluation.videos import _in_turn
from imagen_video.sampling import save_video
from imagen_video.video import VideoFormat

SMALL = ["--until", "tsr1", "--count", "2", "--reference-clips", "4", "--threads", "1"]


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
    for name in ("FID", "FVD"):
        rest = own[f"{name} in the cascade"] - own[f"{name} alone"]
        assert own[f"{name} inherited"] == pytest.approx(rest)
    assert 0 < own["FID added"] < own["FID alone"]
    assert own["psnr"] < own["interpolated"]  # a random network beats nothing
    settings = report["settings"]
    assert settings["frames"]["weights"] == "579344248a93e230"
    assert "160x160" in settings["frames"]["resize"]
    assert settings["computed"]["device"] == "cpu"
    assert settings["computed"]["dtype"] in ("float32", "bfloat16")
    assert settings["seed"] == 0 and len(settings["asked"]) == 2
    assert any("--count" in note for note in report["notes"])


def test_a_killed_evaluation_goes_on(folder, whole, tmp_path):
    words = ("evaluate", str(folder), *SMALL, "--out", str(tmp_path))
    (first,) = fork(command, *words, said=tmp_path / "said")
    while not list(tmp_path.glob("records/*/*/00001.safetensors")):
        assert first.is_alive()
        time.sleep(0.05)
    first.kill()
    first.join()
    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("records/**/*.safetensors")}
    done = imagen_video(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FID (proxy)" in done.stdout
    again = {p for p in made if p.stat().st_mtime_ns != made[p]}
    assert len(again) <= 2  # no more than the video that was being made
    assert told(tmp_path) == told(whole)


def test_two_processes_find_what_one_does(folder, whole, tmp_path):
    words = ("evaluate", str(folder), *SMALL, "--out", str(tmp_path))
    together(command, *words, said=tmp_path / "said", ranks=2)
    assert told(tmp_path) == told(whole)


def test_a_record_that_was_deleted_is_made_again(inside, folder, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "again")
    lost = tmp_path / "again" / "records" / "cascade" / "base" / "00000.safetensors"
    lost.unlink()
    done = inside(folder, *SMALL, "--out", tmp_path / "again")
    assert done.returncode == 0 and lost.is_file()
    assert told(tmp_path / "again") == told(whole)


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
    assert "holds no features of 8x16x24@6" in done.stderr
    assert not (tmp_path / "ssr1").exists()  # before anything is made


def test_features_of_another_network_are_no_reference(inside, folder, whole, tmp_path):
    kept = tmp_path / "kept.safetensors"
    with safe_open(whole / "reference.safetensors", framework="pt") as file:
        metadata = file.metadata()
    metadata["facts"] = metadata["facts"].replace("579344248a93e230", "0" * 16)
    save_file(load_file(whole / "reference.safetensors"), kept, metadata=metadata)
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


def test_other_settings_need_another_folder(inside, folder, whole):
    done = inside(folder, *SMALL, "--out", whole, "--seed", "7")
    assert done.returncode == 2
    assert "another seed" in done.stderr and "--out" in done.stderr


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


def test_true_clips_fit_their_prompts_and_others_without_captions(inside, tmp_path):
    """Rendered as mp4, against a folder of one's own videos of which nobody says what they show."""
    true = StickerReference(prompts_of("stickers", 4))
    for i in range(12):
        clip = true.clip(i, VideoFormat(16, 48, 80, 3.0), range(16))
        path = tmp_path / ("own" if i > 3 else "made") / f"{i}.mp4"
        path.parent.mkdir(exist_ok=True)
        save_video(path, clip.video, fps=3.0, metadata={"prompt": true.prompts[i % 4].text})
        if i > 3:
            path.with_suffix(".json").unlink()
    words = ["--reference", tmp_path / "own", "--reference-clips", 4, "--threads", 1]
    done = inside(tmp_path / "made", "--out", tmp_path / "out", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    (section,) = told(tmp_path / "out")["sections"]
    measures = {m["name"]: m for m in section["measures"]}
    assert measures["R-precision of 4"]["value"] == 100
    for question in ("background", "motion", "concept"):
        assert measures[question]["value"] == 100
    assert math.isfinite(measures["KID"]["value"])
    # Of the same world, so as near as true clips are.
    assert measures["FID"]["value"] < 2 * measures["FID"]["truth"]


def test_videos_of_one_prompt_are_its_seeds():
    paths, prompts = (
        [Path(name) for name in "abcd"],
        [Prompt(text) for text in ("x", "x", "y", "y")],
    )
    order, different = _in_turn(paths, prompts)
    assert [path.name for path in order] == ["a", "c", "b", "d"]
    assert [prompt.text for prompt in different] == ["x", "y"]
    untold = [Prompt("x"), Prompt(""), Prompt("x"), Prompt("")]
    assert _in_turn(paths, untold) == (paths, untold)
    with pytest.warns(UserWarning, match="some prompts have more videos than others"):
        assert _in_turn(paths[:3], prompts[:3]) == (paths[:3], prompts[:3])


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
      const drawn = pictures.filter((p) => p.naturalWidth > 0);
      const plots = drawn.filter((p) => p.closest(".plots")).length;
      const strips = drawn.length - plots;
      const tables = document.querySelectorAll("table.confusion").length;
      const parts = [...document.querySelectorAll("h3")].map((h) => h.textContent).join();
      document.body.dataset.found =
        `${playing} videos, ${plots} plots, ${strips} strips, ${tables} tables; ${parts}`;
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
    wrong = sum(bool(row["wrong"]) for row in told(whole)["ranking"])
    tables = sum(len(section["confusions"]) for section in told(whole)["sections"])
    found = f"2 videos, 2 plots, {wrong} strips, {tables} tables; Samples,tsr1 from true low"
    assert wrong and tables and f'data-found="{found}' in done.stdout
    fid = next(m for m in told(whole)["sections"][0]["measures"] if m["name"] == "FID")
    for words in (f"{fid['value']:.4g}", f"{fid['low']:.4g} to", "a duck moving left to right"):
        assert words in done.stdout
