"""imagen-video train."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")


@dataclass
class Train:
    """Train one stage; the same command on the same folder resumes exactly. Started by torchrun,
    the same command trains on many processes."""

    out: Path
    """Folder of checkpoints, weights, log and sample sheets."""
    stage: str
    preset: str = "mini"
    """mini, tiny, paper, or file.py:function."""
    data: tuple[str, ...] = ("stickers",)
    """stickers, folders, manifests (.jsonl, .csv, .parquet) or tars; NAME=WEIGHT to mix them."""
    steps: int | None = None
    """Length of the schedule (default: the preset's)."""
    minutes: float | None = None
    """Stop early after so long; the schedule counts steps."""
    init_from: Path | None = None
    """A stage folder whose matching weights a fresh run starts from."""
    captions: Path | None = None
    """A file of `data carry` or `data embed`, read instead of running the text encoder."""
    cropping: Literal["random", "centre"] = "random"
    """Which part of frames of another shape is shown."""
    max_bad: float = 0.05
    """The run ends when a larger share of a source cannot be read."""
    seed: int = 0
    device: str = "cpu"
    threads: int | None = None
    """CPU threads (default: PyTorch's)."""
    workers: int = 1
    """Processes that load data, for each process that trains."""
    shards: int = 1
    """Processes over which a network is spread: 1 is data parallel, all of them FSDP."""
    accumulate: int = 1
    """Parts in which a batch is computed."""
    precision: Literal["bf16", "fp32"] = "bf16"
    recompute: bool = False
    """Keep no activations inside blocks for the backward pass: less memory, more time."""
    compiled: bool = False
    """Compile every block."""
    save_minutes: float = 5.0
    sheet_minutes: float = 15.0
    keep: int = 2
    """Checkpoints to keep, besides the best."""
    tensorboard: bool = False
    """Write TensorBoard's files too."""


def run_train(options: Train) -> None:
    import torch

    from imagen_video import presets
    from imagen_video.training.job import JobSpec, train_stage
    from imagen_video.training.run import RunSpec

    if options.threads:
        torch.set_num_threads(options.threads)
    job, run = _as(JobSpec, options), _as(RunSpec, options)
    train_stage(presets.find(options.preset), job, run)


def _as(kind: type[T], options: object) -> T:
    """The fields of a spec that the options have too."""
    given = vars(options)
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})  # pyright: ignore
