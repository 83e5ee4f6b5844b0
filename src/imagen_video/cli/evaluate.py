"""imagen-video evaluate: how good a cascade, or a folder of videos, is."""

from dataclasses import dataclass, fields
from pathlib import Path

from tyro.conf import Positional


@dataclass
class Evaluate:
    """Measure a cascade stage by stage, or a folder of videos, into report.json and report.html.

    Ended early, the same command goes on; under torchrun its processes share the work.
    """

    model: Positional[str] = "mini"
    """mini, a folder of save_pretrained, or a folder of .mp4 (prompts in .json or .txt beside)."""
    out: Path = Path("out/evaluation")
    prompts: str = "stickers"
    """stickers, a file of a prompt a line, or .jsonl of {"prompt": ..., "concept": ...}."""
    count: int | None = None
    """Prompts; default all of a file, 8 stickers."""
    seeds: int = 1
    """Videos of each prompt: two or more measure diversity within a prompt."""
    reference: tuple[str, ...] = ("stickers",)
    """stickers; folders, manifests or tars of real videos; or the reference.safetensors that an
    earlier evaluation wrote."""
    reference_clips: int = 128
    own: int | None = None
    """Clips that each upsampling stage makes from true low-resolution video; default as many as
    samples, 0 for none."""
    until: str | None = None
    """The last stage to run; default the last there is."""
    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    frame_features: str = "proxy"
    """proxy (an ImageNet EfficientNet-lite), or InceptionV3 as TorchScript, a path or URL."""
    clip_features: str = "proxy"
    """proxy, I3D as TorchScript (.pt), or a folder or hub name of a VideoMAE."""
    clip: str = "proxy"
    """proxy (of the sticker world), or a folder or hub name of a CLIP or SigLIP."""
    device: str = "cpu"
    threads: int | None = None


def run_evaluate(options: Evaluate) -> None:
    import torch

    from imagen_video.evaluation.evaluate import EvaluationSpec, evaluate
    from imagen_video.evaluation.report import as_table

    if options.threads:
        torch.set_num_threads(options.threads)
    asked = {f.name: getattr(options, f.name) for f in fields(EvaluationSpec)}
    report = evaluate(options.model, EvaluationSpec(**asked), options.out)
    if report:
        print(as_table(report))
        print(f"{options.out}/report.json and report.html")
