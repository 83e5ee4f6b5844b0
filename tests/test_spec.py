"""Specs refuse what cannot be built, and say what would fit."""

import copy
import json
from dataclasses import replace

import pytest

from imagen_video import presets
from imagen_video.spec import (
    CascadeSpec,
    GuidanceSpec,
    SamplerSpec,
    StageSpec,
    TextSpec,
    TrainSpec,
)
from imagen_video.spec_json import from_json, to_json
from imagen_video.spec_unet import UNetSpec
from imagen_video.video import VideoFormat

TINY = presets.tiny()
BASE, TSR, SSR = TINY.stages[:3]
UNET = SSR.unet


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: replace(UNET, blocks=(1,)), "one entry a level"),
        (lambda: replace(UNET, temporal_levels=(5,)), "must lie in 0..1"),
        (lambda: replace(UNET, cross_levels=(1,)), "drop them in cross_levels"),
        (lambda: replace(UNET, head_dim=24), "multiple of head_dim 24"),
        (lambda: replace(UNET, widths=(12, 32)), "multiples of 8"),
        (lambda: replace(UNET, patch=0), "patch must be >= 1"),
        (lambda: replace(UNET, head_dim=0), "head_dim must be >= 1"),
        (lambda: replace(UNET, blocks=(1, 0)), "every level needs a block"),
        (lambda: GuidanceSpec(interval=(2.0, -2.0)), "from less to more log-SNR"),
        (lambda: GuidanceSpec(weight=-1.0), r"lie in 0 \(off\)"),
        (lambda: SamplerSpec(num_steps=0), "at least 1"),
        (lambda: SamplerSpec(num_steps=8, gamma=2.0), r"in \[0, 1\]"),
        (lambda: SamplerSpec(num_steps=8, percentile=99.5), r"in \(0, 1\]"),
        (lambda: TrainSpec(steps=1, clips=0), "needs clips or image_packs"),
        (lambda: replace(SSR, output=VideoFormat(8, 17, 24, 6.0)), "multiples of 4"),
        (lambda: replace(SSR, output=VideoFormat(8, 20, 24, 6.0)), "not a whole multiple"),
        (lambda: replace(SSR, output=VideoFormat(8, 16, 48, 6.0)), "change the aspect"),
        (lambda: replace(SSR, output=VideoFormat(16, 16, 24, 6.0)), "either time or space"),
        (lambda: replace(SSR, output=replace(SSR.output, fps=7.0)), "how long a clip lasts"),
        (lambda: replace(SSR, sampler=SamplerSpec(num_steps=2)), "needs aug_logsnr"),
        (lambda: replace(UNET, embed_dim=33), "must be even"),
        (lambda: replace(UNET, embed_dim=50), "multiple of its 3 heads"),
        (lambda: replace(SSR, train=replace(SSR.train, crop=(10, 8))), "multiples of 4"),
        (lambda: replace(SSR, train=replace(SSR.train, crop=(400, 400))), "does not fit into"),
        (lambda: replace(SSR, train=replace(SSR.train, frames=999)), "cannot train on 999"),
        (lambda: replace(TSR, train=replace(TSR.train, frames=7)), "a multiple of 2"),
        (lambda: replace(SSR, train=replace(SSR.train, stride=2)), "train.stride 2 must be 1"),
        (lambda: replace(BASE, train=replace(BASE.train, stride=4)), "less than its 4 frames"),
        (lambda: replace(SSR.train, stride=0), "stride must be above 0"),
        (lambda: replace(SSR.train, steps=-3), "steps must be above 0"),
        (lambda: replace(SSR.train, learning_rate=-1.0), "learning_rate must be above 0"),
        (lambda: replace(SSR.train, clips=-1), "clips must be >= 0"),
        (lambda: replace(SSR, aug_max=7.0), "aug_max must lie in"),
        (lambda: replace(SSR, max_weight=-1.0), "max_weight must be above 0"),
        (lambda: TextSpec(encoder="t5"), "needs a name or folder"),
        (lambda: replace(TINY, stages=TINY.stages[1:]), "must be a base"),
        (lambda: replace(TINY, stages=(TINY.stages[0], SSR)), "but 'base' gives 4x8x12@3"),
        (lambda: replace(TINY, text=replace(TINY.text, dim=8)), "the encoder gives 8"),
        (lambda: TINY.stage("sr9"), "there are: base, tsr1"),
    ],
)
def test_what_cannot_be_built_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("spec", "name", "words"),
    [
        (UNET, "norm", "group, layer"),
        (UNET, "predicts", "v, x, eps"),
        (SSR.sampler, "move", "ddim, ancestral"),
        (SSR.sampler, "threshold", "static, dynamic"),
        (SSR, "weighting", "v, eps"),
        (TINY.text, "encoder", "minilm, t5"),
    ],
)
def test_an_unknown_word_is_refused(spec, name, words):
    """As users run it: without the type checks of the tests."""
    broken = copy.copy(spec)
    object.__setattr__(broken, name, "bogus")
    with pytest.raises(ValueError, match=f"{name} must be one of {words}.*, got 'bogus'"):
        broken.__post_init__()


def edited(**changes) -> str:
    return json.dumps(json.loads(to_json(SSR)) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        (edited(colour="red"), "unknown fields"),
        (edited(name=3), "StageSpec.name: expected str, got 3"),
        (edited(weighting="heavy"), "'heavy' is none of v, eps"),
        (edited(output=[8, 16, 24]), "StageSpec.output: expected an object"),
        ('{"name": "x"}', "missing"),
    ],
)
def test_bad_json_names_the_field(text, message):
    with pytest.raises(ValueError, match=message):
        from_json(StageSpec, text)


def test_derived_facts():
    assert [stage.kind for stage in TINY.stages[:3]] == ["base", "tsr", "ssr"]
    assert (TSR.time_factor, TSR.space_factor, TSR.low_channels) == (2, 1, 7)
    assert (SSR.time_factor, SSR.space_factor, SSR.low_channels) == (1, 2, 3)
    assert presets.mini().stages[-1].unet.temporal_reach == 2
    assert isinstance(from_json(CascadeSpec, to_json(TINY)).stages[0].unet, UNetSpec)
