"""One stage trained on the sticker world, from a preset to a folder."""

from pathlib import Path

from imagen_video.data.mix import Mix
from imagen_video.data.stickers import prerender
from imagen_video.data.stickers.evaluation import eval_prompts
from imagen_video.data.stickers.source import StickerSource
from imagen_video.spec import CascadeSpec
from imagen_video.stage import Stage
from imagen_video.text.cache import EmbeddingTable, load_keeping
from imagen_video.text.encoder import TextEncoder, load_encoder
from imagen_video.training.checkpoint import FILE as CHECKPOINT
from imagen_video.training.sheets import SheetDrawer, held_out
from imagen_video.training.trainer import RunSpec, Trainer, initialise_from, with_steps

# The captions of so many steps show what captions are like.
FITTED_STEPS = 64


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
    fresh = not (out / CHECKPOINT).exists()
    copied = initialise_from(stage, init_from) if fresh and init_from is not None else ()
    # The encoder is frozen: half precision moves its embeddings by less than a paraphrase does.
    if run.captions is None:
        encoder = load_keeping(cascade.text, dtype=torch.bfloat16)
    else:
        encoder = EmbeddingTable.load(run.captions)
    mix = Mix(StickerSource(run.seed), spec, seed=run.seed, steps=spec.train.steps)
    if fresh and "text_in.weight" not in copied:
        fit_text(stage, mix, encoder)
    trainer = Trainer(stage, mix, encoder, out, run)
    drawer = SheetDrawer(spec, encoder, out / "sheets", step=lambda: trainer.step)
    return trainer.run(drawer)


def fit_text(stage: Stage, mix: Mix, encoder: TextEncoder) -> None:
    """Let a fresh network's `text_in` whiten the captions of the first batches."""
    import torch

    if stage.unet.text_in is None:
        return
    steps = range(min(FITTED_STEPS, len(mix)))
    captions = {text for step in steps for texts in mix[step].captions for text in texts}
    stage.unet.text_in.fit(torch.cat(encoder(sorted(captions)).rows()).float())


def carry_along(cascade: CascadeSpec, name: str, out: Path, *, steps: int, seed: int) -> Path:
    """Write into `out` what the first `steps` of training stage `name` need beyond torch: every
    sticker rendered, and the embeddings of all captions of clips and sample sheets.

    For machines without drawing tools and text encoder. Returns the file of captions.
    """
    import torch

    spec = cascade.stage(name)
    prerender(out)
    texts = {row["prompt"] for row in eval_prompts()} | {caption for _, caption in held_out(spec)}
    mix = Mix(StickerSource(seed), spec, seed=seed, steps=steps)
    for step in range(steps):
        texts.update(*mix[step].captions)
    table = EmbeddingTable.build(load_encoder(cascade.text, dtype=torch.bfloat16), sorted(texts))
    table.save(out / "captions.safetensors")
    return out / "captions.safetensors"
