"""Does a base use what the caption says? By how much the error of its x rises with a wrong one.

    python runs/measure_captions.py src/imagen_video/mini/base        # half a minute, two cores

Six scenes for each pair of opposite motions, noised to each log-SNR and denoised under their own
caption, under the one with the opposite motion, and under the one with another thing. 0 % means
that the network does not use it. The error at log-SNR -12 is what the caption says by itself.
Expected: 30 % and more; the base learned up and down first, left and right last (docs/log.md).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from tyro.conf import Positional

from imagen_video import presets
from imagen_video.data.stickers import render
from imagen_video.data.stickers.scene import scene_for
from imagen_video.diffusion.schedule import alpha_sigma, expand
from imagen_video.stage import Stage
from imagen_video.text.encoder import TextEncoder, load_encoder
from imagen_video.unet.inputs import Conditioning
from imagen_video.video import Video, to_float
from imagen_video.weights import load_stage, working_dtype

LEVELS = (-12.0, -7.0, -4.0, -1.0)
OPPOSITES = {
    "left, right": ("moving left to right", "moving right to left"),
    "up, down": ("rising", "falling"),
    "grow, shrink": ("growing", "shrinking"),
}
THINGS = ("penguin", "car", "apple", "tiger", "rocket", "owl")
GROUNDS = ("yellow", "blue", "white", "purple", "green", "pink")
SEED = 900


@dataclass
class Options:
    """Measure how much a base uses its caption."""

    folder: Positional[Path]
    """Folder with stage.json and model.safetensors."""


@torch.inference_mode()
def main(options: Options) -> None:
    stage = load_stage(options.folder, dtype=working_dtype())
    encoder = load_encoder(presets.mini().text, dtype=working_dtype())
    print(f"{'log-SNR':>8} {'error':>8}" + "".join(f"{n:>14}" for n in (*OPPOSITES, "thing")))
    for level in LEVELS:
        errors = torch.tensor(
            [
                [errors_of(stage, encoder, i, motions, level) for i in range(len(THINGS))]
                for motions in OPPOSITES.values()
            ]
        )  # motions x scenes x (right, opposite motion, other thing)
        rise = errors[..., 1:] / errors[..., :1] - 1
        rises = [*rise[..., 0].mean(1).tolist(), rise[..., 1].mean().item()]
        print(f"{level:8.0f} {errors[..., 0].mean():8.4f}" + "".join(f"{r:+14.1%}" for r in rises))


def errors_of(
    stage: Stage, encoder: TextEncoder, i: int, motions: tuple[str, str], level: float
) -> list[float]:
    """The error of x of scene i under its caption, the opposite motion's and another thing's."""
    motion, opposite = motions if i % 2 == 0 else motions[::-1]
    thing, ground, other = THINGS[i], GROUNDS[i], THINGS[(i + 1) % len(THINGS)]
    scene = scene_for(concept=thing, background=ground, motion=motion, seed=SEED + i)
    truth = to_float(render(scene, stage.spec.output))[None]
    logsnr = torch.tensor([level])
    alpha, sigma = (expand(part, truth) for part in alpha_sigma(logsnr))
    z = alpha * truth + sigma * torch.randn(truth.shape, generator=torch.Generator().manual_seed(i))
    return [
        (
            denoised(
                stage, encoder, z, logsnr, f"a {what} {does} on a {ground} background, 3D render"
            )
            - truth
        )
        .square()
        .mean()
        .item()
        for what, does in ((thing, motion), (thing, opposite), (other, motion))
    ]


def denoised(
    stage: Stage, encoder: TextEncoder, z: Video, logsnr: torch.Tensor, caption: str
) -> Video:
    text = encoder([caption])
    cond = Conditioning(text.tokens[:, None].float(), text.mask[:, None], torch.tensor([True]))
    return stage.denoiser(cond)(z, logsnr).x


if __name__ == "__main__":
    main(tyro.cli(Options))
