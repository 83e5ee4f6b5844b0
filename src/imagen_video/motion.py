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
# Half a block, at every level: smaller ones than 9 pixels find ground in both frames and lose the
# thing.
REACH = 4
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
    found, pixels = path, _over_block(torch.ones_like(best[:1]))
    for step in STEPS:
        tried = path + path.new_tensor(step).view(1, 2, 1, 1)
        start, end = _moved(before, after, tried, share)
        cost = _over_block((end - start).abs_().sum(1, keepdim=True)).div_(pixels)
        # Not `norm`, which takes longer over two numbers than all the rest of this.
        cost += STILLNESS * torch.hypot(*tried.split(1, 1))
        found = torch.where(cost < best, tried, found)
        best = torch.minimum(cost, best)
    return found


def _over_block(cost: torch.Tensor) -> torch.Tensor:
    """Sums over the part of a block that lies in the frame.

    Nine in a row are three sums of three: an eighth of the time of a pooling layer.
    """
    cost = F.pad(cost, (REACH,) * 4)
    for dim in (-2, -1):
        for apart in (1, 3):
            left = cost.shape[dim] - 2 * apart
            first, *others = (cost.narrow(dim, i * apart, left) for i in range(3))
            cost = (first + others[0]).add_(others[1])
    return cost


def _moved(
    before: torch.Tensor, after: torch.Tensor, path: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both frames brought to `share` of the way."""
    return _look(before, path, -2 * share), _look(after, path, 2 * (1 - share))


def _look(frames: torch.Tensor, path: torch.Tensor, times: float) -> torch.Tensor:
    """Each pixel from so many `times` its path away; beyond the border the border is seen."""
    sides = frames.shape[:-3:-1]  # width, height: as x, y
    centres = [(torch.arange(n, device=path.device) + 0.5) * (2 / n) - 1 for n in sides]
    here = torch.stack(torch.meshgrid(*centres, indexing="xy"))
    scale = path.new_tensor([2 * times / n for n in sides]).view(2, 1, 1)
    grid = torch.addcmul(here, path, scale).permute(0, 2, 3, 1)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)
