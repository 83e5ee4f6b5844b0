"""Our Frechet distance against torchmetrics', on the features that an evaluation kept.

python bench/frechet.py out/evaluation        # a folder of `imagen-video evaluate`
"""

import argparse
from pathlib import Path

import torch
from common import table
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from imagen_video.evaluation.records import Features, Record
from imagen_video.metrics.frechet import Moments, frechet_distance


class Given(nn.Module):
    """An extractor whose features are given as images of one row."""

    def __init__(self, features: int):
        super().__init__()
        self.num_features = features

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def frames_in(folder: Path) -> Tensor:
    """A row of features a frame."""
    records = [Record.load(path) for path in sorted(folder.glob("*.safetensors"))]
    return Features.of(records).frames.flatten(0, 1).double()


def librarys(real: Tensor, made: Tensor) -> float:
    width = real.shape[1]
    library = FrechetInceptionDistance(Given(width), normalize=True, input_img_size=(1, 1, width))
    library.set_dtype(torch.float64)
    for rows, is_real in ((real, True), (made, False)):
        library.update(rows.view(-1, 1, 1, width), real=is_real)
    return library.compute().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    records = parser.parse_args().folder / "records"
    lines = []
    for stage in sorted((records / "truth").iterdir()):
        made = frames_in(records / "cascade" / stage.name)
        for size in sorted((records / "reference").iterdir()):
            real = frames_in(size)
            ours, theirs = (
                frechet_distance(Moments.of(made), Moments.of(real)),
                librarys(real, made),
            )
            counts = f"{len(made)} against {len(real)} of {size.name}"
            lines.append(
                (stage.name, counts, f"{ours:.6f}", f"{theirs:.6f}", f"{ours - theirs:.1e}")
            )
    print(table(("samples", "feature rows", "ours", "torchmetrics", "difference"), lines))


if __name__ == "__main__":
    main()
