"""Training steps of whole models: time, share of the matrix rate, and peak memory and FLOPs beside
what `imagen-video plan` foretells.

    python bench/training_step.py [--models mini wide large] [--rows N] [--accumulate N]
        [--recompute] [--compiled] [--device cuda]
    torchrun --nproc-per-node 2 bench/training_step.py --shards 2

Runs the trainer's own step, AdamW and average included, on random pixels and embeddings. Memory is
what the allocator gave out at most: on a GPU by `max_memory_allocated`, on a CPU by the profiler's
record of one step, on top of what is kept between steps. As on a GPU a second batch lies ready.
"""

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from common import machine, seconds, table
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from imagen_video import presets
from imagen_video.data.mix import Batch, Mix
from imagen_video.data.stickers.source import StickerSource
from imagen_video.distributed import Ranks, started
from imagen_video.info import matrix_rate
from imagen_video.spec import StageSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.text.cache import EmbeddingTable
from imagen_video.training.ahead import Data, Ready
from imagen_video.training.engine import uncompiled
from imagen_video.training.plan import BATCHES, Needs
from imagen_video.training.run import RunSpec, trained_format
from imagen_video.training.trainer import Trainer
from imagen_video.training.watch import Watch

TOKENS = 32


def models() -> dict[str, list[StageSpec]]:
    """mini's stages, and two bases of 16x24x40 that are larger: 92M and 300M parameters."""
    mini = presets.mini().stages
    base = mini[0]
    wide = replace(base.unet, widths=(192, 256, 384), blocks=(4, 6, 13))
    large = replace(base.unet, widths=(320, 640, 960), blocks=(2, 4, 7), head_dim=64)
    return {
        "mini": list(mini),
        "wide": [replace(base, name="wide", unet=wide)],
        "large": [replace(base, name="large", unet=large)],
    }


@dataclass(frozen=True)
class Row:
    stage: str
    parameters: int
    rows: int
    seconds: float
    flops: int
    model_flops: int
    foretold_flops: int
    peak_bytes: int
    foretold_bytes: int


def captions_of(spec: StageSpec, rows: int) -> list[tuple[str, ...]]:
    """As many different ones as can be: one a frame of packed images, one a clip."""
    frames, packs = trained_format(spec).frames, min(rows, spec.train.image_packs)
    own = [tuple(f"image {frame} of {row}" for frame in range(frames)) for row in range(packs)]
    return own + [(f"clip {row}",) * frames for row in range(packs, rows)]


def trainer_of(spec: StageSpec, rows: int, run: RunSpec, out: Path, ranks: Ranks) -> Trainer:
    torch.manual_seed(0)
    told = {caption for row in captions_of(spec, rows) for caption in row}
    captions = {caption: torch.randn(TOKENS, spec.unet.text_dim) for caption in told}
    train = replace(spec.train, clips=ranks.ranks * run.accumulate, image_packs=0)
    mix = Mix(StickerSource(0), replace(spec, train=train), seed=0, steps=1)
    data = Data(mix, EmbeddingTable("random", TOKENS, captions))
    unet = None if ranks.first else build_unet(spec, device="meta")
    return Trainer(Stage(spec, unet), data, out, run, ranks=ranks)


def batch_of(spec: StageSpec, rows: int) -> Batch:
    shown = trained_format(spec)
    video = torch.randint(0, 256, (rows, shown.frames, 3, *shown.size), dtype=torch.uint8)
    captions = tuple(captions_of(spec, rows))
    is_video = torch.ones(rows, dtype=torch.bool)
    return Batch(video, captions, is_video, torch.arange(shown.frames), tuple(range(rows)), rows)


def kept_bytes(trainer: Trainer, batches: list[list[Ready]]) -> int:
    """This process's weights, average and optimizer state, and what lies ready to be trained on."""
    ready = [part for parts in batches for part in parts]
    data = [value for part in ready for value in (part.video, part.text.tokens, part.text.mask)]
    moments = [v for state in trainer.optimizer.state.values() for v in state.values()]
    kept = [*trainer.stage.unet.parameters(), *trainer.ema.average.values(), *moments, *data]
    return sum(getattr(value, "_local_tensor", value).nbytes for value in kept)


def peak_on_cpu(step) -> int:
    """What the allocator gave out at most during one step."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def measure(spec: StageSpec, wanted: argparse.Namespace, ranks: Ranks, out: Path) -> Row:
    rows = wanted.rows or spec.train.clips + spec.train.image_packs
    recompute, device = wanted.recompute, ranks.device.type
    run = RunSpec(  # what the plan foretells is bfloat16's
        precision="bf16",
        recompute=recompute,
        accumulate=wanted.accumulate,
        compiled=wanted.compiled,
    )
    all_rows = rows * run.accumulate
    trainer = trainer_of(spec, all_rows, run, out, ranks)
    batches = [trainer.made_ready(batch_of(spec, all_rows)) for _ in range(BATCHES)]
    watch = Watch(trainer.ranks, flops_per_row=1, peak_flops=1.0)

    def step() -> None:
        trainer.train_on(batches[0], watch)
        if device != "cpu":
            torch.cuda.synchronize()

    step()
    trainer.optimizer.zero_grad(set_to_none=True)
    if device == "cpu":
        peak = kept_bytes(trainer, batches) + peak_on_cpu(step)
    else:
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated()
    with uncompiled(run.compiled), FlopCounterMode(display=False) as counter:
        step()
    needs = Needs(spec, TOKENS)
    return Row(
        stage=spec.name,
        parameters=needs.parameters,
        rows=rows,
        seconds=seconds(
            step, repeats=2 if device == "cpu" else 10, warmup=0 if device == "cpu" else 3
        ),
        flops=counter.get_total_flops(),
        model_flops=all_rows * needs.flops(recompute=False),
        foretold_flops=all_rows * needs.flops(recompute=recompute),
        peak_bytes=peak,
        foretold_bytes=needs.bytes_on_one(
            rows,
            gpus=ranks.ranks,
            shards=wanted.shards,
            recompute=recompute,
            accumulate=run.accumulate,
        ),
    )


def render(rows: list[Row], rate: float) -> str:
    head = ("stage", "params", "rows", "s/step", "TFLOP/s", "of rate", "TFLOP", "foretold",
            "error", "peak GiB", "foretold", "error")  # fmt: skip
    lines = [
        (
            row.stage,
            f"{row.parameters / 1e6:.1f}M",
            str(row.rows),
            f"{row.seconds:.3f}",
            f"{row.model_flops / row.seconds / 1e12:.3f}",
            f"{row.model_flops / row.seconds / rate:.0%}",
            f"{row.flops / 1e12:.4f}",
            f"{row.foretold_flops / 1e12:.4f}",
            f"{row.foretold_flops / row.flops - 1:+.1%}",
            f"{row.peak_bytes / 2**30:.3f}",
            f"{row.foretold_bytes / 2**30:.3f}",
            f"{row.foretold_bytes / row.peak_bytes - 1:+.1%}",
        )
        for row in rows
    ]
    return table(head, lines)


def main() -> None:
    known = models()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=known, default=list(known))
    parser.add_argument("--rows", type=int, help="at a time (default: the stage's own)")
    parser.add_argument("--accumulate", type=int, default=1, help="so many times --rows a step")
    parser.add_argument("--recompute", action="store_true")
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    wanted = parser.parse_args()
    with started(wanted.device, shards=wanted.shards) as ranks:
        rate = matrix_rate(device=ranks.device)
        rows = []
        for spec in (spec for name in wanted.models for spec in known[name]):
            with tempfile.TemporaryDirectory() as out:
                rows.append(measure(spec, wanted, ranks, Path(out)))
        if ranks.first:
            place = machine() if wanted.device == "cpu" else torch.cuda.get_device_name()
            print(
                f"{place}, {ranks.ranks} processes: bf16 matrix product {rate / 1e12:.2f} TFLOP/s"
            )
            print(render(rows, rate))


if __name__ == "__main__":
    main()
