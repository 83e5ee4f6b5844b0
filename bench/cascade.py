"""One forward pass of every stage at its full format: time, achieved FLOP/s, peak memory; or a
whole run.

    python bench/cascade.py [--preset mini] [--rounds N] [--json FILE] [--device cuda] [--graphs]
    python bench/cascade.py --prompt "a cat" [--model mini] [--until STAGE] [--json FILE]

With a prompt it runs a trained cascade from text to mp4 and shows what every stage's seconds go
into: calls of the network, and beside them conditioning, noise, the sampler's moves and the rest.
Without one: bfloat16 weights, one call, as in sampling. A stage that samples in windows of
frames is measured on one inner window, with the neighbouring frames it reads. Every stage runs in a
process of its own, whose peak memory counts the interpreter and PyTorch (about 0.25 GiB) too; on a
GPU it is what the allocator gave out. With `--graphs` a GPU replays the call as a CUDA graph.
`--preset bench/cascade.py:billions` are the paper's networks at half their widths.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from common import ceiling_lines, ceilings, machine, seconds, table, write_json

from imagen_video import presets, sampling
from imagen_video.cascade import Cascade
from imagen_video.diffusion import sampler
from imagen_video.info import describe, flops_per_call
from imagen_video.memory import keep_freed_memory
from imagen_video.sampling import SampleSpec
from imagen_video.spec import CascadeSpec, StageSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.unet.inputs import Conditioning
from imagen_video.unet.unet import VideoUNet
from imagen_video.weights import working_dtype

TOKENS = 32
WINDOWS = {"tsr2": 16, "tsr3": 16, "ssr3": 4}
"""Frames that a card of 80 GB has room for, of the largest stages of `billions`."""


def billions() -> CascadeSpec:
    """The paper's cascade with networks half as wide."""
    whole, stages = presets.paper(), []
    for stage in whole.stages:
        unet = replace(stage.unet, widths=tuple(width // 2 for width in stage.unet.widths))
        cut = replace(stage.sampler, window=WINDOWS.get(stage.name))
        stages.append(replace(stage, unet=unet, sampler=cut))
    return replace(whole, name="billions", stages=tuple(stages))


@dataclass(frozen=True)
class Row:
    """One call of one stage. `calls` cover the whole clip once."""

    stage: str
    video: str
    calls: float
    flops: int
    seconds: float
    peak_bytes: int


def conditioning(spec: StageSpec, frames: int) -> Conditioning:
    """Conditioning of one clip, as the sampler gives it: float32."""
    low = level = None
    if spec.input is not None:
        low = torch.randn(1, frames, spec.low_channels, *spec.input.size)
        level = torch.full((1,), 4.0)
    text, seen = torch.randn(1, 1, TOKENS, spec.unet.text_dim), torch.ones(1, 1, TOKENS) > 0
    told = torch.full((1,), spec.sampler.guidance.weight) if spec.unet.guided else None
    return Conditioning(text, seen, torch.ones(1) > 0, low, level, guidance=told)


def measure(spec: StageSpec, rounds: int, *, graphs: bool) -> Row:
    """One stage in this process, on the default device."""
    keep_freed_memory()
    torch.manual_seed(0)
    window = spec.sampler.window or spec.output.frames
    around = spec.unet.temporal_reach if window < spec.output.frames else 0
    frames, inner = window + 2 * around, slice(around, around + window)
    unet = build_unet(spec, device=torch.get_default_device()).to(torch.bfloat16).eval()
    cond, high = conditioning(spec, frames), spec.output
    z, logsnr = torch.randn(1, frames, 3, *high.size), torch.zeros(1)
    with torch.inference_mode():
        call = replayed(lambda: unet(z, logsnr, cond, inner), graphs)
        taken = seconds(call, repeats=rounds)
    return Row(
        stage=spec.name,
        video=f"{frames}x{high.height}x{high.width}",
        calls=high.frames / window,
        flops=flops_per_call(unet.to("meta"), spec, window, TOKENS, around=around),
        seconds=taken,
        peak_bytes=peak(),
    )


def replayed(call: Callable[[], Any], graphs: bool) -> Callable[[], Any]:
    """The call as a CUDA graph, if asked for."""
    if not graphs:
        return call
    with torch.cuda.stream(torch.cuda.Stream()):  # libraries choose their kernels on the first
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def measure_apart(wanted: argparse.Namespace, stage: str) -> Row:
    """One stage in a process of its own."""
    command = [sys.executable, __file__, "--preset", wanted.preset, "--stage", stage]
    command += ["--rounds", str(wanted.rounds), "--device", wanted.device]
    command += ["--graphs"] * wanted.graphs
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


NETWORK, CONDITIONING, NOISE, SMALL, REST = (
    "network",
    "conditioning",
    "noise",
    "to 8 bits",
    "moves and the rest",
)


@dataclass(frozen=True)
class Spent:
    """What a part of a whole run took; `flops` are 0 where nothing is counted."""

    stage: str
    seconds: dict[str, float]
    flops: int
    peak_bytes: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


class Ledger:
    """Seconds by what they go into; a part inside another counts for itself alone."""

    def __init__(self):
        self.seconds: Counter[str] = Counter()
        self._inner: list[float] = []

    @contextmanager
    def timing(self, owner: Any, name: str, part: str) -> Iterator[None]:
        """Whatever calls `owner.name` meanwhile."""
        real = getattr(owner, name)

        def timed(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            self._inner.append(0.0)
            try:
                return real(*args, **options)
            finally:
                taken = time.perf_counter() - start
                self.seconds[part] += taken - self._inner.pop()
                if self._inner:
                    self._inner[-1] += taken

        setattr(owner, name, timed)
        try:
            yield
        finally:
            setattr(owner, name, real)

    def taken(self, seconds: float) -> dict[str, float]:
        """What was noted since the last call, and what of these seconds was not."""
        noted, self.seconds = dict(self.seconds), Counter()
        return noted | {REST: seconds - sum(noted.values())}


def whole_run(model: str, prompt: str, until: str | None) -> list[Spent]:
    """From text to mp4, stage by stage, in this process."""
    work = {row.stage: row.flops for row in describe(presets.shipped(model))}
    start, rows, ledger = time.perf_counter(), [], Ledger()
    cascade = Cascade.from_pretrained(model)

    def note(stage: str, flops: int = 0) -> None:
        nonlocal start
        now = time.perf_counter()
        rows.append(Spent(stage, ledger.taken(now - start), flops, peak()))
        start = now

    note("loading")
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for owner, name, part in (
            (VideoUNet, "forward", NETWORK),
            (Stage, "conditioning", CONDITIONING),
            (sampler, "next_frames", NOISE),
            (sampling, "_frames_of", SMALL),
        ):
            stack.enter_context(ledger.timing(owner, name, part))
        for progress in cascade.stream([prompt], SampleSpec(until=until)):
            if progress.video is not None:
                note(progress.stage, work[progress.stage])
                video, fps = progress.video, progress.fps
        sampling.save_video(Path(folder) / "video.mp4", video, fps=fps, metadata={})
        note("mp4")
    return rows


def render_whole(rows: list[Spent], ceiling: float) -> str:
    parts = (NETWORK, CONDITIONING, NOISE, SMALL, REST)
    head = ("", *parts, "s", "TFLOP", "network's TFLOP/s", "of ceiling", "peak GiB")
    lines = []
    for row in [*rows, summed(rows)]:
        spent = [f"{row.seconds.get(part, 0):.2f}" for part in parts]
        rate = row.flops / row.seconds[NETWORK] if row.flops else 0
        reached = (f"{row.flops / 1e12:.3f}", f"{rate / 1e12:.2f}", f"{rate / ceiling:.0%}")
        peaked = f"{row.peak_bytes / 2**30:.2f}"
        lines.append((row.stage, *spent, f"{row.total:.2f}", *reached, peaked))
    return table(head, lines)


def summed(rows: list[Spent]) -> Spent:
    seconds: Counter[str] = Counter()
    for row in rows:
        seconds.update(row.seconds)
    return Spent("in all", dict(seconds), sum(row.flops for row in rows), rows[-1].peak_bytes)


def peak() -> int:
    """The largest memory of this process so far, on a GPU of its tensors there."""
    if torch.get_default_device().type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="mini", help="a preset, or what `train` takes")
    parser.add_argument("--rounds", type=int, default=3, help="measured calls")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--prompt", help="a whole run instead")
    parser.add_argument("--model", default="mini", help="the cascade of a whole run")
    parser.add_argument("--until", help="the last stage of a whole run")
    parser.add_argument("--stage", help="this stage alone, in this process, as a line of JSON")
    parser.add_argument("--device", default="cpu", help="of the calls; a whole run takes the CPU")
    parser.add_argument("--graphs", action="store_true", help="replay calls as CUDA graphs")
    wanted = parser.parse_args()
    torch.set_default_device(wanted.device)
    spec = presets.shipped(wanted.preset)
    if wanted.stage:
        stage = spec.stage(wanted.stage)
        print(json.dumps(vars(measure(stage, wanted.rounds, graphs=wanted.graphs))))
        return
    if wanted.prompt:
        keep_freed_memory()
        dtype = working_dtype()
        rows = whole_run(wanted.model, wanted.prompt, wanted.until)
    else:
        dtype = torch.bfloat16
        rows = [measure_apart(wanted, stage.name) for stage in spec.stages]
    rates = {str(dtype).removeprefix("torch."): ceilings(dtype)}
    ceiling = max(rate for found in rates.values() for rate in found.values())
    print(machine(), *ceiling_lines(rates), "", sep="\n")
    print(render_whole(rows, ceiling) if wanted.prompt else render(rows, ceiling))
    if wanted.json:
        write_json(wanted.json, rates, rows)


if __name__ == "__main__":
    main()
