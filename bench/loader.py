"""Does the loader's memory stay flat? Many clips from real files, and what its worker holds.

    .venv/bin/python bench/loader.py                # 10,000 clips; minutes on one core

Videos of 6 s are written first, folder and tars, as many files in each as each is asked for clips;
one worker decodes clips of the tiny base from both, with images and a broken file among them.
Prints clips a second and the worker's memory.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from common import machine

from imagen_video import presets
from imagen_video.data.bad_samples import BadSamples
from imagen_video.data.mix import Mix, batches
from imagen_video.data.rows import Rows, of_folder
from imagen_video.data.sources import open_source
from imagen_video.data.tars import pack
from imagen_video.pictures import write_png
from imagen_video.video import VideoWriter

SIZE = (72, 120)
DIFFERENT = 12


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--clips", type=int, default=10_000)
    clips = options.parse_args().clips
    with tempfile.TemporaryDirectory() as folder:
        media = write_media(Path(folder) / "media", files=clips // 2)
        pack(Rows([of_folder(media)]), Path(folder) / "tars", bytes_a_tar=2**24)
        bad = BadSamples(Path(folder) / "bad_samples.jsonl", limit=0.5)
        source = open_source([f"{media}=1", f"{folder}/tars=1"], seed=0, bad=bad)
        print(json.dumps({"machine": machine(), **measure(source, clips)}, indent=2))


def measure(source, clips: int) -> dict:
    stage = presets.tiny().stages[0]
    stage = replace(stage, train=replace(stage.train, clips=8, image_packs=2))
    mix = Mix(source, stage, seed=0, steps=clips // 8)
    start, held, private = time.perf_counter(), [], []
    for step, _ in enumerate(batches(mix, start=0, workers=1)):
        if step % max(1, len(mix) // 10) == 0:
            facts = worker_memory()
            held.append(round(facts["Rss"]))
            private.append(round(facts["Private_Dirty"] + facts["Private_Clean"]))
    speed = round(clips / (time.perf_counter() - start), 1)
    memory = {"worker_mib": held, "of_which_not_shared_mib": private}
    return {"clips": clips, "clips_per_second": speed, **memory}


def worker_memory() -> dict[str, float]:
    """MiB that the worker holds, by kind. A forked worker gets its own copy of a page that it
    shares with its parent as soon as it counts a reference there: that grows, and is no leak."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))
    lines = Path(f"/proc/{children.split()[0]}/smaps_rollup").read_text().splitlines()
    pairs = (line.split() for line in lines[1:])
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, *_ in pairs}


def write_media(folder: Path, files: int) -> Path:
    """So many videos and stills with captions; of a dozen by content, as files are what is kept
    open, indexed or remembered."""
    folder.mkdir()
    noise = torch.Generator().manual_seed(0)
    for i in range(DIFFERENT):
        still = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=noise)
        with VideoWriter(folder / f"{i}.mp4", height=SIZE[0], width=SIZE[1], fps=24.0) as writer:
            writer.write(torch.stack([still.roll(frame, -1) for frame in range(144)]))
        write_png(folder / f"{i}.png", still)
        (folder / f"{i}.txt").write_text(f"noise number {i} moving to the right")
    for i in range(DIFFERENT, files):
        for suffix in (".mp4", ".png", ".txt"):
            (folder / f"{i}{suffix}").hardlink_to(folder / f"{i % DIFFERENT}{suffix}")
    (folder / "broken.mp4").write_bytes((folder / "0.mp4").read_bytes()[:5000])
    (folder / "broken.txt").write_text("cut short")
    return folder


if __name__ == "__main__":
    main()
