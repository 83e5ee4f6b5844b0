"""Videos of noise."""

from pathlib import Path

import torch

from imagen_video.sampling import save_video


def videos(
    folder: Path, count: int, size: tuple[int, int] = (24, 40), *, told: bool = True
) -> Path:
    """Noise, `told` to be a duck."""
    folder.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    prompt = "a duck moving left to right on a blue background, 3D render"
    for i in range(count):
        frames = torch.randint(0, 256, (16, 3, *size), dtype=torch.uint8, generator=generator)
        path = folder / f"{size[0]}-{i}.mp4"
        save_video(path, frames, fps=3.0, metadata={"prompt": prompt})
        if not told:
            path.with_suffix(".json").unlink()
    return folder
