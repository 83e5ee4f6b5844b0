"""Which way of sampling is best: what is tried, what comes first, what is written back."""

import json
import math
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.cli import main
from imagen_video.evaluation.ranking import Row, as_table, draw, front, in_order
from imagen_video.evaluation.report import Section
from imagen_video.evaluation.scores import Measure
from imagen_video.evaluation.sweep import SweepSpec, guidance_of, samplers
from imagen_video.metrics.judge import Accuracy
from imagen_video.spec import GuidanceSpec


def test_guidance_is_written_in_three_ways():
    assert guidance_of("4") == GuidanceSpec(weight=4.0)
    assert guidance_of("15/1:10") == GuidanceSpec(weight=15.0, low=1.0, constant_steps=10)
    assert guidance_of("4[-3,5.5]") == GuidanceSpec(weight=4.0, interval=(-3.0, 5.5))
    assert guidance_of("4", (-10.0, 0.0)) == guidance_of("4[-10,0]", (-3.0, 5.5))
    for wrong in ("", "x", "4/", "4[5]", "15/1", "1.2.3", "."):
        with pytest.raises(ValueError, match="is none of 4"):
            guidance_of(wrong)
    with pytest.raises(ValueError, match="from less to more"):
        guidance_of("4[5,-3]")


def test_every_combination_is_tried_once():
    stage = presets.tiny().stage("ssr1")
    spec = SweepSpec(stage="ssr1", guidance=("0", "2"), steps=(4, 8, 16), aug_snr=(30.0, 50.0))
    found = list(samplers(stage, spec))
    assert len({name for name, _, _ in found}) == len(found) == 12
    assert len({curve for _, curve, _ in found}) == 6
    level = {sampler.aug_logsnr for _, _, sampler in found}
    assert sorted(level) == pytest.approx([3.4012, 3.9120], abs=1e-4)
    spaced = list(samplers(stage, SweepSpec(stage="ssr1", shifts=(-2.0, 0.5))))
    assert [sampler.logsnr_shift for _, _, sampler in spaced] == [-2.0, 0.5]
    assert "shift -2," in spaced[0][0] and len({curve for _, curve, _ in spaced}) == 2
    kinds = SweepSpec(stage="ssr1", guidance=("2", "4", "4/1:2", "4[-3,5]"), steps=(4,))
    ends = [
        curve.rpartition("aug SNR")[2].partition(", ")[2] for _, curve, _ in samplers(stage, kinds)
    ]
    assert ends == ["", "", "oscillating", "within -3 and 5"]
    with pytest.raises(ValueError, match="constant for all of 4 steps"):
        list(samplers(stage, SweepSpec(stage="ssr1", guidance=("15/1:10",), steps=(4, 16))))
    (alone,) = samplers(stage, SweepSpec(stage="ssr1"))
    assert alone[2] == stage.sampler


def test_a_weight_alone_keeps_to_where_the_stage_is_guided():
    """What has learned guidance has learned it there."""
    base = presets.tiny().stages[0]
    within = replace(base.sampler, guidance=GuidanceSpec(weight=3.0, interval=(-10.0, 0.0)))
    spec = SweepSpec(stage="base", guidance=("2", "5/1:2", "2[-21,21]"), steps=(8,))
    found = [s.guidance.interval for *_, s in samplers(replace(base, sampler=within), spec)]
    assert found == [(-10.0, 0.0), (-10.0, 0.0), (-21.0, 21.0)]


def test_no_weight_of_a_sweep_is_one_that_was_not_learned():
    base = presets.tiny().stages[0]
    learned = replace(base, unet=replace(base.unet, guided=(2.0, 9.0)))
    learned = replace(learned, sampler=replace(base.sampler, guidance=GuidanceSpec(weight=3.0)))
    for guidance in ("12", "5/1:2"):
        with pytest.raises(ValueError, match="has learned guidance weights 2 to 9, got 1"):
            list(samplers(learned, SweepSpec(stage="base", guidance=(guidance,), steps=(8,))))


def test_a_base_has_no_augmentation():
    with pytest.raises(ValueError, match="starts from noise"):
        list(samplers(presets.tiny().stages[0], SweepSpec(stage="base", aug_snr=(3.0,))))
    with pytest.raises(ValueError, match="starts from noise"):
        list(samplers(presets.tiny().stages[0], SweepSpec(stage="base", from_cascade=True)))
    with pytest.raises(ValueError, match=r"ssr1.*ratios from 17.3 on.*got 5"):
        list(samplers(presets.tiny().stage("ssr1"), SweepSpec(stage="ssr1", aug_snr=(5.0,))))
    for wrong in (float("nan"), float("inf"), 0.0):
        with pytest.raises(ValueError, match=r"ssr1.*ratios from 17.3 on.*got"):
            list(samplers(presets.tiny().stage("ssr1"), SweepSpec(stage="ssr1", aug_snr=(wrong,))))
        with pytest.raises(ValueError, match="log-SNRs must be finite") if wrong else nullcontext():
            list(samplers(presets.tiny().stages[0], SweepSpec(stage="base", shifts=(wrong,))))


def test_a_student_is_not_swept_over_weights_that_it_never_learned():
    stage = presets.tiny().stages[0]
    stage = replace(stage, unet=replace(stage.unet, guided=(0.0, 6.0)))
    with pytest.raises(ValueError, match="learned guidance weights 0 to 6, got 99"):
        list(samplers(stage, SweepSpec(stage="base", guidance=("2", "99"))))


def row(weight: float, fit: tuple[float, float, float], fvd: float) -> Row:
    """A setting whose videos fit like that (low, value, high)."""
    common = {"of": 8, "better": "", "proxy": True}
    measures = [
        Measure(name="fit", low=fit[0], value=fit[1], high=fit[2], **common),
        Measure(name="FVD", value=fvd, **common),
    ]
    judge = Accuracy("motion", "24x40", 399, 400)
    section = Section(name="base", format="", frames=16, measures=measures, judges=[judge])
    sampler = presets.tiny().stages[0].sampler
    sampler = replace(sampler, guidance=GuidanceSpec(weight=weight))
    return Row(name=f"ddim, guidance {weight}", curve="ddim", sampler=sampler, section=section)


def test_the_best_fits_as_well_as_any_and_is_nearest(tmp_path):
    rows = [
        row(0.0, (20.0, 25.0, 30.0), 10.0),  # nearest to true clips, and shows something else
        row(2.0, (45.0, 50.0, 55.0), 20.0),
        row(4.0, (46.0, 52.0, 58.0), 30.0),  # fits best
    ]
    assert [r.sampler.guidance.weight for r in in_order(rows)] == [2, 4, 0]
    draw(in_order(rows), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_on_the_front_is_worse_in_both():
    points = [(20.0, 10.0), (50.0, 20.0), (52.0, 30.0), (40.0, 25.0), (52.0, 35.0), (50.0, 20.0)]
    assert front(points) == [(20.0, 10.0), (50.0, 20.0), (52.0, 30.0)]


def test_the_table_says_what_its_numbers_are():
    rows = [replace(row(w, (45.0, 50.0, 55.0), 20.0), notes=["few"]) for w in (2.0, 4.0)]
    head, first, _, judges, *notes = as_table(rows).splitlines()
    assert "FVD (proxy)" in head and "fit (proxy)" in head
    assert "50 (45 to 55)" in first and "20" in first
    assert judges == "judges on held-out ground truth: motion 99.8 (98.6-100.0) of 400 at 24x40"
    assert notes == ["note: few"]


def test_a_sweep_writes_the_best_back_and_goes_on(tiny, tmp_path, monkeypatch):
    folder, out, best = tmp_path / "tiny", tmp_path / "out", tmp_path / "best"
    tiny.save_pretrained(folder)
    words = [folder, "--stage", "ssr1", "--steps", "1", "3", "--count", "2", "--out", out]
    words += ["--reference-clips", "4", "--write", best, "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["imagen-video", "sweep", *map(str, words)])
    main()
    rows = json.loads((out / "sweep.json").read_text())
    assert {row["sampler"]["num_steps"] for row in rows} == {1, 3}
    first, second = ({m["name"]: m for m in r["section"]["measures"]}["FVD"]["value"] for r in rows)
    assert rows[0]["behind"] is None
    assert rows[1]["behind"]["value"] == pytest.approx(second - first)
    assert len(list(out.glob("true-*/records/reference/8x16x24@6/*"))) == 4
    again = Cascade.from_pretrained(best)
    assert again.spec.stage("ssr1").sampler.num_steps == rows[0]["sampler"]["num_steps"]
    assert again.spec.stage("base") == tiny.spec.stage("base")

    (out / "sweep.json").unlink()
    made = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    main()
    assert {p: p.stat().st_mtime_ns for p in made} == made
    assert json.loads((out / "sweep.json").read_text()) == rows

    # Another sweep in that folder, of other settings: nothing of the first is taken for true clips.
    words[words.index("1") : words.index("3") + 1] = ["2"]
    words[words.index("--reference-clips") + 1] = "6"
    monkeypatch.setattr(sys, "argv", ["imagen-video", "sweep", *map(str, words)])
    main()
    found = [len(list(path.iterdir())) for path in out.glob("true-*/records/reference/*")]
    assert sorted(found) == [4, 6]

    # From what the stages before make, once for both levels of noise.
    monkeypatch.setattr(
        sys, "argv", [*sys.argv, "--from-cascade", "--aug-snr", "30", "50", "--guidance", "0"]
    )
    main()
    before = list(out.glob("before-*/tsr1/*.safetensors"))
    assert len(before) == 2
    rows = json.loads((out / "sweep.json").read_text())
    assert {row["sampler"]["aug_logsnr"] for row in rows} == {math.log(30), math.log(50)}
    assert not any(m["name"] == "psnr" for row in rows for m in row["section"]["measures"])
    whole = again("a duck moving left to right on a blue background, 3D render", until="tsr1")
    first = load_file(min(before))["video"]
    assert torch.equal(first, whole.frames[0])
