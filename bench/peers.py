"""Our video U-Net against imagen-pytorch's and diffusers': forward and training step, one run.

    sh install.sh test && pip install --no-deps "imagen-pytorch==2.1.*" "diffusers==0.40.*"
    python bench/peers.py [--clips N] [--rounds N] [--device cuda] [--json FILE]

Every network sees the same 16x24x40 clips and 32 text tokens. A training step is forward, backward
and a fused AdamW step. The networks take turns in every round, so that drift of the machine hits
all of them; the table shows medians.
"""

import argparse
import importlib
import importlib.util
import statistics
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import ceiling_lines, ceilings, machine, stopwatch, table, write_json
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from imagen_video import presets
from imagen_video.spec_unet import UNetSpec
from imagen_video.unet.inputs import Conditioning
from imagen_video.unet.unet import VideoUNet

FRAMES, HEIGHT, WIDTH, TOKENS, TEXT_DIM = 16, 24, 40, 32, 384
IMAGEN, DIFFUSERS = "imagen-pytorch 2.1 Unet3D", "diffusers 0.40 UNet3D"
STUBS = """Of imagen-pytorch only imagen_video.py runs. Its package's __init__ (training and image
augmentation: torchvision, kornia, accelerate, ...) and its t5.py (asks the hub for an encoder's
width at import) are stubbed; the network itself is whole."""


@dataclass(frozen=True)
class Network:
    """A network and how it is called on (video as b f c h w, noise level, text as b n d)."""

    name: str
    module: nn.Module
    call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Row:
    """One network in one precision; everything but parameters is per clip."""

    network: str
    precision: str
    parameters: int
    forward_flops: float
    step_flops: float
    forward_seconds: float
    step_seconds: float


def imagen_pytorch() -> Network:
    """`Unet3D` of the same widths, attention at the two coarse levels."""
    found = importlib.util.find_spec("imagen_pytorch")
    if found is None or found.submodule_search_locations is None:
        raise SystemExit('pip install --no-deps "imagen-pytorch==2.1.*" first')
    package, t5 = types.ModuleType("imagen_pytorch"), types.ModuleType("imagen_pytorch.t5")
    package.__path__ = list(found.submodule_search_locations)
    vars(t5).update(DEFAULT_T5_NAME="", get_encoded_dim=lambda name: TEXT_DIM, t5_encode_text=None)
    sys.modules |= {package.__name__: package, t5.__name__: t5}
    module = importlib.import_module("imagen_pytorch.imagen_video").Unet3D(
        dim=64,
        dim_mults=(1, 2, 4),
        num_resnet_blocks=2,
        layer_attns=(False, True, True),
        layer_cross_attns=(False, True, True),
        text_embed_dim=TEXT_DIM,
        max_text_len=TOKENS,
    )

    def call(unet: nn.Module, video: Tensor, level: Tensor, text: Tensor) -> Tensor:
        return unet(video.transpose(1, 2), level, text_embeds=text).transpose(1, 2)

    return Network(IMAGEN, module, call)


def diffusers() -> Network:
    """`UNet3DConditionModel` of the same widths, attention at the two coarse levels."""
    from diffusers import UNet3DConditionModel

    module = UNet3DConditionModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(64, 128, 256),
        layers_per_block=2,
        down_block_types=("DownBlock3D", "CrossAttnDownBlock3D", "CrossAttnDownBlock3D"),
        up_block_types=("CrossAttnUpBlock3D", "CrossAttnUpBlock3D", "UpBlock3D"),
        cross_attention_dim=TEXT_DIM,
    )

    def call(unet: nn.Module, video: Tensor, level: Tensor, text: Tensor) -> Tensor:
        return unet(video.transpose(1, 2), level, text).sample.transpose(1, 2)

    return Network(DIFFUSERS, module, call)


def ours(name: str, spec: UNetSpec) -> Network:
    """A U-Net of this package; called as the base stage calls it."""

    def call(unet: nn.Module, video: Tensor, level: Tensor, text: Tensor) -> Tensor:
        seen = torch.ones(text.shape[0], 1, text.shape[1], dtype=torch.bool, device=text.device)
        is_video = torch.ones(text.shape[0], dtype=torch.bool, device=text.device)
        return unet(video, level, Conditioning(text[:, None], seen, is_video))

    return Network(name, VideoUNet(spec), call)


def networks() -> list[Network]:
    """The peers, mini's base, and ours with over 20M parameters at mini's patch and at patch 1."""
    mini = presets.mini().stage("base").unet
    wide = replace(mini, widths=(128, 224, 448))
    plain = replace(mini, widths=(64, 128, 448), blocks=(1, 2, 3), patch=1)
    return [
        imagen_pytorch(),
        diffusers(),
        ours("ours, mini base (patch 2)", mini),
        ours("ours, wide (patch 2)", wide),
        ours("ours, wide (patch 1)", plain),
    ]


def batch(clips: int) -> tuple[Tensor, Tensor, Tensor]:
    video = torch.randn(clips, FRAMES, 3, HEIGHT, WIDTH)
    return video, torch.rand(clips), torch.randn(clips, TOKENS, TEXT_DIM)


def flops(network: Network) -> tuple[int, int]:
    """FLOPs of a forward pass and of forward and backward, one clip.

    Counted with plain attention products, because the counter does not know every fused kernel.
    """
    forward, backward = (FlopCounterMode(display=False) for _ in range(2))
    with sdpa_kernel(SDPBackend.MATH):
        with forward:
            out = network.call(network.module, *batch(1))
        with backward:
            out.square().mean().backward()
    network.module.zero_grad(set_to_none=True)
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def measures(network: Network, clips: int, precision: str) -> dict[str, Callable[[], Any]]:
    """What is timed: a forward pass without gradients and a whole training step."""
    optimizer = torch.optim.AdamW(network.module.parameters(), lr=1e-6, fused=True)
    inputs = batch(clips)
    kind = torch.get_default_device().type
    autocast = torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")

    def forward() -> None:
        with torch.no_grad(), autocast:
            network.call(network.module, *inputs)

    def step() -> None:
        with autocast:
            out = network.call(network.module, *inputs)
        (out.float() - inputs[0]).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return {"forward": forward, "step": step}


def measure(found: list[Network], *, precision: str, clips: int, rounds: int) -> list[Row]:
    """All networks in one precision, in turns; the first round warms up and is dropped."""
    timed = {n.name: measures(n, clips, precision) for n in found}
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds + 1):
        for name, functions in timed.items():
            for kind, function in functions.items():
                times.setdefault((name, kind), []).append(stopwatch(function) / clips)
    middle = {key: statistics.median(values[1:]) for key, values in times.items()}
    rows = []
    for network in found:
        forward, step = flops(network)
        parameters = sum(p.numel() for p in network.module.parameters())
        taken = (middle[network.name, "forward"], middle[network.name, "step"])
        rows.append(Row(network.name, precision, parameters, forward, step, *taken))
    return rows


def render(rows: list[Row]) -> str:
    """Times, rates, and how many times faster than each peer: in time, and in time per FLOP."""
    peer = {(r.network, r.precision): r for r in rows if r.network in (IMAGEN, DIFFUSERS)}
    head = ("network", "params", "GFLOP fwd", "GFLOP step", "fwd s", "step s", "TFLOP/s fwd",
            "TFLOP/s step", "fwd vs i-p", "step vs i-p", "per FLOP", "step vs diffusers",
            "per FLOP ")  # fmt: skip
    blocks = []
    for precision in dict.fromkeys(row.precision for row in rows):
        lines = []
        for row in (r for r in rows if r.precision == precision):
            cells = [row.network, f"{row.parameters / 1e6:.1f}M"]
            cells += [f"{x / 1e9:.0f}" for x in (row.forward_flops, row.step_flops)]
            cells += [f"{x:.4f}" for x in (row.forward_seconds, row.step_seconds)]
            cells += [f"{_rate(row, kind) / 1e12:.2f}" for kind in ("forward", "step")]
            imagen, other = peer[IMAGEN, precision], peer[DIFFUSERS, precision]
            cells += [f"{imagen.forward_seconds / row.forward_seconds:.1f}x"]
            for rival in (imagen, other):
                cells += [f"{rival.step_seconds / row.step_seconds:.1f}x"]
                cells += [f"{_rate(row, 'step') / _rate(rival, 'step'):.1f}x"]
            lines.append(tuple(cells))
        blocks.append(f"{precision}, per clip\n{table(head, lines)}")
    return "\n\n".join(blocks)


def _rate(row: Row, kind: str) -> float:
    return getattr(row, f"{kind}_flops") / getattr(row, f"{kind}_seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=4, help="clips a batch")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    wanted = parser.parse_args()
    torch.set_default_device(wanted.device)
    torch.manual_seed(0)
    ceiling = {"fp32": ceilings(torch.float32), "bf16": ceilings(torch.bfloat16)}
    found = networks()
    rows = []
    for precision in ("fp32", "bf16"):
        rows += measure(found, precision=precision, clips=wanted.clips, rounds=wanted.rounds)
    print(machine(), *ceiling_lines(ceiling), STUBS, "", render(rows), sep="\n")
    if wanted.json:
        write_json(wanted.json, ceiling, rows)


if __name__ == "__main__":
    main()
