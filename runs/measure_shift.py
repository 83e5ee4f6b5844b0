"""Where a stage decides what: the error of its x by noise level, and the shift that centres on it.

    python runs/measure_shift.py out/mini/base            # one to three minutes, one core
    python runs/measure_shift.py out/mini/* --clips 32

Prints the PSNR of the estimated x at each log-SNR, for videos and for packed images that no
training drew (another seed), with the conditioning as noisy as in sampling. Far left it is what
the prompt and the low-resolution video say by themselves, far right what z says; half-way in
between (in decibels, from log-SNR -14 to 2) lies the level around which a schedule should spend its
steps. The unshifted cosine schedule is centred on 0, so that level is the `logsnr_shift` to train
and sample with.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from tyro.conf import Positional

from imagen_video import presets
from imagen_video.data.mix import Batch, Mix
from imagen_video.data.stickers.source import StickerSource
from imagen_video.diffusion.schedule import alpha_sigma, expand
from imagen_video.lowres import low_from_truth, prepare
from imagen_video.stage import Stage
from imagen_video.text.encoder import TextEncoder, load_encoder
from imagen_video.unet.inputs import Conditioning
from imagen_video.video import Video, to_float
from imagen_video.weights import load_stage, working_dtype

LEVELS = (-14.0, -12.0, -10.0, -8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
LAST_IN_SPAN = LEVELS.index(2.0)
HELD_OUT_SEED = 77


@dataclass
class Options:
    """Measure the error of a stage's x at every noise level."""

    folders: Positional[tuple[Path, ...]]
    """Folders with stage.json and model.safetensors."""
    clips: int = 16
    threads: int = 1


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    encoder = load_encoder(presets.mini().text, dtype=working_dtype())
    print(f"{'x in dB at log-SNR':24}" + "".join(f"{level:7.0f}" for level in LEVELS) + "   half")
    for folder in options.folders:
        stage = load_stage(folder, dtype=working_dtype())
        for kind, errors in errors_by_level(stage, encoder, options.clips).items():
            decibels = [10 * math.log10(4 / error) for error in errors]
            numbers = "".join(f"{value:7.2f}" for value in decibels)
            print(f"{folder.name + ', ' + kind:24}{numbers}{half_way(decibels):7.1f}")


@torch.inference_mode()
def errors_by_level(stage: Stage, encoder: TextEncoder, clips: int) -> dict[str, list[float]]:
    """Mean squared error of x in [-1, 1] at each of LEVELS, for videos and packed images."""
    spec = replace(stage.spec, train=replace(stage.spec.train, clips=1, image_packs=1))
    mix = Mix(StickerSource(HELD_OUT_SEED), spec, seed=HELD_OUT_SEED, steps=clips)
    total = torch.zeros(len(LEVELS), 2)
    for step in range(clips):
        batch, generator = mix[step], torch.Generator().manual_seed(step)
        x = to_float(batch.video)
        denoise = stage.denoiser(conditioning(stage, batch, encoder, x, generator))
        for i, level in enumerate(LEVELS):
            logsnr = torch.full((len(x),), level)
            alpha, sigma = (expand(part, x) for part in alpha_sigma(logsnr))
            z = alpha * x + sigma * torch.randn(x.shape, generator=generator)
            total[i] += (denoise(z, logsnr).x - x).square().mean((1, 2, 3, 4)) / clips
    return {"videos": total[:, 0].tolist(), "images": total[:, 1].tolist()}


def conditioning(
    stage: Stage, batch: Batch, encoder: TextEncoder, x: Video, generator: torch.Generator
) -> Conditioning:
    """Captions, and the true low-resolution video noised as in sampling."""
    texts = [encoder(list(captions)) for captions in batch.captions]
    tokens = torch.stack([text.tokens for text in texts]).float()
    cond = Conditioning(tokens, torch.stack([text.mask for text in texts]), batch.is_video)
    if stage.spec.kind == "base":
        return cond
    assert stage.spec.sampler.aug_logsnr is not None, "StageSpec checks it"
    low, level = low_from_truth(x, stage.spec), torch.full((len(x),), stage.spec.sampler.aug_logsnr)
    noise = torch.randn(low.shape, generator=generator)
    low = prepare(low, noise, level, spec=stage.spec, is_video=batch.is_video)
    return replace(cond, lowres=low, lowres_logsnr=level)


def half_way(decibels: list[float]) -> float:
    """The log-SNR at which half of the decibels from the first level to LAST_IN_SPAN are won."""
    goal = (decibels[0] + decibels[LAST_IN_SPAN]) / 2
    for i in range(LAST_IN_SPAN):
        low, high = decibels[i : i + 2]
        if low <= goal <= high:
            share = (goal - low) / (high - low) if high > low else 0.0
            return LEVELS[i] + share * (LEVELS[i + 1] - LEVELS[i])
    return math.nan


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
