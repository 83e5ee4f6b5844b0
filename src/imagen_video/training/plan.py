"""What training a cascade takes on so many GPUs of so much memory, before any of it starts."""

import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from imagen_video.spec import CascadeSpec, StageSpec
from imagen_video.stage import build_unet
from imagen_video.training.dry import (
    FLOAT,
    StepMemory,
    optimizer_bytes,
    step_memory,
    training_flops,
)
from imagen_video.training.engine import blocks_of
from imagen_video.training.run import NODE, ranks_for, trained_format

HALF = 2
BATCHES = 2  # on a GPU: the one that is trained on, and the next
# Of a GPU's memory: the allocator's gaps and CUDA itself have the rest.
USABLE = 0.9
GIB, TERA = 2**30, 1e12


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """GPUs with so many GiB and bfloat16 TFLOP/s each, of which training gets a share
    (recomputation included)."""

    gpus: int = 8
    gpu_memory: float = 80.0
    tflops: float = 989.0
    utilisation: float = 0.4

    def __post_init__(self):
        for name in ("gpus", "gpu_memory", "tflops"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if not 0 < self.utilisation <= 1:
            raise ValueError(f"utilisation must lie in (0, 1], got {self.utilisation}")


class Needs:
    """What a stage needs wherever it trains: bytes of what is kept, FLOPs of one row."""

    def __init__(self, spec: StageSpec, tokens: int):
        self.spec, self.tokens = spec, tokens
        unet = build_unet(spec, device="meta")
        self.parameters = sum(p.numel() for p in unet.parameters())
        blocks = [sum(p.numel() for p in block.parameters()) for block in blocks_of(unet)]
        self._largest, self._rest = max(blocks), self.parameters - sum(blocks)
        self.weights = self.gradients = self.ema = FLOAT * self.parameters
        self._steps: dict[tuple[int, bool, bool], StepMemory] = {}
        self._flops: dict[bool, int] = {}

    @cached_property
    def optimizer(self) -> int:
        return optimizer_bytes(self.spec)

    def flops(self, *, recompute: bool) -> int:
        """Of one row, forwards and backwards."""
        if recompute not in self._flops:
            self._flops[recompute] = training_flops(self.spec, self.tokens, recompute=recompute)
        return self._flops[recompute]

    def step(self, rows: int, *, recompute: bool, sharded: bool) -> StepMemory:
        """What a step on one or two rows of a batch allocates."""
        key = rows, recompute, sharded
        if key not in self._steps:
            self._steps[key] = step_memory(
                self.spec, self.tokens, rows, recompute=recompute, sharded=sharded
            )
        return self._steps[key]

    def bytes_on_one(
        self, rows: int, *, gpus: int, shards: int, recompute: bool, accumulate: int = 1
    ) -> int:
        """The peak on each of `gpus` that hold the network in `shards`."""
        sharded = gpus > 1
        steps = [self.step(n, recompute=recompute, sharded=sharded) for n in (1, 2)]
        one, two = (step.peak(shards) for step in steps)
        if accumulate > 1:  # all gradients of the parts before are there all the time
            one, two = (step.activations + self.gradients // shards for step in steps)
        kept = (self.weights + self.optimizer + self.ema) // shards
        kept += BATCHES * self.batch_bytes(rows * accumulate)
        return kept + one + (rows - 1) * (two - one) + (self._gathered() if sharded else 0)

    def batch_bytes(self, rows: int) -> int:
        """Of pixels in 8 bits and of captions, one a clip and one a frame of packed images."""
        shown, packs = trained_format(self.spec), min(rows, self.spec.train.image_packs)
        captions = rows - packs + packs * shown.frames
        token = FLOAT * self.spec.unet.text_dim + 1
        return rows * shown.frames * 3 * math.prod(shown.size) + captions * self.tokens * token

    def _gathered(self) -> int:
        """Whole weights of one block, of the next, and of what is in none; a block's gradient."""
        return HALF * (2 * self._largest + self._rest) + FLOAT * self._largest


@dataclass(frozen=True)
class Plan:
    """How a stage is best trained: `rows` at a time on every GPU, `accumulate` times a step."""

    needs: Needs
    hardware: Hardware
    shards: int
    recompute: bool
    rows: int
    accumulate: int

    @property
    def bytes_on_one(self) -> int:
        return self.needs.bytes_on_one(
            self.rows,
            gpus=self.hardware.gpus,
            shards=self.shards,
            recompute=self.recompute,
            accumulate=self.accumulate,
        )

    @property
    def fits(self) -> bool:
        return self.bytes_on_one <= USABLE * GIB * self.hardware.gpu_memory

    @property
    def rows_per_second(self) -> float:
        rate = self.hardware.gpus * self.hardware.tflops * TERA * self.hardware.utilisation
        return rate / self.needs.flops(recompute=self.recompute)

    @property
    def days(self) -> float:
        train = self.needs.spec.train
        rows = train.steps * (train.clips + train.image_packs)
        return rows / self.rows_per_second / 86_400

    @property
    def gpu_hours(self) -> float:
        return 24 * self.days * self.hardware.gpus

    def command(self, preset: str) -> str:
        """What trains the stage like this; HOST is the first of several nodes, and runs it too."""
        spec, gpus = self.needs.spec, self.hardware.gpus
        words = ["imagen-video"]
        if gpus > 1:
            nodes, each = (gpus // NODE, NODE) if gpus > NODE else (1, gpus)
            many = [f"--nnodes={nodes}", "--rdzv-backend=c10d", "--rdzv-endpoint=HOST:29500"]
            words = [
                "torchrun",
                "--shutdown-timeout=170",
                *(many if nodes > 1 else []),
                f"--nproc-per-node={each}",
            ]
            words += ["-m", "imagen_video"]
        words += ["train", "--stage", spec.name, "--preset", preset, "--device", "cuda"]
        words += ["--shards", str(self.shards)] if self.shards > 1 else []
        words += ["--recompute"] if self.recompute else []
        words += ["--accumulate", str(self.accumulate)] if self.accumulate > 1 else []
        return shlex.join([*words, "--out", f"out/{spec.name}"])


def plan(needs: Needs, hardware: Hardware) -> Plan:
    """The way to train a stage that costs least: fewest shards, and no recomputation if it can be.

    On as many of the GPUs as share its batch equally. Where nothing fits, the way that needs least
    memory (`fits` is False).
    """
    total = needs.spec.train.clips + needs.spec.train.image_packs
    hardware = replace(hardware, gpus=ranks_for(total, hardware.gpus))
    share = total // hardware.gpus
    for shards, recompute in _ways(hardware.gpus):
        for rows in _divisors(share)[::-1]:
            found = Plan(needs, hardware, shards, recompute, rows, share // rows)
            if found.fits:
                return found
    return Plan(needs, hardware, hardware.gpus, True, 1, share)


def _ways(gpus: int) -> Iterator[tuple[int, bool]]:
    for recompute in (False, True):
        for shards in _divisors(gpus):
            yield shards, recompute


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def needs_of(cascade: CascadeSpec) -> list[Needs]:
    return [Needs(stage, cascade.text.length) for stage in cascade.stages]


def as_tables(plans: Sequence[Plan], hardware: Hardware, preset: str) -> str:
    """What every stage needs, how to train it on some or all of the GPUs, and the commands."""
    lines = [_table(NEEDS, [_needs_cells(p.needs, alone=p.hardware.gpus == 1) for p in plans]), ""]
    lines += [_table(WAYS, [_way_cells(p) for p in plans]), ""]
    days, hours = (sum(getattr(p, name) for p in plans) for name in ("days", "gpu_hours"))
    lines += [
        f"all stages, one after the other: {days:,.1f} days, {hours:,.0f} GPU-hours",
        f"for {hardware.gpus} GPUs with {hardware.gpu_memory:g} GiB that deliver "
        f"{hardware.utilisation:.0%} of {hardware.tflops:g} TFLOP/s; sizes in GiB, activations "
        "of one row kept / recomputed",
        "",
        *(p.command(preset) if p.fits else _too_large(p) for p in plans),
    ]
    return "\n".join(lines)


def _too_large(found: Plan) -> str:
    name, most = found.needs.spec.name, USABLE * found.hardware.gpu_memory
    return (
        f"# {name} needs {_gib(found.bytes_on_one)} GiB a GPU of the {most:.1f} to be had: train "
        "it on fewer frames or a crop (TrainSpec), or on larger GPUs"
    )


NEEDS = ("stage", "params", "weights", "gradients", "optimizer", "EMA", "activations", "TFLOP/row")
WAYS = (
    "stage", "GPUs", "shards", "recompute", "rows", "accumulate", "GiB/GPU", "fits", "rows/s",
    "days", "GPU-hours",
)  # fmt: skip


def _needs_cells(needs: Needs, *, alone: bool) -> tuple[str, ...]:
    kept = (needs.weights, needs.gradients, needs.optimizer, needs.ema)
    rows = [needs.step(1, recompute=again, sharded=not alone) for again in (False, True)]
    activations = " / ".join(_gib(row.activations) for row in rows)
    parameters = f"{needs.parameters / 1e6:,.1f}M"
    cells = (needs.spec.name, parameters, *map(_gib, kept), activations)
    return (*cells, f"{needs.flops(recompute=False) / TERA:.3g}")


def _way_cells(found: Plan) -> tuple[str, ...]:
    return (
        found.needs.spec.name,
        str(found.hardware.gpus),
        str(found.shards),
        "yes" if found.recompute else "no",
        str(found.rows),
        str(found.accumulate),
        _gib(found.bytes_on_one),
        "yes" if found.fits else "NO",
        f"{found.rows_per_second:.3g}",
        f"{found.days:,.1f}",
        f"{found.gpu_hours:,.0f}",
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in (head, *rows)
    )
