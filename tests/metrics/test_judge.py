from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from imagen_video.data.stickers import render, scene_for
from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.data.stickers.motions import MOTIONS
from imagen_video.metrics.judge import (
    Accuracy,
    ClipClassifier,
    Judge,
    JudgeSpec,
    nearest_colour,
    view,
)
from imagen_video.video import VideoFormat

BASE = VideoFormat(16, 24, 40, 3.0)
SPEC = JudgeSpec(
    answers=("left", "right"), frames=8, height=16, width=24, over_time=True, widths=(8, 16)
)


def sliding(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that slide to the left (0) or to the right (1) on a ground of any colour."""
    ground, paint = torch.rand(2, count, 1, 3, 1, 1, generator=generator) * 2 - 1
    answers = torch.arange(count) % 2
    video = ground.repeat(1, 8, 1, 16, 24)
    for i, answer in enumerate(answers):
        top, left = (int(torch.randint(0, 5, (), generator=generator)) for _ in range(2))
        for frame in range(8):
            at = left + frame if answer else left + 8 - frame
            video[i, frame, :, top : top + 7, at : at + 7] = paint[i, 0]
    return video, answers


def trained() -> ClipClassifier:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = ClipClassifier(SPEC).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(40):
        video, answers = sliding(32, generator)
        optimizer.zero_grad()
        F.cross_entropy(network(video), answers).backward()
        optimizer.step()
    return network


def test_a_judge_learns_a_direction_and_survives_saving(tmp_path):
    video, answers = sliding(100, torch.Generator().manual_seed(1))
    clips = ((video + 1) * 127.5).round().to(torch.uint8)
    judge = Judge(trained(), Accuracy(99, 100))
    found = judge(list(clips))
    assert sum(SPEC.answers[i] == f for i, f in zip(answers, found, strict=True)) >= 95
    backwards = judge(list(clips.flip(1)))
    assert sum(f != b for f, b in zip(found, backwards, strict=True)) >= 95

    judge.save(tmp_path / "judges" / "slide.safetensors")
    again = Judge.load(tmp_path / "judges" / "slide.safetensors")
    assert again.spec == SPEC
    assert again.accuracy == Accuracy(99, 100)
    with torch.inference_mode():
        assert torch.equal(again.network(video[:4]), judge.network(video[:4]))


def test_without_time_every_frame_votes_alone():
    network = ClipClassifier(replace(SPEC, over_time=False)).eval()
    video = torch.rand(2, 4, 3, 16, 24) * 2 - 1
    # The ground's colour is found over all frames of a clip: give every frame the same corners.
    video[..., :: 16 - 1, :: 24 - 1] = 0.3
    alone = torch.stack([network(video[:, i : i + 1]) for i in range(4)]).mean(0)
    torch.testing.assert_close(network(video), alone)
    torch.testing.assert_close(network(video.flip(1)), alone)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_ground_is_told_from_every_true_clip(colour):
    concepts = {"white": "octopus", "yellow": "octopus"}
    for seed, motion in enumerate(MOTIONS):
        scene = scene_for(
            concept=concepts.get(colour, "cat"), background=colour, motion=motion, seed=seed
        )
        assert nearest_colour(render(scene, BASE), COLOURS) == colour


def test_a_longer_larger_clip_is_seen_as_the_base_clip():
    spec = JudgeSpec(answers=MOTIONS, frames=16, height=24, width=40, over_time=True)
    scene = scene_for(concept="rocket", motion="rising", seed=3)
    small = view(render(scene, BASE), spec)
    large = view(render(scene, VideoFormat(64, 96, 160, 12.0)), spec)
    same, shifted = (small - large).abs().mean(), (small[1:] - large[:-1]).abs().mean()
    assert same < shifted / 4


def test_a_clip_too_short_or_too_small_is_refused():
    for frames, height in ((7, 16), (8, 15)):
        with pytest.raises(ValueError, match=f"only {frames}x{height}x24"):
            view(torch.zeros(frames, 3, height, 24, dtype=torch.uint8), SPEC)


def test_what_is_no_judge_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"runs/judge\.py"):
        Judge.load(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match="is no judge"):
        Judge.load(tmp_path / "broken.safetensors")
