"""The share of a GPU's matrix rate that a training step can reach at most, counted without one.

    python bench/roofline.py [--models mini wide large] [--rate 792] [--bandwidth 3350]

Forwards and backwards of a stage's network on the meta device in bfloat16, operator by operator:
each takes at least its FLOPs over the rate (TFLOP/s) or its bytes read and written over the
bandwidth (GB/s; both of an H100), whichever is longer. `as it is` sums that over every operator;
`fused` leaves out all but matrix products, convolutions and attention, as if a compiler hid the
rest in them. The gap from a measured share to these is launches, kernels and the rest of the step.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from common import table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from training_step import TOKENS, models

from imagen_video.info import call_on_meta
from imagen_video.spec import StageSpec
from imagen_video.stage import build_unet
from imagen_video.training.run import trained_format


@dataclass
class Counted(TorchDispatchMode):
    """FLOPs and bytes of every operator that computes; views move nothing."""

    operators: list[tuple[str, int, int]] = field(default_factory=list)

    def __post_init__(self):
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        if any(r.alias_info is not None and not r.alias_info.is_write for r in returned):
            return out
        count: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=out) if count else 0
        moved = sum(x.nbytes for x in tree_leaves((args, kwargs, out)) if torch.is_tensor(x))
        self.operators.append((str(func._overloadpacket), flops, moved))
        return out


def step_of(spec: StageSpec, rows: int) -> list[tuple[str, int, int]]:
    """The operators of one forward and backward pass on `rows` of a batch."""
    shown, unet = trained_format(spec), build_unet(spec, device="meta").to(torch.bfloat16)
    z, logsnr, cond = call_on_meta(
        spec, shown.frames, shown.size, tokens=TOKENS, captions=shown.frames
    )

    def many(x: torch.Tensor | None) -> torch.Tensor | None:
        return None if x is None else x.expand(rows, *x.shape[1:]).clone()

    names = ("text", "text_mask", "is_video", "lowres", "lowres_logsnr")
    cond = replace(cond, **{name: many(getattr(cond, name)) for name in names})
    z, logsnr = z.expand(rows, *z.shape[1:]).clone(), logsnr.expand(rows).clone()
    counted = Counted()
    with torch.device("meta"), torch.autocast("cpu", torch.bfloat16), counted:
        unet(z, logsnr, cond).float().sum().backward()
    return counted.operators


def shares(operators: list[tuple[str, int, int]], rate: float, bandwidth: float) -> list[float]:
    """Of the matrix rate: as it is, and fused."""
    flops = sum(f for _, f, _ in operators)
    found = []
    for some in (operators, [one for one in operators if one[1]]):
        found.append(flops / rate / sum(max(f / rate, b / bandwidth) for _, f, b in some))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["mini", "wide", "large"])
    parser.add_argument("--rows", type=int, default=8, help="of a batch")
    parser.add_argument("--rate", type=float, default=792.0, help="TFLOP/s")
    parser.add_argument("--bandwidth", type=float, default=3350.0, help="GB/s")
    wanted = parser.parse_args()
    lines = []
    for spec in (spec for name in wanted.models for spec in models()[name]):
        operators = step_of(spec, wanted.rows)
        flops, moved = (sum(one[i] for one in operators) for i in (1, 2))
        as_it_is, fused = shares(operators, wanted.rate * 1e12, wanted.bandwidth * 1e9)
        products = sum(b for _, f, b in operators if f)
        lines.append(
            (
                spec.name,
                f"{flops / wanted.rows / 1e12:.3f}",
                f"{moved / wanted.rows / 1e9:.2f}",
                f"{products / moved:.0%}",
                f"{flops / moved:.0f}",
                f"{as_it_is:.0%}",
                f"{fused:.0%}",
                str(len(operators)),
            )
        )
    head = ("stage", "TFLOP a row", "GB a row", "of products", "FLOP a byte")
    print(f"at {wanted.rate:g} TFLOP/s and {wanted.bandwidth:g} GB/s, {wanted.rows} rows")
    print(table((*head, "as it is", "fused", "operators"), lines))


if __name__ == "__main__":
    main()
