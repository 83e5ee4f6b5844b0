"""A stage against the number of frames and of pixels: time, memory, fitted slopes.

    python bench/scaling.py [--preset mini] [--stages base ssr3] [--json FILE]

Frames 16, 32, ... 1024 of a size with as many pixels as 96x160 or the stage's own, if fewer; pixels
from a sixteenth of that to the stage's own, 16 frames. It is a run of one step: noise, the network
in the stage's windows, the clean video. Every point is a process of its own; memory is what the run
adds to the weights and the conditioning, and a slope is the exponent of a power law through the
points: 1 is in proportion, 0 is flat.
"""

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from cascade import conditioning, peak
from common import machine, stopwatch, table, write_json

from imagen_video import presets
from imagen_video.diffusion.sampler import Noise
from imagen_video.memory import keep_freed_memory
from imagen_video.sampling import bounded
from imagen_video.spec import StageSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.video import VideoFormat
from imagen_video.weights import working_dtype

FRAMES = tuple(16 * 2**i for i in range(7))
LARGEST = 96 * 160
"""Pixels of the videos whose number of frames varies."""


@dataclass(frozen=True)
class Point:
    """One step on one clip."""

    stage: str
    frames: int
    height: int
    width: int
    seconds: float
    bytes: int


def resized(spec: StageSpec, frames: int, scale: float) -> StageSpec:
    """The stage at another length, and at about `scale` of its sides: legal and of its shape."""
    step = math.lcm(spec.unet.multiple, spec.space_factor)
    height, width = (max(step, round(side * scale / step) * step) for side in spec.output.size)
    low, high = spec.input, VideoFormat(frames, height, width, spec.output.fps)
    if low is not None:
        size = height // spec.space_factor, width // spec.space_factor
        low = VideoFormat(frames // spec.time_factor, *size, low.fps)
    sampler, train = bounded(spec.sampler, spec, frames), replace(spec.train, crop=None)
    return replace(spec, input=low, output=high, sampler=sampler, train=train)


def measure(spec: StageSpec) -> Point:
    """One step of a stage at its format, in this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    stage, high = Stage(spec, build_unet(spec).to(working_dtype()).eval()), spec.output
    cond = conditioning(spec, high.frames)
    guidance = replace(spec.sampler.guidance, interval=None)  # the only step is at one end
    sampler = replace(spec.sampler, num_steps=1, guidance=guidance)
    shape = (1, high.frames, 3, *high.size)

    def run() -> None:
        for state in stage.sample_steps(cond, shape, Noise(0), sampler=sampler):
            _ = state.x

    before = peak()
    with torch.inference_mode():
        taken = stopwatch(run)
    return Point(spec.name, high.frames, high.height, high.width, taken, peak() - before)


def measure_apart(preset: str, stage: str, frames: int, scale: float) -> Point:
    words = ["--preset", preset, "--stages", stage, "--point", str(frames), str(scale)]
    output = subprocess.run(
        [sys.executable, __file__, *words], check=True, capture_output=True, text=True
    ).stdout
    return Point(**json.loads(output))


def slope(x: list[float], y: list[float]) -> float:
    """The exponent of the power law that is nearest in the logarithm of both."""
    a, b = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a * a).sum())


def render(points: list[Point], along: str) -> str:
    """A line a point, and the slopes below."""
    sizes = [float(p.frames if along == "frames" else p.height * p.width) for p in points]
    lines = [
        (
            f"{p.frames}x{p.height}x{p.width}",
            f"{p.seconds:.3f}",
            f"{p.bytes / 2**20:.0f}",
            f"{p.bytes / 2**20 / p.frames:.2f}",
        )
        for p in points
    ]
    slopes = [slope(sizes, [getattr(p, name) for p in points]) for name in ("seconds", "bytes")]
    lines.append((f"slope along {along}", *(f"{found:.2f}" for found in slopes), ""))
    return table((points[0].stage, "seconds", "MiB", "MiB a frame"), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="mini", help="a preset, or what `train` takes")
    parser.add_argument("--stages", nargs="+", help="these alone")
    parser.add_argument("--json", type=Path, help="also write the points to this file")
    parser.add_argument("--point", nargs=2, type=float, metavar=("FRAMES", "SCALE"),
                        help="this one alone, in this process, as a line of JSON")  # fmt: skip
    wanted = parser.parse_args()
    spec = presets.shipped(wanted.preset)
    stages = [spec.stage(name) for name in wanted.stages or (s.name for s in spec.stages)]
    if wanted.point:
        frames, scale = wanted.point
        print(json.dumps(vars(measure(resized(stages[0], int(frames), scale)))))
        return
    print(machine())
    points = []
    for stage in stages:
        own = math.sqrt(stage.output.height * stage.output.width / LARGEST)
        scale = min(1.0, 1 / own)
        by_frames = [measure_apart(wanted.preset, stage.name, n, scale) for n in FRAMES]
        scales = [scale * 2**i / 4 for i in range(8) if scale * 2**i / 4 <= 1.01]
        by_pixels = [measure_apart(wanted.preset, stage.name, 16, min(1.0, s)) for s in scales]
        print("", render(by_frames, "frames"), render(by_pixels, "pixels"), sep="\n")
        points += by_frames + by_pixels
    if wanted.json:
        write_json(wanted.json, {}, points)


if __name__ == "__main__":
    main()
