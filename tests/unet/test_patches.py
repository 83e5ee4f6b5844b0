"""Folding pixels into channels: what pixel_unshuffle does, in every precision, with gradients."""

import pytest
import torch
import torch.nn.functional as F

from imagen_video.unet.patches import fold, unfold

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("patch", [1, 2, 3, 4, 8])
def test_folding_is_pixel_unshuffle_and_unfolding_its_inverse(patch, dtype):
    x = torch.randn(2, 3, 5, 4 * patch, 6 * patch, dtype=dtype)
    x[0, 0, 0, 0, :2] = torch.tensor([float("nan"), -0.0])  # numbers stay what they are to the bit
    folded = fold(x, patch)
    plain = F.pixel_unshuffle(x.flatten(0, 1), patch)
    assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(folded.nan_to_num(9.0), plain.nan_to_num(9.0))
    back = unfold(folded, patch, 2)
    assert back.is_contiguous()
    assert back.view(torch.uint8).equal(x.view(torch.uint8))


def test_views_that_are_not_contiguous_fold_too():
    x = torch.randn(2, 4, 3, 9, 16).transpose(3, 4)[..., :8]
    assert torch.equal(fold(x, 4), F.pixel_unshuffle(x.flatten(0, 1), 4))


def test_gradients_pass_both_ways():
    x = torch.randn(1, 2, 3, 8, 8, requires_grad=True)
    weight = torch.randn(1, 2, 3, 8, 8)
    (unfold(fold(x, 2) * 2, 2, 1) * weight).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, 2 * weight)
