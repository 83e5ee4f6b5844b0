"""The cascade end to end in miniature: what a call promises."""

import json
from dataclasses import replace

import pytest
import torch

from imagen_video import presets, sampling
from imagen_video.cascade import Cascade
from imagen_video.lowres import pad
from imagen_video.sampling import SampleSpec, override
from imagen_video.spec import GuidanceSpec, TextSpec
from imagen_video.stage import Stage
from imagen_video.text.encoder import load_encoder
from imagen_video.training import job
from imagen_video.training.engine import initialise_from
from imagen_video.training.run import RunSpec
from imagen_video.video import read_video, resize, to_uint8

PROMPT = "a cat moving left to right on a red background, 3D render"


def test_prompt_to_file(tiny, tmp_path):
    sample = tiny(PROMPT, seed=3)
    assert sample.frames.shape == (1, 32, 3, 64, 96)
    assert list(sample.stages) == [stage.name for stage in tiny.spec.stages]
    for stage in tiny.spec.stages:
        shape = (1, stage.output.frames, 3, stage.output.height, stage.output.width)
        assert sample.stages[stage.name].shape == shape
    sample.save(tmp_path / "cat.mp4")
    clip = read_video(tmp_path / "cat.mp4")
    assert clip.frames.shape == (32, 3, 64, 96)
    assert clip.fps == 24
    assert clip.metadata["prompt"] == PROMPT
    assert clip.metadata["seed"] == 3
    assert json.loads((tmp_path / "cat.json").read_text()) == json.loads(json.dumps(clip.metadata))


def test_same_seed_same_video_alone_or_in_a_list(tiny):
    alone = tiny(PROMPT, seed=1, until="ssr1").frames
    among = tiny(["a dog", PROMPT, PROMPT], seed=1, until="ssr1").frames
    assert torch.equal(alone[0], among[1])
    assert not torch.equal(among[1], among[2])  # the second of two equal prompts is another video
    assert not torch.equal(alone, tiny(PROMPT, seed=2, until="ssr1").frames)


def test_saved_and_loaded_cascade_makes_the_same_video(tiny, tmp_path):
    tiny.save_pretrained(tmp_path)
    loaded = Cascade.from_pretrained(tmp_path, dtype=torch.float32)
    assert loaded.spec == tiny.spec
    assert torch.equal(loaded(PROMPT, until="ssr1").frames, tiny(PROMPT, until="ssr1").frames)


def test_starting_from_a_stage_continues_a_run_exactly(tiny):
    whole = tiny(PROMPT, until="ssr2")
    steps = tiny.stream(
        [PROMPT], SampleSpec(start="ssr2", until="ssr2"), low=whole.stages["ssr1"][0]
    )
    assert torch.equal(next(p.video for p in steps if p.video is not None), whole.frames[0])


def test_negative_prompt_steps_and_guidance_change_the_result(tiny):
    plain = tiny(PROMPT, until="base").frames
    for options in (
        {"negative_prompt": "blue"},
        {"steps": 3},
        {"guidance": 5.0},
        {"guidance": 0.0},
    ):
        assert not torch.equal(plain, tiny(PROMPT, until="base", **options).frames)


@pytest.mark.parametrize(("wanted", "stage_frames"), [(1, (1, 1)), (11, (2, 11)), (40, (5, 40))])
def test_any_number_of_frames(tiny, wanted, stage_frames):
    sample = tiny(PROMPT, num_frames=wanted)
    assert sample.stages["base"].shape[1] == stage_frames[0]
    assert sample.frames.shape[1] == stage_frames[1]
    if wanted == 1:
        assert not [name for name in sample.stages if name.startswith("tsr")]


def test_a_longer_video_takes_the_network_memory_of_a_clip_and_is_that_of_one_call(
    tiny, monkeypatch
):
    seen = {stage.spec.name: [] for stage in tiny.stages}

    def noted(name):
        return lambda _, args: seen[name].append(args[0].shape[1])

    hooks = [s.unet.register_forward_pre_hook(noted(s.spec.name)) for s in tiny.stages]
    windows = tiny(PROMPT, num_frames=24, until="ssr1")
    for stage, hook in zip(tiny.stages, hooks, strict=True):
        hook.remove()
        if stage.spec.kind != "base" and seen[stage.spec.name]:
            around = 2 * stage.spec.unet.temporal_reach
            assert max(seen[stage.spec.name]) <= stage.spec.output.frames + around
    monkeypatch.setattr(sampling, "bounded", lambda sampler, spec, frames: sampler)
    whole = tiny(PROMPT, num_frames=24, until="ssr1")
    assert windows.frames.shape[1] == 24 and windows.stages.keys() == whole.stages.keys()
    for name, video in whole.stages.items():
        assert (windows.stages[name].int() - video.int()).abs().max() <= 1, name


def test_a_stream_takes_gradients_from_nobody_but_itself(tiny):
    without = []
    hook = tiny.stages[0].unet.register_forward_pre_hook(
        lambda *_: without.append(torch.is_inference_mode_enabled())
    )
    streams = [tiny.stream([PROMPT], SampleSpec(until="base")) for _ in range(2)]
    for _ in zip(*streams, strict=True):  # one begins before, and ends after, the other does
        assert not torch.is_inference_mode_enabled()
    hook.remove()
    assert without and all(without) and not torch.is_inference_mode_enabled()


def test_previews_show_every_step(tiny):
    for progress in tiny.stream([PROMPT], SampleSpec(until="tsr1")):
        spec = tiny.spec.stage(progress.stage).output
        assert progress.preview().shape == (spec.frames, 3, spec.height, spec.width)
        assert (progress.video is not None) == (progress.step + 1 == progress.num_steps)


def test_guided_step_is_one_doubled_call(tiny):
    stage = tiny.stages[0]
    sizes: list[int] = []
    hook = stage.unet.register_forward_hook(lambda _, args, out: sizes.append(len(args[0])))
    tiny(PROMPT, until="base")
    hook.remove()
    assert sizes == [2] * stage.spec.sampler.num_steps


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (18, 30)])
@pytest.mark.parametrize("stages", [("ssr3",), ("tsr2",), ("ssr1", "ssr3")])
def test_upscale_keeps_frames_and_aspect_of_any_video(tiny, size, stages):
    video = torch.randint(0, 255, (3, 3, *size), dtype=torch.uint8)
    *_, last = tiny.upscale(video, "a street", stages=stages)
    time = space = 1
    for name in stages:
        spec = tiny.spec.stage(name)
        time, space = time * spec.time_factor, space * spec.space_factor
    assert last.video.shape == (3 * time, 3, size[0] * space, size[1] * space)


def test_upscale_in_parts_keeps_frames_rate_and_nearly_every_value(tiny, monkeypatch):
    # Smooth: what noise moves where is for the noise that is added to it to say.
    video = to_uint8(resize(torch.rand(1, 7, 3, 4, 6) * 2 - 1, 16, 24))[0]
    *_, whole = tiny.upscale(video, stages=("tsr2",), fps=30.0, steps=2)
    monkeypatch.setattr(sampling, "PART", 3 * 16 * 24 * 2 * 3)  # three frames a part
    steps = list(tiny.upscale(video, stages=("tsr2",), fps=30.0, steps=2))
    assert [(p.step, p.num_steps) for p in steps] == [(i, 6) for i in range(6)]
    assert [p.video is None for p in steps] == [True] * 5 + [False]
    assert steps[-1].fps == whole.fps == 60
    assert steps[-1].video.shape == whole.video.shape == (14, 3, 16, 24)
    # Later parts have noise of their own, the video that they start from is the same.
    assert torch.equal(steps[-1].video[:6], whole.video[:6])
    with pytest.raises(ValueError, match="is over"):
        steps[1].preview()  # the last step of the first part has let go of its tensors
    rest, expected = steps[-1].video[6:].float(), whole.video[6:].float()
    late = expected.roll(2, 0)
    assert (rest - expected).abs().mean() < (rest - late).abs().mean() / 2


def test_upscale_without_a_prompt_is_upscale_without_text(tiny):
    seen: list[bool] = []
    hook = tiny.stages[-1].unet.register_forward_hook(
        lambda _, args, out: seen.append(bool(args[2].text_mask.any()))
    )
    video = torch.zeros(1, 3, 16, 24, dtype=torch.uint8)
    for prompt in ("", " ", "a street"):
        next(tiny.upscale(video, prompt))
    hook.remove()
    assert seen == [False, False, True]


def test_upscale_names_its_stages_before_it_works(tiny):
    video = torch.zeros(1, 3, 16, 24, dtype=torch.uint8)
    for stages, message in (
        (("ssr1", "bogus"), "no stage 'bogus'"),
        (("ssr1", "base"), "makes videos from noise"),
        ((), "name an upsampling stage"),
    ):
        with pytest.raises(ValueError, match=message):
            next(tiny.upscale(video, stages=stages))


def test_a_call_keeps_what_it_does_not_change_of_guidance():
    paper = presets.paper().stages[0].sampler
    assert override(paper, SampleSpec(steps=32)).guidance.constant_steps == 3
    limited = replace(paper, guidance=GuidanceSpec(weight=3.0, interval=(-5.0, 2.0)))
    changed = override(limited, SampleSpec(guidance=7.0)).guidance
    assert (changed.weight, changed.interval) == (7.0, (-5.0, 2.0))


def test_padding_repeats_the_edge_and_leaves_legal_sizes_alone(tiny):
    stage = tiny.stages[-1]
    video = torch.arange(7 * 9, dtype=torch.uint8).reshape(1, 1, 7, 9).expand(1, 3, 7, 9)
    padded, box = pad(video, stage.spec)
    assert box == (14, 18)
    assert torch.equal(padded[..., :7, :9], video)
    assert (padded[..., 7:, :9] == video[..., -1:, :]).all()
    assert all(side * 2 % stage.spec.unet.multiple == 0 for side in padded.shape[-2:])
    assert torch.equal(pad(padded, stage.spec)[0], padded)


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([], {}, "a list of at least one prompt"),
        (["  "], {}, "needs some text"),
        (["a"], {"until": "ssr9"}, "no stage 'ssr9'"),
        (["a"], {"until": "base", "start": "tsr1"}, "comes after"),
        (["a"], {"start": "tsr1"}, "starts from a video"),
        (["a"], {"num_frames": 0}, "num_frames must be at least 1"),
        (["a"], {"num_frames": 1, "start": "tsr2", "until": "tsr3"}, "needs no tsr2 and tsr3"),
        (["a"], {"guidance": 0.0, "negative_prompt": "blur"}, "needs guidance"),
        (["a"], {"steps": 0}, "at least 1"),
        (["a"], {"guidance": -1.0}, r"lie in 0 \(off\)"),
    ],
)
def test_bad_input_is_refused_with_the_way_out(tiny, prompts, options, message):
    with pytest.raises(ValueError, match=message):
        tiny(prompts, **options)


def test_a_string_is_not_streamed_by_letters(tiny):
    with pytest.raises(ValueError, match="a list of at least one prompt is needed, got 'a cat'"):
        next(tiny.stream("a cat", SampleSpec()))


def test_the_whole_tiny_cascade_with_a_t5(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(job, "FITTED_STEPS", 4)  # what captions look like is seen in a few
    from tiny_t5 import build_tiny_t5

    build_tiny_t5(tmp_path / "t5", dim=16)
    text = TextSpec(encoder="t5", name=str(tmp_path / "t5"), dim=16, length=96)
    spec = presets.tiny(text)
    cascade = Cascade(spec, [Stage(stage) for stage in spec.stages], load_encoder(text))
    base = replace(spec.stages[0], train=replace(spec.stages[0].train, steps=4, cooldown=1))
    taught = replace(spec, stages=(base, *spec.stages[1:]))
    asked = job.JobSpec(stage="base", out=tmp_path / "base")
    assert job.train_stage(taught, asked, RunSpec(workers=0)) == 4
    initialise_from(cascade.stages[0], tmp_path / "base")
    cascade.save_pretrained(tmp_path / "model")
    sample = Cascade.from_pretrained(tmp_path / "model")("a small cat", seed=1)
    assert sample.frames.shape == (1, 32, 3, 64, 96)
    assert any((tmp_path / "cache" / "text").rglob("*.safetensors"))  # T5's answers are kept


def test_frames_that_a_video_cannot_give_are_refused(tiny):
    low = torch.zeros(4, 3, 8, 12, dtype=torch.uint8)
    wanted = SampleSpec(start="tsr1", until="ssr1", num_frames=99)
    with pytest.raises(ValueError, match=r"must lie in 1\.\.8"):
        next(tiny.stream(["a"], wanted, low=low))


def test_nothing_there_names_what_fits(tmp_path):
    with pytest.raises(ValueError, match="give 'mini', a folder"):
        Cascade.from_pretrained(tmp_path)
