import math

import pytest
import torch

from imagen_video.data.stickers import render, scene_for
from imagen_video.metrics.upsampling import fidelity, flicker, warping_error
from imagen_video.video import VideoFormat


@pytest.fixture(scope="module")
def truth() -> torch.Tensor:
    scene = scene_for(concept="rocket", background="green", motion="moving left to right")
    return render(scene, VideoFormat(12, 96, 160, 12.0))


def blurred(video: torch.Tensor, size: int) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(
        video.float(), size, 1, size // 2, count_include_pad=False
    ).to(torch.uint8)


def test_a_video_equals_itself(truth):
    found = fidelity(truth, truth, 12.0)
    assert found["psnr"] == math.inf
    assert found["ssim"] == pytest.approx(1)
    assert found["vmaf"] > 95


def test_more_blur_is_further_from_the_truth(truth):
    slight, strong = (fidelity(blurred(truth, size), truth, 12.0) for size in (3, 9))
    for name in ("psnr", "ssim", "vmaf"):
        assert strong[name] < slight[name]


def test_ssim_is_of_the_frames_in_their_order(truth):
    # A constant shift leaves structure; frames in another order do not.
    lighter = (truth.float() * 0.95 + 6).to(torch.uint8)
    backwards = fidelity(truth.flip(0), truth, 12.0)
    assert fidelity(lighter, truth, 12.0)["ssim"] > 0.97 > backwards["ssim"]


def test_small_frames_have_psnr_alone():
    small = torch.zeros(3, 3, 24, 40, dtype=torch.uint8)
    assert set(fidelity(small + 1, small, 3.0)) == {"psnr"}


def test_other_sizes_are_refused(truth):
    with pytest.raises(ValueError, match="the same frames and size"):
        fidelity(truth[:3], truth, 12.0)


def test_flicker_by_hand():
    rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 5.0]])
    assert flicker(rows) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="2 frames or more, got 1"):
        flicker(rows[:1])


def test_even_motion_has_a_small_warping_error_and_flicker_a_large_one(truth):
    even = warping_error(truth)
    frames = truth.clone()
    frames[::2] = (frames[::2].float() * 0.8).to(torch.uint8)
    mixed = truth[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    assert even < 0.3 * warping_error(frames)
    assert even < 0.5 * warping_error(mixed)
    assert warping_error(truth[:1].expand(5, -1, -1, -1)) == pytest.approx(0, abs=1e-4)
    with pytest.raises(ValueError, match="3 frames or more, got 2"):
        warping_error(truth[:2])


def test_large_frames_are_warped_at_a_part_of_their_size(truth):
    twice, four_times = (
        truth[:4].repeat_interleave(by, -1).repeat_interleave(by, -2) for by in (2, 4)
    )
    assert warping_error(four_times) == pytest.approx(warping_error(twice))
    assert warping_error(twice) != pytest.approx(warping_error(truth[:4]))
