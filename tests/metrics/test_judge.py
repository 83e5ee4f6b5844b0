from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from imagen_video.data.stickers import render, scene_for
from imagen_video.data.stickers.concepts import COLOURS
from imagen_video.data.stickers.motions import MOTIONS
from imagen_video.metrics.clipnet import ClipNet, ViewSpec, view
from imagen_video.metrics.judge import (
    Accuracy,
    Facts,
    Judge,
    JudgeSpec,
    Question,
    nearest_colour,
    outputs,
    split,
)
from imagen_video.video import VideoFormat

BASE = VideoFormat(16, 24, 40, 3.0)
LOOK = ViewSpec(frames=8, height=16, width=24, over_time=True, widths=(8, 16))
SPEC = JudgeSpec(
    view=LOOK,
    questions=(Question("way", ("left", "right")), Question("light", ("dark", "bright"))),
)
ACCURACIES = (Accuracy("way", "16x24", 99, 100),)


def sliding(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that slide to the left (0) or to the right (1), darker (0) or brighter than their
    ground, which may have any colour."""
    ground = torch.rand(count, 1, 3, 1, 1, generator=generator) * 1.2 - 0.6
    ways, lights = torch.arange(count) % 2, torch.arange(count) // 2 % 2
    paint = ground + (0.8 * lights - 0.4).view(-1, 1, 1, 1, 1)
    answers = torch.stack([ways, lights], 1)
    video = ground.repeat(1, 8, 1, 16, 24)
    for i, way in enumerate(ways):
        top, left = (int(torch.randint(0, 5, (), generator=generator)) for _ in range(2))
        for frame in range(8):
            at = left + frame if way else left + 8 - frame
            video[i, frame, :, top : top + 7, at : at + 7] = paint[i, 0]
    return video, answers


def trained() -> ClipNet:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = ClipNet(LOOK, outputs(SPEC)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for _ in range(80):
        video, answers = sliding(32, generator)
        optimizer.zero_grad()
        parts = split(network(video), SPEC)
        sum(F.cross_entropy(part, answers[:, i]) for i, part in enumerate(parts)).backward()
        optimizer.step()
    return network


def right(found: list[dict[str, str]], answers: torch.Tensor) -> list[int]:
    """Right answers to each question."""
    return [
        sum(
            question.answers[row[i]] == seen[question.name]
            for row, seen in zip(answers.tolist(), found, strict=True)
        )
        for i, question in enumerate(SPEC.questions)
    ]


def test_a_judge_learns_its_questions_and_survives_saving(tmp_path):
    video, answers = sliding(100, torch.Generator().manual_seed(1))
    clips = ((video + 1) * 127.5).round().to(torch.uint8)
    judge = Judge(trained(), Facts(SPEC, ACCURACIES))
    assert min(right(judge(list(clips)), answers)) >= 95
    backwards = right(judge(list(clips.flip(1))), answers)
    assert backwards[0] <= 5 and backwards[1] >= 95

    judge.save(tmp_path / "judges" / "slide.safetensors")
    again = Judge.load(tmp_path / "judges" / "slide.safetensors")
    assert again.spec == SPEC
    assert again.accuracies == ACCURACIES
    assert min(right(again(list(clips)), answers)) >= 95
    again.save(tmp_path / "again.safetensors")
    once, twice = (path.read_bytes() for path in sorted(tmp_path.rglob("*.safetensors")))
    assert once == twice  # bfloat16 once and for all


def test_without_time_every_frame_votes_alone():
    network = ClipNet(replace(LOOK, over_time=False), 4).eval()
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
    spec = ViewSpec(frames=16, height=24, width=40, over_time=True)
    scene = scene_for(concept="rocket", motion="rising", seed=3)
    small = view(render(scene, BASE), spec)
    large = view(render(scene, VideoFormat(64, 96, 160, 12.0)), spec)
    same, shifted = (small - large).abs().mean(), (small[1:] - large[:-1]).abs().mean()
    assert same < shifted / 4


def test_a_clip_too_short_or_too_small_is_refused():
    for frames, height in ((7, 16), (8, 15)):
        with pytest.raises(ValueError, match=f"only {frames}x{height}x24"):
            view(torch.zeros(frames, 3, height, 24, dtype=torch.uint8), LOOK)


def test_what_is_no_judge_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"runs/judge\.py"):
        Judge.load(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"no tensors here")
    with pytest.raises(ValueError, match="is no judge"):
        Judge.load(tmp_path / "broken.safetensors")
