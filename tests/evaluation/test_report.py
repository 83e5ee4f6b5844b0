"""Measures and pages of made-up records."""

import math
from dataclasses import replace

import pytest
import torch

from imagen_video import presets
from imagen_video.data.stickers import render, scene_for
from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.data.stickers.evaluation import FIELDS
from imagen_video.data.stickers.motions import SOLID_MOTIONS
from imagen_video.evaluation.page import gallery
from imagen_video.evaluation.prompts import Prompt
from imagen_video.evaluation.records import Record, Tools, looked_at
from imagen_video.evaluation.reference import DataReference, StickerReference, rotation
from imagen_video.evaluation.report import Report, by_position
from imagen_video.evaluation.scores import (
    Measure,
    by_halves,
    fidelities,
    frechet,
    mean_of,
    questions,
    share_of,
    stacked,
)
from imagen_video.evaluation.upsampled import own_psnr
from imagen_video.evaluation.variety import Shown, neighbours, varieties, within_prompts
from imagen_video.metrics.features import frame_extractor
from imagen_video.metrics.frechet import Moments, Target
from imagen_video.metrics.measures import wilson
from imagen_video.metrics.panel import SHIPPED, Panel
from imagen_video.sampling import save_video
from imagen_video.video import VideoFormat

DUCK = {"concept": "duck", "motion": "rising"}


def record(seed: int, prompt: str, asked: dict[str, str] = DUCK) -> Record:
    rows = torch.randn(16, 6, generator=torch.Generator().manual_seed(seed))
    return Record(rows, rows[0], torch.zeros(0, 0), {"prompt": prompt, "asked": asked})


def test_variety_of_a_prompt_is_of_the_videos_that_have_it():
    samples = [record(0, "a"), record(1, "b"), record(0, "a"), record(2, "c")]
    truth = [record(i, "another caption") for i in range(4)]
    _, one = varieties(samples, truth, proxy=True, seed=0)
    assert one.name == "Vendi of one prompt" and one.of == 1
    assert one.value == pytest.approx(1)  # the same video twice
    assert one.truth is not None and one.truth > 1.01
    assert len(varieties(samples[1:], truth[1:], proxy=True, seed=0)) == 1
    # True clips of anything else tell nothing of one prompt.
    others = [record(i, "another caption", {}) for i in range(4)]
    assert varieties(samples, others, proxy=True, seed=0)[1].truth is None


def test_few_videos_have_an_interval_where_halves_suffice():
    rows = torch.arange(8.0)[:, None]
    found = by_halves(lambda half: rows[half].mean().item(), 8, 0, fewest=4)
    low, high = found["low"], found["high"]
    assert low is not None and high is not None and low < found["value"] == 3.5 < high
    assert by_halves(lambda half: rows[half].mean().item(), 8, 0, fewest=5) == {"value": 3.5}
    share = by_halves(
        lambda half: rows[half].mean().item() / 4, 8, 0, fewest=4, least=0.0, most=1.0
    )
    assert share["high"] == 1.0


def test_the_interval_of_a_mean_holds_the_truth_in_19_of_20():
    draws = torch.rand(1000, 8, generator=torch.Generator().manual_seed(0)) ** 2
    found = [mean_of("x", row, [], better="lower") for row in draws.tolist()]
    held = sum(m.low is not None and m.low <= 1 / 3 <= (m.high or 0) for m in found)
    assert held / 1000 == pytest.approx(0.95, abs=0.03)


def test_none_of_few_videos_is_not_surely_none_of_all():
    real = Shown(torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), [""] * 60)
    far = Shown(real.rows[:50] + 100, [f"prompt {i}" for i in range(50)])
    found = {m.name: m for m in neighbours(far, None, real, proxy=True, seed=0)}
    for name, of in (("precision", 50), ("recall", 60), ("coverage", 60)):
        assert (found[name].low, found[name].high) == (0, wilson(0, of)[1])


def test_videos_of_one_prompt_make_no_interval_narrower():
    values = torch.rand(12, generator=torch.Generator().manual_seed(0)).tolist()
    once, often = (mean_of("x", values * n, [], better="lower", repeats=n) for n in (1, 4))
    assert (often.low, often.high) == pytest.approx((once.low, once.high)) and often.of == 48
    right = [value > 0.5 for value in values]
    once, often = (share_of("x", right * n, [], repeats=n) for n in (1, 4))
    apart = share_of("x", right * 4, [])
    assert often.high - often.low > 1.5 * (apart.high - apart.low) and often.value == once.value
    rows = torch.randn(12, 3, 5, generator=torch.Generator().manual_seed(1))
    target = Target(Moments.of(torch.randn(99, 5, generator=torch.Generator().manual_seed(2))))
    once, often = (
        frechet("F", (rows.repeat(n, 1, 1), None), target, proxy=True, seed=0, repeats=n)[0]
        for n in (1, 4)
    )
    assert often.high - often.low > 0.8 * (once.high - once.low)
    assert often.value == pytest.approx(once.value, rel=0.05)


def test_videos_of_one_prompt_alone_have_an_interval():
    """Its videos are drawn then: there is no other prompt."""
    target = Target(Moments.of(rows_of(200)))
    found = [
        frechet("F", (rows_of(12)[:, None], None), target, proxy=True, seed=0, repeats=n)[0]
        for n in (1, 12)
    ]
    assert found[0] == found[1]
    mean = mean_of("m", [1.0, 2.0, 4.0], [], better="higher", repeats=3)
    assert mean.low is not None and mean.high is not None and mean.low < mean.value < mean.high


def rows_of(count: int) -> torch.Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(count))


def test_frames_that_are_alike_do_not_tell_of_endless_videos():
    generator = torch.Generator().manual_seed(0)
    target = Target(Moments.of(torch.randn(4000, 8, generator=generator)))
    for videos, known in ((24, False), (40, True)):
        still = torch.randn(videos, 1, 8, generator=generator).expand(-1, 16, -1)
        rows = still + 0.01 * torch.randn(videos, 16, 8, generator=generator)
        found = frechet("F", (rows, None), target, proxy=True, seed=0)
        assert [m.name for m in found] == ["F", "F, endless"][: 1 + known]


def test_the_interval_of_vendi_is_as_wide_as_it_varies():
    """Over samples drawn anew it spreads so much."""
    generator = torch.Generator().manual_seed(0)

    def found() -> Measure:
        rows = torch.randn(64, 1, 4, generator=generator) * torch.tensor([3.0, 1.0, 1.0, 0.3])
        rows = rows.expand(-1, 16, -1)
        of = [replace(record(0, "a"), frames=still) for still in rows]
        return varieties(of, [], proxy=True, seed=0)[0]

    drawn = [found() for _ in range(40)]
    spread = 1.96 * torch.tensor([m.value for m in drawn]).std().item()
    half = sum(m.high - m.low for m in drawn if m.high and m.low) / len(drawn) / 2
    assert half == pytest.approx(spread, rel=0.35)
    assert all(m.low and m.high and m.low < m.value < m.high for m in drawn)


def test_positions_are_numbered_as_the_frames_of_the_video():
    samples, truth = ([record(i + j, "a") for i in range(5)] for j in (0, 9))
    target = Target(Moments.of(torch.cat([r.frames for r in truth])))
    found = by_position(target, (stacked(samples), stacked(truth)), 128, proxy=True, seed=0)
    assert [place.frame for place in found] == list(range(7, 128, 8))
    assert all(place.truth is not None and place.proxy for place in found)
    assert found[1].fid == pytest.approx(target.of(torch.stack([r.frames[1] for r in samples])))
    assert all(place.low < place.fid < place.high for place in found)
    assert by_position(target, (stacked(samples), None), 128, proxy=True, seed=0)[0].truth is None


@pytest.mark.parametrize(("count", "each"), [(2, 0), (3, 1), (8, 2), (20, 3)])
def test_the_gallery_has_best_median_and_worst(tmp_path, count, each):
    ranking = [
        {"index": i, "prompt": "a", "right": i / count, "wrong": {}} for i in range(count)
    ]  # from worst to best
    for i in range(count):
        (tmp_path / f"{i:05}.mp4").write_bytes(b"video")
    report = Report(settings={}, sections=[], ranking=ranking, notes=[])
    found = {
        name: [row["index"] for row in rows] for name, rows in gallery(report, tmp_path).items()
    }
    if not each:
        assert found == {"Samples": [1, 0]}
        return
    assert found["Best"] == list(range(count))[::-1][:each]
    assert found["Worst"] == list(range(each))[::-1]
    assert len(found["Median"]) == each
    middle = sum(found["Median"]) / each
    assert abs(middle - (count - 1) / 2) <= 1


def test_a_rotation_is_judged_by_its_views_alone():
    """The network of the flat motions has an answer too, of which its accuracy says nothing."""
    asked = {"concept": "duck", "style": "3D render", "background": "blue"}
    asked["motion"] = SOLID_MOTIONS[0]
    clip = render(scene_for(**asked, seed=1), VideoFormat(16, 24, 40, 3.0))
    frames = frame_extractor("proxy", "cpu")
    tools = Tools(frames, frames, panel=Panel.load(SHIPPED, COLOURS), rotation=rotation)
    facts = tools.record(clip, asked=asked).facts
    assert facts["asked"]["rotation"] == facts["answers"]["rotation"] == asked["motion"]
    assert "motion" not in questions(
        [Record(torch.zeros(1, 1), torch.zeros(1), torch.zeros(0, 0), facts)]
    )


def test_true_clips_of_a_word_show_that_word():
    reference = StickerReference([Prompt("the word", {"word": "Comet"}), Prompt("a thing", {})])
    small, large = (VideoFormat(4, side, 2 * side, 3.0) for side in (24, 96))
    word = reference.clip(2, small, range(4))
    assert word.attributes["word"] == "COMET" and set(word.attributes) == {"background", "word"}
    assert '"COMET"' in word.caption
    assert (
        word.caption
        == reference.clip(2, large, range(4)).caption
        != reference.clip(0, small, range(4)).caption
    )
    assert set(reference.clip(1, small, range(4)).attributes) == set(FIELDS)


def test_what_is_looked_at_is_what_temporal_stages_made():
    """Of every stage of the cascade: none of these frames was given to it."""
    assert looked_at(16) == list(range(16)) and looked_at(4) == [0, 1, 2, 3]
    for spec in presets.mini().stages:
        if spec.kind == "tsr":
            assert all(frame % spec.time_factor for frame in looked_at(spec.output.frames))
    reference, format = StickerReference([Prompt("a", {})]), VideoFormat(32, 24, 40, 6.0)
    whole = reference.clip(0, format, range(32)).video
    assert torch.equal(reference.clip(0, format, looked_at(32)).video, whole[1::2])


def test_a_temporal_stage_is_measured_on_its_own_frames():
    spec = presets.mini().stage("tsr1")
    truth = torch.full((32, 3, 8, 8), 100, dtype=torch.uint8)
    made = truth.clone()
    made[1::2] += 10
    assert own_psnr(made, truth, spec) == pytest.approx(20 * math.log10(255 / 10), abs=1e-3)
    assert own_psnr(made, truth, presets.mini().stage("ssr1")) > own_psnr(made, truth, spec) + 3


def test_a_clip_without_a_flaw_outweighs_no_other():
    facts = {"psnr": 99.0, "ssim": 1.0, "vmaf": 97.5}
    some = [
        replace(record(i, "a"), facts=facts | {"psnr": psnr}) for i, psnr in enumerate((99.0, 30.0))
    ]
    found = {measure.name: measure.value for measure in fidelities(some, 1)}
    assert found == {"psnr": 45, "ssim": 1, "vmaf": 97.5}


def test_seeds_of_one_prompt_cover_its_true_clips_or_do_not():
    generator = torch.Generator().manual_seed(0)
    near, far = (
        torch.randn(2, 12, 4, generator=generator) + torch.tensor([0.0, 50.0])[:, None, None]
    )
    of = ["a"] * 12 + ["b"] * 12
    real = Shown(torch.cat([near, far]), of)
    same = torch.cat([near[:1].expand(12, -1) + 1e-3, far + 0.1])
    found = {m.name: m for m in within_prompts(Shown(same, of), real, real, proxy=True)}
    assert found["coverage of one prompt"].value < 0.8 and found["coverage of one prompt"].of == 2
    assert found["coverage of one prompt"].truth == 1
    few = real.chosen(torch.tensor([0, 1, 12]))
    with pytest.warns(UserWarning, match="give --seeds 6 and --reference-clips 12"):
        assert not within_prompts(few, None, real, proxy=True)


def test_a_reference_knows_when_it_repeats(tmp_path):
    for i in range(5):
        frames = torch.full((16, 3, 24, 40), 40 * i, dtype=torch.uint8)
        save_video(tmp_path / f"{i}.mp4", frames, fps=3.0, metadata={})
    (tmp_path / "0.txt").write_text("a grey wall")  # distances need no captions
    reference = DataReference.of([str(tmp_path)], tmp_path / "out")
    assert [reference.repeats(count) for count in (1, 4, 6)] == [False, False, True]
