"""imagen-video data: look at training data, check it, pack it, embed its captions."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from imagen_video.spec import CascadeSpec


@dataclass
class Data:
    """Look at training data, check it, pack it, or write what a bare machine needs of it."""

    action: Positional[Literal["preview", "check", "pack", "embed", "carry"]]
    """preview: a contact sheet and an mp4 of stickers. check: read every sample of --data as a
    stage would; statistics, bad_samples.jsonl, contact sheets. pack: WebDataset tars of --data.
    embed: the embeddings of all captions of --data, for train --captions. carry: rendered stickers
    and caption embeddings for the first --steps of a stage; there, set IMAGEN_VIDEO_CACHE to the
    folder and train with --captions.
    """
    out: Path = Path("data")
    """Folder to write into."""
    data: tuple[str, ...] = ()
    """Folders, manifests (.jsonl, .csv, .parquet) or tars."""
    preset: str = "mini"
    stage: str = "base"
    steps: int = 1000
    seed: int = 0
    workers: int = 1
    """Processes that check."""
    device: str = "cpu"
    """Where embed runs the text encoder."""
    tar_megabytes: int = 512
    """Size after which pack begins another tar."""


def run_data(options: Data) -> None:
    if options.action in ("check", "pack", "embed") and not options.data:
        raise ValueError(f"data {options.action} needs --data: a folder, a manifest or tars")
    options.out.mkdir(parents=True, exist_ok=True)
    actions = {
        "preview": _preview,
        "check": _check,
        "pack": _pack,
        "embed": _embed,
        "carry": _carry,
    }
    actions[options.action](options)


def _preview(options: Data) -> None:
    from imagen_video.data.stickers.preview import preview

    preview(options.out / "preview.png", options.out / "preview.mp4")
    print(f"{options.out}/preview.png and preview.mp4")


def _check(options: Data) -> None:
    from imagen_video.data.check import check

    stage = _preset(options.preset).stage(options.stage)
    print("\n".join(check(options.data, stage, options.out, workers=options.workers)))


def _pack(options: Data) -> None:
    from imagen_video.data.sources import rows_of
    from imagen_video.data.tars import pack

    for number, name in enumerate(options.data):
        out = options.out if len(options.data) == 1 else options.out / str(number)
        left_out = pack(rows_of(name), out, bytes_a_tar=options.tar_megabytes * 2**20)
        for row, reason in left_out:
            print(f"left out {row.media}: {reason}", file=sys.stderr)
        print(f"{out}: {len(list(out.glob('*.tar')))} tars of {name}, {len(left_out)} left out")


def _embed(options: Data) -> None:
    from imagen_video.training.job import CAPTIONS, embed_captions

    spec, folder = _preset(options.preset), options.out / CAPTIONS
    count = embed_captions(spec, options.data, options.out, device=options.device)
    print(f"{folder}: {count} captions; imagen-video train ... --captions {folder}")


def _carry(options: Data) -> None:
    from imagen_video.training.job import carry_along

    spec, steps, seed = _preset(options.preset), options.steps, options.seed
    captions = carry_along(spec, options.stage, options.out, steps=steps, seed=seed)
    print(f"IMAGEN_VIDEO_CACHE={options.out} imagen-video train ... --captions {captions}")


def _preset(name: str) -> "CascadeSpec":
    from imagen_video.presets import find

    return find(name)
