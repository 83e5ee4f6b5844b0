"""How real and how diverse samples are, apart: what one distance cannot tell.

All of them take feature vectors, one a sample (a video's frames averaged, say).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from imagen_video.shapes import Float

NEAREST = 5
"""The radius around a sample reaches to its fifth neighbour, as the measures' authors have it."""


def kernel_distance(
    a: Float[Tensor, "n d"],
    b: Float[Tensor, "m d"],
    of: tuple[Sequence[object], Sequence[object]] | None = None,
) -> float:
    """KID: the unbiased squared maximum mean discrepancy with kernel (x.y / d + 1)^3 (Binkowski et
    al. 2018); near 0 for samples of one distribution, below 0 by chance.

    `of` says what each of both shows ("": nobody knows), where samples were made for one list of
    prompts: pairs that show the same are left out everywhere, if others remain. Otherwise a sample,
    the only one of its prompt, would meet it among the others alone, and a perfect model would come
    out below 0. What shows another prompt of the list than its own comes out far below 0 then:
    nearer to what true clips have is better.
    """
    _at_least(a, b, count=2)
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def mean(k: Tensor, left_out: Tensor) -> Tensor:
        return k[~left_out].mean()

    left_out = (
        torch.eye(len(a), dtype=torch.bool),
        torch.eye(len(b), dtype=torch.bool),
        torch.zeros(len(a), len(b), dtype=torch.bool),
    )
    if of and len(set(of[0])) > 1:
        alike = tuple(own | same for own, same in zip(left_out, _alike(*of), strict=True))
        left_out = left_out if any(each.all() for each in alike) else alike
    within = mean(kernel(a, a), left_out[0]) + mean(kernel(b, b), left_out[1])
    return (within - 2 * mean(kernel(a, b), left_out[2])).item()


def coverage_of(
    samples: Float[Tensor, "n d"], real: Float[Tensor, "m d"], nearest: int = NEAREST
) -> dict[str, float]:
    """`precision` and `recall` (Kynkaanniemi et al. 2019), `density` and `coverage` (Naeem et al.
    2020): which samples lie among the real ones, and which real ones among the samples."""
    _at_least(samples, real, count=nearest + 1)
    samples, real = samples.double(), real.double()
    radius_real, radius_samples = _radius(real, nearest), _radius(samples, nearest)
    apart = torch.cdist(real, samples)
    inside = apart < radius_real[:, None]
    return {
        "precision": inside.any(0).double().mean().item(),
        "recall": (apart < radius_samples).any(1).double().mean().item(),
        "density": inside.double().sum(0).mean().item() / nearest,
        "coverage": (apart.min(1).values < radius_real).double().mean().item(),
    }


def vendi(features: Float[Tensor, "n d"]) -> float:
    """How many different samples there seem to be, from 1 to n: the exponential of the entropy of
    the eigenvalues of their cosine similarities (Friedman and Dieng 2023)."""
    _at_least(features, count=1)
    rows = torch.nn.functional.normalize(features.double(), dim=1)
    values = torch.linalg.eigvalsh(rows @ rows.T / len(rows)).clamp(min=0)
    return torch.special.entr(values).sum().exp().item()


def _radius(rows: Tensor, nearest: int) -> Float[Tensor, " n"]:
    """How far each one's neighbour of that rank is, itself not counted."""
    return torch.cdist(rows, rows).kthvalue(nearest + 1, dim=1).values


def _alike(a: Sequence[object], b: Sequence[object]) -> tuple[Tensor, Tensor, Tensor]:
    """Which of a and a, b and b, and a and b show the same; who is said to show nothing, "", is
    like no other."""
    numbers = {name: i for i, name in enumerate(dict.fromkeys([*a, *b]))}
    alone = iter(range(-len(a) - len(b), 0))
    first, second = (
        torch.tensor([numbers[name] if name else next(alone) for name in names]) for names in (a, b)
    )
    return first[:, None] == first, second[:, None] == second, first[:, None] == second


def _at_least(*sets: Tensor, count: int) -> None:
    for rows in sets:
        if len(rows) < count:
            raise ValueError(f"this measure needs {count} samples or more, got {len(rows)}")
