"""The published numbers, and what mini must cost."""

import pytest

from imagen_video import presets
from imagen_video.info import flops_per_call
from imagen_video.spec import CascadeSpec
from imagen_video.spec_json import from_json, to_json
from imagen_video.stage import build_unet

PUBLISHED = (5.6e9, 1.7e9, 1.4e9, 1.2e9, 780e6, 630e6, 340e6)
FIGURE_6 = (
    "16x24x40@3 32x24x40@6 32x48x80@6 32x192x320@6 64x192x320@12 128x192x320@24 128x768x1280@24"
)


def parameters(stage) -> int:
    return sum(p.numel() for p in build_unet(stage, device="meta").parameters())


@pytest.mark.parametrize("i", range(7), ids=presets.NAMES)
def test_paper_stage_has_the_published_size(i):
    assert parameters(presets.paper().stages[i]) == pytest.approx(PUBLISHED[i], rel=0.03)


@pytest.mark.parametrize("name", ["paper", "mini"])
def test_formats_are_those_of_figure_6(name):
    stages = presets.find(name).stages
    assert " ".join(str(stage.output) for stage in stages) == FIGURE_6
    assert [s.kind for s in stages] == ["base", "tsr", "ssr", "ssr", "tsr", "tsr", "ssr"]
    assert {stage.output.seconds for stage in stages} == {16 / 3}


def test_a_shipped_preset_is_described_as_its_weights_are_sampled():
    assert presets.shipped("tiny") == presets.tiny()
    fewer, own = presets.shipped("mini").stages[-1], presets.mini().stages[-1]
    assert fewer.sampler.num_steps < own.sampler.num_steps and fewer.unet == own.unet


def test_paper_predicts_v_and_samples_as_published():
    stages = presets.paper().stages
    assert {stage.unet.predicts for stage in stages} == {"v"}
    assert [stage.sampler.num_steps for stage in stages] == [256] + [128] * 6
    oscillating = [stage.name for stage in stages if stage.sampler.guidance.low is not None]
    assert oscillating == ["base", "tsr1", "ssr1"]


def test_mini_fits_two_cores():
    stages = presets.mini().stages
    assert 2 * sum(parameters(stage) for stage in stages) <= 50e6
    total = 0
    for stage in stages:
        frames = stage.output.frames if stage.kind == "base" else 8
        unet = build_unet(stage, device="meta")
        call = flops_per_call(unet, stage, frames, 32) * stage.output.frames / frames
        total += 8 * call
    assert call <= 2e12  # the last stage, one call on a full clip
    assert total <= 30e12


def test_tiny_is_the_product_in_miniature():
    stages = presets.tiny().stages
    assert [stage.kind for stage in stages] == [stage.kind for stage in presets.paper().stages]
    assert all(stage.output.height != stage.output.width for stage in stages)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_json_round_trip(name):
    spec = presets.find(name)
    assert from_json(CascadeSpec, to_json(spec)) == spec


def test_a_users_own_preset(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from dataclasses import replace\nfrom imagen_video.presets import tiny\n"
        "def mine(): return replace(tiny(), name='mine')\nnothing = 3\n"
    )
    assert presets.find(f"{file}:mine").name == "mine"
    for name in (":nothing", ":replace", ":", ""):
        with pytest.raises(ValueError, match="must be a function that returns a CascadeSpec"):
            presets.find(f"{file}{name}")
    file.write_text("def mine(:")
    with pytest.raises(ValueError, match=r"mine\.py is no Python: line 1"):
        presets.find(f"{file}:mine")
    with pytest.raises(ValueError, match="give paper, mini, tiny"):
        presets.find("huge")
