"""One stage trained on the sticker world, from a preset to a folder."""

from pathlib import Path

from imagen_video.data.mix import Mix
from imagen_video.data.stickers.source import StickerSource
from imagen_video.spec import CascadeSpec
from imagen_video.stage import Stage
from imagen_video.text.cache import load_keeping
from imagen_video.training.sheets import SheetDrawer
from imagen_video.training.trainer import RunSpec, Trainer, initialise_from, with_steps


def train_on_stickers(
    cascade: CascadeSpec,
    name: str,
    out: Path,
    run: RunSpec,
    *,
    steps: int | None = None,
    init_from: Path | None = None,
) -> int:
    """Train stage `name`, or go on where `out` stopped; returns the step reached."""
    import torch

    spec = with_steps(cascade.stage(name), steps)
    torch.manual_seed(run.seed)
    stage = Stage(spec)
    if init_from is not None:
        initialise_from(stage, init_from)
    # The encoder is frozen: half precision moves its embeddings by less than a paraphrase does.
    encoder = load_keeping(cascade.text, dtype=torch.bfloat16)
    mix = Mix(StickerSource(run.seed), spec, seed=run.seed, steps=spec.train.steps)
    trainer = Trainer(stage, mix, encoder, out, run)
    drawer = SheetDrawer(spec, encoder, out / "sheets", step=lambda: trainer.step)
    return trainer.run(drawer)
