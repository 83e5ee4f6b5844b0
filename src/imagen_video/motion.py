"""What moved where between two frames, by matching blocks: where temporal stages start from.

Half-way between two known frames a thing is as far from its place in the one as from that in the
other. Finding it is a product of both frames at every displacement, which a small convolutional
network learned nothing of in an hour (docs/log.md); looking for it needs no learning.
"""

import torch
import torch.nn.functional as F

from imagen_video.shapes import Float

# Rows of the coarsest level: a thing may move by about its own size, not across the frame.
COARSEST = 6
# Pixels of a block, at every level: smaller ones find ground in both frames and lose the thing.
BLOCK = 9
# What a pixel of displacement costs, beside differences of colour in [-1, 1].
STILLNESS = 0.02
STEPS = tuple((float(x), float(y)) for y in (-1, 0, 1) for x in (-1, 0, 1))


def between(
    before: Float[torch.Tensor, "n c h w"], after: Float[torch.Tensor, "n c h w"], share: float
) -> tuple[Float[torch.Tensor, "n c h w"], Float[torch.Tensor, "n c h w"]]:
    """The frames at `share` in (0, 1) of the way from `before` to `after`, along what moved.

    Returns the mixture, and the difference of the two frames it is a mixture of: large where they
    do not match.
    """
    path = _path(before, after, share)
    start, end = _moved(before, after, path, share)
    return torch.lerp(start, end, share), end - start


def _path(before: torch.Tensor, after: torch.Tensor, share: float) -> torch.Tensor:
    """Half the way (x, y) in pixels that each pixel goes, from coarse to fine."""
    n, _, height, width = before.shape
    if height < 2 * COARSEST or width < 2 * COARSEST:
        path = before.new_zeros(n, 2, height, width)
    else:
        path = _path(F.avg_pool2d(before, 2), F.avg_pool2d(after, 2), share)
        path = 2 * F.interpolate(path, size=(height, width), mode="nearest")
    best = path.new_full((n, 1, height, width), torch.inf)
    found = path
    for step in STEPS:
        tried = path + path.new_tensor(step).view(1, 2, 1, 1)
        start, end = _moved(before, after, tried, share)
        cost = _over_block((end - start).abs().sum(1, keepdim=True))
        # Not `norm`, which takes longer over two numbers than all the rest of this.
        cost = cost + STILLNESS * torch.hypot(*tried.split(1, 1))
        found = torch.where(cost < best, tried, found)
        best = torch.minimum(cost, best)
    return found


def _over_block(cost: torch.Tensor) -> torch.Tensor:
    """The mean over the part of a block that lies in the frame: over rows, then over columns."""
    reach = BLOCK // 2
    rows = F.avg_pool2d(cost, (BLOCK, 1), 1, (reach, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, BLOCK), 1, (0, reach), count_include_pad=False)


def _moved(
    before: torch.Tensor, after: torch.Tensor, path: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both frames brought to `share` of the way."""
    return _look(before, -2 * share * path), _look(after, 2 * (1 - share) * path)


def _look(frames: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Each pixel from `offset` pixels (x, y) away; beyond the border the border is seen."""
    height, width = frames.shape[-2:]
    y = torch.arange(height, device=frames.device)[:, None] + offset[:, 1]
    x = torch.arange(width, device=frames.device) + offset[:, 0]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
