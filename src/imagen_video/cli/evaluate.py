"""imagen-video evaluate: how good a cascade, or a folder of videos, is."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from imagen_video.cli.train import use_threads


@dataclass(kw_only=True)
class Asked:
    """What evaluating and sweeping have in common."""

    prompts: str = "stickers"
    """stickers, a file of a prompt a line, or .jsonl of {"prompt": ..., "concept": ...}."""
    count: int | None = None
    """Prompts; default all of a file, 8 stickers."""
    seeds: int = 1
    """Videos of each prompt: two or more measure diversity within a prompt (Vendi score), six or
    more, with as many reference clips of it, precision and recall within it too."""
    reference: tuple[str, ...] = ("stickers",)
    """stickers; folders, manifests or tars of real videos; or the reference.safetensors that an
    earlier evaluation wrote."""
    reference_clips: int | None = None
    """True clips to compare with; default 128, or as many as there are prompts."""
    seed: int = 0
    frame_features: str = "proxy"
    """proxy (an ImageNet EfficientNet-lite), or InceptionV3 as TorchScript, a path or URL."""
    clip_features: str = "proxy"
    """proxy, I3D as TorchScript (.pt), or a folder or hub name of a VideoMAE."""
    clip: str = "proxy"
    """proxy (of the sticker world), or a folder or hub name of a CLIP or SigLIP."""
    device: str = "cpu"
    threads: int | None = None


@dataclass
class Evaluate(Asked):
    """Measure a cascade stage by stage, or a folder of videos, into report.json and report.html.

    Ended early, the same command goes on; under torchrun its processes share the work.
    """

    model: Positional[str] = "mini"
    """mini, a folder of save_pretrained, org/name of the hub, or a folder of .mp4 (prompts in .json
    or .txt beside)."""
    out: Path = Path("out/evaluation")
    own: int | None = None
    """Clips that each upsampling stage makes from true low-resolution video; default as many as
    samples, 0 for none."""
    until: str | None = None
    """The last stage to run; default the last there is."""
    steps: int | None = None
    guidance: float | None = None


def run_evaluate(options: Evaluate) -> None:
    from imagen_video.evaluation.asked import EvaluationSpec
    from imagen_video.evaluation.evaluate import evaluate
    from imagen_video.evaluation.report import as_table
    from imagen_video.memory import keep_freed_memory

    keep_freed_memory()
    use_threads(options.threads)
    asked = {f.name: getattr(options, f.name) for f in fields(EvaluationSpec)}
    report = evaluate(options.model, EvaluationSpec(**asked), options.out)
    if report:
        print(as_table(report))
        print(f"{options.out}/report.json and report.html")


@dataclass
class Sweep(Asked):
    """Sample one stage in many ways and say which is best: sweep.json, curve.png and a table.

    A base starts from noise, an upsampling stage from true low-resolution video or from what the
    stages before it make. Every combination of what is given is tried; what is not given stays as
    the stage has it.
    """

    model: Positional[str] = "mini"
    stage: str = "base"
    guidance: tuple[str, ...] = ()
    """Weights such as 4 (constant) or 15/1:10 (high/low:constant steps), at the log-SNRs at which
    the stage is guided; 4[-3,5]: within these."""
    steps: tuple[int, ...] = ()
    moves: tuple[Literal["ddim", "ancestral", "stochastic", "dpmpp_2m"], ...] = ()
    shifts: tuple[float, ...] = ()
    """Log-SNR shifts of the schedule in whose time steps are even: lower gives more of them to high
    noise."""
    aug_snr: tuple[float, ...] = ()
    """Signal-to-noise ratios of the augmentation, such as 3 5: with --from-cascade."""
    from_cascade: bool = False
    """Start an upsampling stage from what the stages before it make."""
    out: Path = Path("out/sweep")
    write: Path | None = None
    """Save the cascade with the best setting into this folder."""


def same(folder: Path, model: str) -> bool:
    """Whether a folder is the model's own."""
    return folder.exists() and Path(model).exists() and folder.samefile(model)


def run_sweep(options: Sweep) -> None:
    import torch

    from imagen_video.cascade import Cascade
    from imagen_video.evaluation.asked import EvaluationSpec
    from imagen_video.evaluation.ranking import as_table
    from imagen_video.evaluation.sweep import SweepSpec, sweep
    from imagen_video.memory import keep_freed_memory

    keep_freed_memory()
    use_threads(options.threads)
    if options.write and (options.write.is_file() or same(options.write, options.model)):
        raise ValueError(f"--write {options.write}: give a new folder, not a file nor the model's")
    spec = SweepSpec(
        stage=options.stage,
        guidance=options.guidance,
        steps=options.steps,
        moves=options.moves,
        shifts=options.shifts,
        aug_snr=options.aug_snr,
        from_cascade=options.from_cascade,
    )
    shared = {f.name for f in fields(EvaluationSpec)} - {"own", "until", "steps", "guidance"}
    asked = EvaluationSpec(**{name: getattr(options, name) for name in shared})
    rows = sweep(options.model, spec, asked, options.out)
    if not rows:
        return
    print(as_table(rows))
    print(f"best: {rows[0].name}; {options.out}/sweep.json and curve.png")
    if options.write:
        # In float32 nothing is lost of what the files hold.
        cascade = Cascade.from_pretrained(options.model, dtype=torch.float32)
        cascade.with_sampler(options.stage, rows[0].sampler).save_pretrained(options.write)
        print(f"{options.write}: the cascade with it")
