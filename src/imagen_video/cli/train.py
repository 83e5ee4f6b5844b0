"""imagen-video train."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from imagen_video.spec import CascadeSpec

T = TypeVar("T")


@dataclass
class Train:
    """Train one stage; the same command on the same folder resumes exactly. Started by torchrun,
    the same command trains on many processes."""

    out: Path
    """Folder of checkpoints, weights, log and sample sheets."""
    stage: str
    """A stage's name, or all: every stage as a job of its own, in a folder of its own."""
    preset: str = "mini"
    """mini, tiny, paper, or file.py:function."""
    data: tuple[str, ...] = ("stickers",)
    """stickers, folders, manifests (.jsonl, .csv, .parquet) or tars; NAME=WEIGHT to mix them."""
    steps: int | None = None
    """Length of the schedule (default: the preset's)."""
    minutes: float | None = None
    """Stop early after so long; the schedule counts steps."""
    init_from: Path | None = None
    """A stage folder whose matching weights a fresh run starts from; for all stages one with such
    a folder each, by name."""
    lora: int | None = None
    """Train low-rank adapters of this rank over --init-from, whose weights stay as they are."""
    captions: Path | None = None
    """The captions folder of `data carry` or `data embed`, read instead of running the encoder."""
    cropping: Literal["random", "centre"] = "random"
    """Which part of frames of another shape is shown."""
    max_bad: float = 0.05
    """The run ends when a larger share of a source cannot be read."""
    seed: int = 0
    device: tuple[str, ...] = ("cpu",)
    """cpu or cuda; for all stages the devices to train on side by side, such as cuda:0 cuda:1."""
    threads: int | None = None
    """CPU threads (default: PyTorch's)."""
    workers: int = 1
    """Processes that load data, for each process that trains."""
    shards: int = 1
    """Processes over which a network is spread: 1 is data parallel, all of them FSDP."""
    accumulate: int = 1
    """Parts in which a batch is computed."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of the network; auto is bf16 but on CPUs that only emulate it."""
    recompute: bool = False
    """Keep no activations inside blocks for the backward pass: less memory, more time."""
    compiled: bool = False
    """Compile every block."""
    log_every: int = 20
    """Steps between two lines of the log."""
    save_minutes: float = 5.0
    sheet_minutes: float = 15.0
    keep: int = 2
    """Checkpoints to keep, besides the best."""
    tensorboard: bool = False
    """Write TensorBoard's files too."""
    slurm: Path | None = None
    """With --stage all: write a Slurm script there instead of training."""


def run_train(options: Train) -> None:
    from imagen_video import presets
    from imagen_video.training.job import JobSpec, train_stage
    from imagen_video.training.run import RunSpec

    cascade = presets.find(options.preset)
    if options.stage == "all":
        _train_all(options, cascade)
        return
    if options.slurm is not None:
        raise ValueError("--slurm writes a script for --stage all")
    if len(options.device) != 1:
        raise ValueError(f"one stage trains on one kind of device, got {' '.join(options.device)}")
    use_threads(options.threads)
    job = as_spec(JobSpec, options, device=options.device[0])
    train_stage(cascade, job, as_spec(RunSpec, options))


def _train_all(options: Train, cascade: "CascadeSpec") -> None:
    from imagen_video.distributed import device_of
    from imagen_video.training.fleet import jobs_of, train_all, write_slurm
    from imagen_video.training.job import JobSpec
    from imagen_video.training.run import RunSpec

    arguments, begin = _arguments(options), options.init_from
    jobs = jobs_of(cascade, options.out, arguments, steps=options.steps, init_from=begin)
    run = as_spec(RunSpec, options)  # what is wrong with all is said once
    for job in jobs:
        beginning = begin and begin / job.stage
        given = {"stage": job.stage, "init_from": beginning, "device": options.device[0]}
        _ = as_spec(JobSpec, options, **given).adapters
    if options.slurm is not None:
        shards, parts = options.shards, options.accumulate
        write_slurm(options.slurm, jobs, options.out, shards=shards, accumulate=parts)
        print(f"sbatch {options.slurm}")
        return
    for device in options.device:
        device_of(device)
    for job in jobs:
        run.check_shares(job.rows, 1)
    train_all(jobs, options.device)


def _arguments(options: Train) -> list[str]:
    """The options as they would be typed, without those that differ from stage to stage."""
    typed = []
    for field in fields(Train):
        value = getattr(options, field.name)
        apart = ("out", "stage", "device", "slurm", "init_from")
        if field.name in apart or value == field.default:
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            typed += [f"--{name}"]
        else:
            typed += [f"--{name}", *map(str, value if isinstance(value, tuple) else [value])]
    return typed


def use_threads(count: int | None) -> None:
    """So many CPU threads; None: PyTorch's."""
    import torch

    if count is not None:
        if not 1 <= count <= 1024:  # a million crash PyTorch
            raise ValueError(f"threads must lie in 1..1024, got {count}")
        torch.set_num_threads(count)


def as_spec(kind: type[T], options: object, **more: object) -> T:
    """The fields of a spec that the options have too."""
    given = vars(options) | more
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})  # pyright: ignore
