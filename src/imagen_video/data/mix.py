"""Batches of videos and packed images (paper section 7)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from imagen_video.data.clips import Crop, Source
from imagen_video.shapes import Bool, Int, UInt8
from imagen_video.spec import StageSpec


@dataclass(frozen=True)
class Batch:
    """Clips first, then sequences of independent images; one caption a frame for those."""

    video: UInt8[Tensor, "b f c h w"]
    captions: tuple[tuple[str, ...], ...]
    is_video: Bool[Tensor, " b"]
    frame_index: Int[Tensor, " f"]


class Mix(Dataset):
    """Batch k of a stage's training: a pure function of (source, seed, k).

    All frames of a clip share one crop. Crops of super-resolution stages start on whole
    low-resolution pixels and frames, so that the low-resolution input is the same region.
    """

    def __init__(self, source: Source, stage: StageSpec, *, seed: int, steps: int):
        self.source, self.stage, self.seed, self.steps = source, stage, seed, steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        train = self.stage.train
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        first = int(torch.randint(train.stride, (), generator=generator))
        index = torch.arange(first, train.frames or self.stage.output.frames, train.stride)
        frames = len(index)
        videos, captions = [], []
        for i in range(train.clips):
            crop = self._crop(generator)
            example = self.source.clip(step * train.clips + i, self.stage.output, crop)
            videos.append(example.video[first :: train.stride])
            captions.append((example.caption,) * frames)
        for i in range(train.image_packs):
            pack = [
                self.source.image(
                    (step * train.image_packs + i) * frames + j,
                    replace(self.stage.output, frames=1),
                    self._crop(generator),
                )
                for j in range(frames)
            ]
            videos.append(torch.cat([example.video for example in pack]))
            captions.append(tuple(example.caption for example in pack))
        is_video = torch.arange(len(videos)) < train.clips
        return Batch(torch.stack(videos), tuple(captions), is_video, index)

    def _crop(self, generator: torch.Generator) -> Crop:
        full, train = self.stage.output, self.stage.train
        frames, (height, width) = train.frames or full.frames, train.crop or full.size

        def start(room: int, step: int) -> int:
            return step * int(torch.randint(room // step + 1, (), generator=generator))

        return Crop(
            frame=start(full.frames - frames, self.stage.time_factor),
            top=start(full.height - height, self.stage.space_factor),
            left=start(full.width - width, self.stage.space_factor),
            frames=frames,
            height=height,
            width=width,
        )


def batches(mix: Mix, *, start: int, workers: int = 1) -> DataLoader:
    """The batches from `start` on, rendered ahead in worker processes."""
    return DataLoader(
        mix,
        batch_size=None,
        sampler=range(start, mix.steps),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
