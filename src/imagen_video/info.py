"""A cascade before it runs: parameters, FLOPs, memory and time of every stage."""

import json
import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from imagen_video.diffusion.guidance import guidance_weights
from imagen_video.spec import CascadeSpec, StageSpec
from imagen_video.stage import build_unet, by_window, sampling_schedule
from imagen_video.unet.inputs import Conditioning
from imagen_video.unet.unet import VideoUNet
from imagen_video.weights import working_dtype

# Seconds a FLOP for all that is no matrix product, from whole runs of `mini` on two kinds of two
# cores (docs/results.md): 28.7 TFLOP in 86 s at 2.5 TFLOP/s, 29.2 TFLOP in 135 s at 0.42.
AROUND = 2.4e-12
# Bytes that a process with its libraries and mini's text encoder holds before the first stage, and
# feature maps of the finest level at the peak of a call (12 to 15 in bench/scaling.py).
PROCESS = 0.6 * 2**30
MAPS = 14
FLOAT = 4


@dataclass(frozen=True)
class Row:
    """One stage. FLOPs count a multiplication and an addition as two; bytes are what it adds at the
    peak."""

    stage: str
    kind: str
    output: str
    parameters: int
    flops_per_call: int
    calls: int
    flops: int
    steps: int
    guided: bool
    memory_bytes: int
    seconds: float
    levels: tuple[str, ...]


def describe(spec: CascadeSpec) -> list[Row]:
    """One row a stage; nothing is allocated but a few matrices that measure this machine."""
    rate = 1 / (1 / matrix_rate() + AROUND)
    return [_row(stage, rate, spec.text.length) for stage in spec.stages]


def matrix_rate(repeats: int = 5, *, device: str | torch.device = "cpu") -> float:
    """FLOPs a second of a matrix product in a device's `working_dtype`, the best of a few."""
    side = 1024 if torch.device(device).type == "cpu" else 8192  # long against its launch
    a = torch.randn(side, side, dtype=working_dtype(device), device=device)
    best = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(a, a)[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def flops_per_call(
    unet: VideoUNet, spec: StageSpec, frames: int, tokens: int, *, around: int = 0
) -> int:
    """FLOPs of one call on one clip with one caption, counted on the meta device.

    `around` more frames on each side are looked at, as in a window of a longer clip.
    """
    inner, frames = slice(around, around + frames), frames + 2 * around
    z, logsnr, cond = call_on_meta(spec, frames, spec.output.size, tokens=tokens)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(z, logsnr, cond, inner)
    return counter.get_total_flops()


def call_on_meta(
    spec: StageSpec, frames: int, size: tuple[int, int], *, tokens: int, captions: int = 1
) -> tuple[Tensor, Tensor, Conditioning]:
    """What the network is given for one clip, as shapes alone."""
    with torch.device("meta"):
        low = level = None
        if spec.input is not None:
            low_size = (side // spec.space_factor for side in size)
            low, level = torch.zeros(1, frames, spec.low_channels, *low_size), torch.zeros(1)
        text = torch.zeros(1, captions, tokens, spec.unet.text_dim)
        seen = torch.ones(1, captions, tokens, dtype=torch.bool)
        weight = torch.zeros(1) if spec.unet.guided else None
        cond = Conditioning(
            text, seen, torch.ones(1, dtype=torch.bool), low, level, guidance=weight
        )
        return torch.zeros(1, frames, 3, *size), torch.zeros(1), cond


def _row(spec: StageSpec, rate: float, tokens: int) -> Row:
    unet = build_unet(spec, device="meta")
    parameters = sum(p.numel() for p in unet.parameters())
    frames = spec.output.frames
    # Attention over frames is not linear in them; the large stages, which have none, are.
    part = frames if spec.unet.temporal == "attention" else min(frames, 8)
    per_call = flops_per_call(unet, spec, part, tokens) * frames // part
    steps, schedule = spec.sampler.num_steps, sampling_schedule(spec)
    weights = guidance_weights(spec.sampler.guidance, steps, schedule)
    guided = any(weights) and not spec.unet.guided  # what has learned guidance takes one call
    calls = sum(2 if weight and guided else 1 for weight in weights)
    # Windows compute a part of the frames that they share with their neighbours twice.
    whole, window = per_call, spec.sampler.window
    if window:
        seen = flops_per_call(unet, spec, window, tokens, around=spec.unet.temporal_reach)
        alone = flops_per_call(unet, spec, window, tokens)
        whole += (-(-frames // window) - 1) * (seen - alone)
    return Row(
        stage=spec.name,
        kind=spec.kind,
        output=str(spec.output),
        parameters=parameters,
        flops_per_call=per_call,
        calls=calls,
        flops=whole * calls,
        steps=steps,
        guided=guided,
        memory_bytes=working_dtype().itemsize * parameters + _activations(spec, guided),
        seconds=whole * calls / rate,
        levels=tuple(_level(spec, i) for i in range(len(spec.unet.widths))),
    )


def _activations(spec: StageSpec, guided: bool) -> int:
    """Videos in float32 (z, v and the next z, the latter two of a window at a time where the stage
    has windows; of one step z is a window's too, joined of two), feature maps of the finest level,
    and the finished video in 8 bits."""
    frames = held = seen = spec.output.frames
    if spec.sampler.window:
        seen = min(seen, spec.sampler.window + 2 * spec.unet.temporal_reach)
        once = spec.sampler.num_steps == 1 and by_window(spec.sampler, frames=frames)
        held = 3 * seen if once else frames
    pixels = spec.output.height * spec.output.width
    features = MAPS * spec.unet.widths[0] * pixels // spec.unet.patch**2
    features *= seen * (2 if guided else 1)
    videos = 3 * FLOAT * pixels * (held + 2 * seen) + 3 * pixels * frames
    return videos + working_dtype().itemsize * features


def _level(spec: StageSpec, level: int) -> str:
    unet = spec.unet
    scale = unet.patch * 2**level
    parts = [f"{spec.output.height // scale}x{spec.output.width // scale}"]
    parts += [f"{unet.widths[level]} channels x {unet.blocks[level]}"]
    if level in unet.attention_levels:
        parts.append("self+text attention")
    if level in unet.cross_levels:
        parts.append("text attention")
    if level in unet.temporal_levels:
        parts.append(f"temporal {unet.temporal}")
    return ", ".join(parts)


def as_json(rows: list[Row]) -> str:
    return json.dumps([asdict(row) for row in rows], indent=2)


def as_table(rows: list[Row]) -> str:
    """The rows as text, with totals and the levels of every stage below."""
    head = ("stage", "kind", "output", "params", "TFLOP/call", "steps", "TFLOP", "memory", "time")
    body = [_cells(row) for row in rows]
    total = (
        "total", "", "", counted(sum(r.parameters for r in rows)),
        _tera(sum(r.flops_per_call for r in rows)), "", _tera(sum(r.flops for r in rows)),
        f"{(PROCESS + max(r.memory_bytes for r in rows)) / 2**30:.2f} GiB",
        f"{sum(r.seconds for r in rows):.0f} s",
    )  # fmt: skip
    table = [head, *body, total]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in table]
    dtype = str(working_dtype()).removeprefix("torch.")
    lines += ["", f"time and memory are estimates for this machine in {dtype}; the total's memory"]
    lines += ["is that of the largest stage and of the process around it", ""]
    for row in rows:
        lines += [f"{row.stage}: " + " | ".join(row.levels)]
    return "\n".join(line.rstrip() for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    steps = f"{row.steps}{' guided' if row.guided else ''}"
    memory, seconds = f"{row.memory_bytes / 2**30:.2f} GiB", f"{row.seconds:.0f} s"
    calls = (_tera(row.flops_per_call), steps, _tera(row.flops))
    return (row.stage, row.kind, row.output, counted(row.parameters), *calls, memory, seconds)


def counted(number: int) -> str:
    """Millions or billions, in short."""
    return f"{number / 1e9:.2f}B" if number >= 1e9 else f"{number / 1e6:.2f}M"


def _tera(flops: int) -> str:
    return f"{flops / 1e12:.3f}"
