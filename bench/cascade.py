"""One forward pass of every stage at its full format: time, achieved FLOP/s, peak memory.

    python bench/cascade.py [--preset mini] [--rounds N] [--json FILE]

bfloat16 weights, one unguided call, as in sampling. A stage that samples in windows of frames is
measured on one inner window, with the neighbouring frames it reads. Every stage runs in a process
of its own, whose peak memory counts the interpreter and PyTorch (about 0.25 GiB) too.
"""

import argparse
import json
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from common import ceiling_lines, ceilings, machine, seconds, table, write_json

from imagen_video import presets
from imagen_video.info import flops_per_call
from imagen_video.memory import keep_freed_memory
from imagen_video.spec import StageSpec
from imagen_video.stage import build_unet
from imagen_video.unet.inputs import Conditioning

TOKENS = 32


@dataclass(frozen=True)
class Row:
    """One call of one stage. `calls` cover the whole clip once."""

    stage: str
    video: str
    calls: float
    flops: int
    seconds: float
    peak_bytes: int


def inputs(spec: StageSpec, frames: int) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    """Noise and conditioning of one clip, as the sampler gives them: float32."""
    low = level = None
    if spec.input is not None:
        low = torch.randn(1, frames, spec.low_channels, *spec.input.size)
        level = torch.full((1,), 4.0)
    text, seen = torch.randn(1, 1, TOKENS, spec.unet.text_dim), torch.ones(1, 1, TOKENS) > 0
    cond = Conditioning(text, seen, torch.ones(1, dtype=torch.bool), low, level)
    return torch.randn(1, frames, 3, *spec.output.size), torch.zeros(1), cond


def measure(spec: StageSpec, rounds: int) -> Row:
    """One stage in this process."""
    keep_freed_memory()
    torch.manual_seed(0)
    window = spec.sampler.window or spec.output.frames
    around = spec.unet.temporal_reach if window < spec.output.frames else 0
    frames, inner = window + 2 * around, slice(around, around + window)
    unet = build_unet(spec).to(torch.bfloat16).eval()
    given = inputs(spec, frames)
    with torch.inference_mode():
        taken = seconds(lambda: unet(*given, inner), repeats=rounds)
    high = spec.output
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Row(
        stage=spec.name,
        video=f"{frames}x{high.height}x{high.width}",
        calls=high.frames / window,
        flops=flops_per_call(unet.to("meta"), spec, window, TOKENS, around=around),
        seconds=taken,
        peak_bytes=peak,
    )


def measure_apart(preset: str, stage: str, rounds: int) -> Row:
    """One stage in a process of its own."""
    command = [sys.executable, __file__, "--preset", preset, "--stage", stage]
    command += ["--rounds", str(rounds)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return Row(**json.loads(output))


def render(rows: list[Row], ceiling: float) -> str:
    head = ("stage", "frames", "TFLOP/call", "s/call", "TFLOP/s", "of ceiling", "peak GiB",
            "s/clip")  # fmt: skip
    lines = [
        (
            row.stage,
            row.video,
            f"{row.flops / 1e12:.3f}",
            f"{row.seconds:.3f}",
            f"{row.flops / row.seconds / 1e12:.2f}",
            f"{row.flops / row.seconds / ceiling:.0%}",
            f"{row.peak_bytes / 2**30:.2f}",
            f"{row.seconds * row.calls:.2f}",
        )
        for row in rows
    ]
    total = sum(row.seconds * row.calls for row in rows)
    work = sum(row.flops * row.calls for row in rows)
    rate = work / total
    lines.append(("whole clip", "", f"{work / 1e12:.3f}", "", f"{rate / 1e12:.2f}",
                  f"{rate / ceiling:.0%}", "", f"{total:.2f}"))  # fmt: skip
    return table(head, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="mini", help="a preset, or what `train` takes")
    parser.add_argument("--rounds", type=int, default=3, help="measured calls")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--stage", help="this stage alone, in this process, as a line of JSON")
    wanted = parser.parse_args()
    spec = presets.find(wanted.preset)
    if wanted.stage:
        print(json.dumps(vars(measure(spec.stage(wanted.stage), wanted.rounds))))
        return
    rows = [measure_apart(wanted.preset, stage.name, wanted.rounds) for stage in spec.stages]
    rates = {"bf16": ceilings(torch.bfloat16)}
    print(machine(), *ceiling_lines(rates), "", sep="\n")
    print(render(rows, max(rates["bf16"].values())))
    if wanted.json:
        write_json(wanted.json, rates, rows)


if __name__ == "__main__":
    main()
