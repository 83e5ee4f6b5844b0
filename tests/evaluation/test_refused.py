"""What an evaluation refuses, in one line and before any work."""

import json
from dataclasses import replace

import pytest
import torch
from noise import videos  # pyright: ignore

from imagen_video.distributed import Ranks
from imagen_video.evaluation.prompts import Prompt, prompts_of
from imagen_video.evaluation.records import Record, Tools
from imagen_video.evaluation.run import Column, Counts, Evaluation
from imagen_video.metrics.features import clip_extractor, frame_extractor
from imagen_video.video import VideoFormat


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


def test_a_video_that_was_cut_is_named(inside, tmp_path):
    made = videos(tmp_path / "videos", 2)
    whole = (made / "24-1.mp4").read_bytes()
    (made / "24-1.mp4").write_bytes(whole[:-1500])
    done = inside(made, "--out", tmp_path / "out", "--reference-clips", "2", "--threads", "1")
    assert done.returncode == 2
    assert "24-1.mp4" in done.stderr and "Traceback" not in done.stderr


def test_features_that_are_no_numbers_are_refused(tmp_path):
    nothing = torch.full((16, 4), torch.nan)
    with pytest.raises(ValueError, match=r"not finite \(cascade/base/00007.* look at it, or use"):
        Record(nothing, nothing[0], nothing, {}).save(tmp_path / "cascade/base/00007.safetensors")


def test_other_facts_of_a_prompt_need_another_folder(inside, tmp_path):
    made, prompts = videos(tmp_path / "videos", 2, told=False), tmp_path / "prompts.jsonl"
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
        (
            b'{"prompt": "a", "concept": "gramophone"}',
            "line 1: concept 'gramophone' is nothing that",
        ),
    ],
    ids=["null", "empty", "word", "latin-1", "concept"],
)
def test_prompts_that_cannot_be_read_say_where(tmp_path, content, says):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=says):
        prompts_of(str(tmp_path / "a.jsonl"), None)


def test_prompts_of_videos_are_in_the_order_of_their_numbers(inside, tmp_path):
    made = videos(tmp_path / "videos", 11)
    for i in range(11):
        (made / f"24-{i}.json").write_text(json.dumps({"prompt": f"video {i}"}))
    prompts, told = tmp_path / "prompts.txt", [f"video {i}" for i in range(11)]
    words = (made, "--prompts", prompts, "--reference", "nowhere", "--out", tmp_path / "out")
    for lines, says in (
        (told, "no source 'nowhere'"),
        (told[:5], "holds 5 prompts and"),
        ([*told[:2], told[10], *told[2:10]], "24-2.mp4 is of 'video 2' as the file beside it"),
    ):
        prompts.write_text("\n".join(lines))
        done = inside(*words)
        assert done.returncode == 2 and says in done.stderr


def test_videos_of_anything_are_not_compared_with_stickers(inside, tmp_path):
    made = videos(tmp_path / "videos", 2, told=False)
    (tmp_path / "prompts.txt").write_text("a street in the rain\na dog")
    done = inside(made, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out")
    assert done.returncode == 2 and "give --reference" in done.stderr


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
