"""Batches made ready for the device: captions embedded, pixels copied; beside the step before
where a GPU computes it."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from imagen_video.data.mix import Batch, Mix, read_apart, surviving
from imagen_video.shapes import Int, UInt8
from imagen_video.text.encoder import TextEmbedding, TextEncoder
from imagen_video.unet.inputs import Conditioning

T = TypeVar("T")


@dataclass(frozen=True)
class Data:
    """What a stage is trained on and validated on, and what embeds the captions."""

    mix: Mix
    encoder: TextEncoder
    validation: Mix | None = None

    def held_out(self, *, workers: int) -> list[Batch]:
        """All batches to validate on."""
        if self.validation is None:
            return []
        steps = range(len(self.validation))
        with surviving(read := read_apart(self.validation.__getitem__, steps, workers=workers)):
            return list(read)


@dataclass(frozen=True)
class Ready:
    """A batch, or a part of one, with its pixels on the device, and `text` that has every different
    caption once: `caption` says which of them a frame has."""

    batch: Batch
    video: UInt8[Tensor, "b f c h w"]
    text: TextEmbedding
    caption: Int[Tensor, "b f"]

    @property
    def cond(self) -> Conditioning:
        """What the network is told. Made when a step asks: a caption for every frame is large."""
        return Conditioning(
            self.text.tokens[self.caption].float(),
            self.text.mask[self.caption],
            self.batch.is_video.to(self.video.device),
            frame_index=self.batch.frame_index.to(self.video.device),
        )


def make_ready(batch: Batch, encoder: TextEncoder, device: torch.device) -> Ready:
    """Embed every different caption once, and copy pixels and embeddings to the device."""
    unique = sorted({caption for captions in batch.captions for caption in captions})
    row = {caption: i for i, caption in enumerate(unique)}
    index = torch.tensor([[row[c] for c in captions] for captions in batch.captions], device=device)
    return Ready(batch, batch.video.to(device), encoder(unique).to(device), index)


def ahead(
    loader: Iterator[Batch], prepare: Callable[[Batch], T], device: torch.device
) -> Generator[T]:
    """Every batch prepared, those that come again only once; to be closed before the loader.

    On a GPU a thread prepares the next one on a stream of its own while the step runs. A CPU has
    no core to spare for that: two programs on its cores would stop each other.
    """
    prepare = lru_cache(maxsize=1)(prepare)
    if device.type != "cuda":
        yield from map(prepare, loader)
        return
    stream = torch.cuda.Stream(device)

    def upcoming() -> T | None:
        batch = next(loader, None)
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            made = prepare(batch)
        # What a step reads is whole before it, and let go of after the step waited for its norm.
        stream.synchronize()
        return made

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(upcoming)
        while (made := coming.result()) is not None:
            coming = pool.submit(upcoming)
            yield made
