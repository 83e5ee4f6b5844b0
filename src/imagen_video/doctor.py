"""Whether this installation works: each part is used for real, and what to do where it does not."""

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from imagen_video import __version__
from imagen_video.files import cache_root

NEEDED_BYTES = 4.5e9
"""Memory of a whole video of `mini` (docs/results.md)."""
PROMPT = "a duck moving left to right on a blue background, 3D render"
INSTALL = "sh install.sh"


class Missing(Exception):
    """What is not installed, and how to install it."""


@dataclass(frozen=True)
class Finding:
    """One part: how it is, what was found or is wrong, what to do, whether generating needs it."""

    part: str
    state: Literal["ok", "missing", "broken"]
    told: str
    remedy: str = ""
    core: bool = True

    def __str__(self) -> str:
        return f"{self.state:8}{self.part:14}{self.told}{f'; {self.remedy}' if self.remedy else ''}"


def examine() -> Iterator[Finding]:
    """Look at part after part; what fails is a finding, and the next one is looked at."""
    for part, look, remedy in CORE:
        yield _finding(part, look, remedy, core=True)
    for part, look, remedy in BESIDE:
        yield _finding(part, look, remedy, core=False)
    yield from _extras()


def _finding(part: str, look: Callable[[], str], remedy: str, *, core: bool) -> Finding:
    try:
        return Finding(part, "ok", look(), core=core)
    except Missing as error:
        return Finding(part, "missing", str(error), remedy, core)
    except ImportError as error:
        return Finding(part, "missing", _line(error), INSTALL, core)
    except Exception as error:  # whatever a broken part raises is what is to be told
        return Finding(part, "broken", _line(error), remedy, core)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def _python() -> str:
    return f"{platform.python_version()}, imagen-video {__version__}"


def _torch() -> str:
    import torch

    torch.mm(torch.ones(8, 8), torch.ones(8, 8))
    return f"{torch.__version__} on {platform.machine()}"


def _gpus() -> str:
    import torch

    if not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
        raise Missing(f"no CUDA device; this torch is built for {built}")
    found = []
    for i in range(torch.cuda.device_count()):
        torch.ones(8, 8, device=f"cuda:{i}").sum().item()
        free, whole = torch.cuda.mem_get_info(i)
        name = torch.cuda.get_device_name(i)
        found.append(f"cuda:{i} {name}, {free / 2**30:.0f} of {whole / 2**30:.0f} GiB free")
    return "; ".join(found)


def _numbers() -> str:
    import torch

    from imagen_video.weights import working_dtype

    native = working_dtype() == torch.bfloat16
    return "bfloat16" if native else "float32: this CPU would only emulate bfloat16"


def _cores() -> str:
    import torch

    usable, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    if threads > usable:
        raise ValueError(f"{threads} threads share {usable} cores")
    return f"{usable} of {os.cpu_count()} usable, {threads} threads"


def _memory() -> str:
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    if free < NEEDED_BYTES:
        needed = NEEDED_BYTES / 2**30
        raise ValueError(f"{free / 2**30:.1f} GiB free, all of mini takes {needed:.1f}")
    return f"{free / 2**30:.1f} GiB free"


def _cache() -> str:
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=root) as file:
        file.write(b"written")
    return f"{root}, {shutil.disk_usage(root).free / 2**30:.0f} GiB free"


def _video() -> str:
    import av
    import torch

    from imagen_video.video import VideoWriter, read_video

    frames = torch.zeros(2, 3, 32, 48, dtype=torch.uint8)
    frames[1, 0] = 200
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "two.mp4"
        with VideoWriter(path, height=32, width=48, fps=24.0) as writer:
            writer.write(frames)
        seen = read_video(path).frames
    error = (seen.float() - frames.float()).abs().mean()
    if error > 5:
        raise ValueError(f"frames come back {error:.0f} levels off")
    return f"libx264 by PyAV {av.__version__} wrote two frames and read them"


def _drawing() -> str:
    from imagen_video.data.stickers.sprites import drawings, rasterise
    from imagen_video.data.stickers.words import FONTS, draw_letters

    covered = rasterise(drawings()["duck"]["3D render"])[..., 3].mean() / 255
    widths = [draw_letters(font)[1].sum() for font in FONTS.values()]
    if not 0.2 < covered < 1 or min(widths) == 0:
        raise ValueError(f"a duck covers {covered:.0%} of its drawing, letters are {widths} wide")
    return f"resvg drew a duck, pillow the letters of {len(FONTS)} fonts"


def _text() -> str:
    from imagen_video.presets import SHORT_CAPTIONS
    from imagen_video.text.encoder import load_encoder

    embedding = load_encoder(SHORT_CAPTIONS)([PROMPT])
    return f"{int(embedding.mask.sum())} tokens of {embedding.tokens.shape[-1]} features read"


def _cascade() -> str:
    from imagen_video.cascade import Cascade
    from imagen_video.sampling import SampleSpec

    cascade = Cascade.from_pretrained("mini")
    start = time.perf_counter()
    first = next(cascade.stream([PROMPT], SampleSpec(until="base")))
    took = time.perf_counter() - start
    if not first.state.z.isfinite().all():
        raise ValueError("the first step of the base is not finite")
    return f"mini, {len(cascade.stages)} stages; a step of the base took {took:.1f} s"


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    raise Missing("no chromium or google-chrome")


CORE = (
    ("python", _python, INSTALL),
    ("torch", _torch, INSTALL),
    ("video files", _video, INSTALL),
    ("drawing", _drawing, INSTALL),
    ("text encoder", _text, INSTALL),
    ("cascade", _cascade, "fetch the package's mini/ anew"),
    ("cache", _cache, "set IMAGEN_VIDEO_CACHE to a folder that can be written"),
)
BESIDE = (
    ("gpu", _gpus, "everything works on the CPU, slowly; see pytorch.org for a torch of your card"),
    ("numbers", _numbers, ""),
    ("cores", _cores, "set OMP_NUM_THREADS"),
    ("memory", _memory, "generate --until ssr2 takes less"),
    ("chromium", _chromium, "only tests of the web page want it"),
)


def _extras() -> Iterator[Finding]:
    """Every optional part of the package by what its metadata asks for."""
    try:
        names = metadata("imagen-video").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        yield Finding("extras", "missing", "imagen-video is not installed", INSTALL, core=False)
        return
    whole = []
    for name in names:
        wrong = sorted(_unmet(name))
        if not wrong:
            whole.append(name)
            continue
        remedy = f"pip install 'imagen-video[{name}]'"
        told = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        yield Finding(name, "missing", told, remedy, core=False)
    if whole:
        yield Finding("extras", "ok", ", ".join(whole), core=False)


def _unmet(extra: str) -> Iterator[str]:
    """The requirements of an extra, and of extras that it is made of, that are not installed."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires("imagen-video") or []):
        if not (requirement.marker and requirement.marker.evaluate({"extra": extra})):
            continue
        for part in requirement.extras if requirement.name == "imagen-video" else ():
            yield from _unmet(part)
        try:
            fits = version(requirement.name) in requirement.specifier
        except PackageNotFoundError:
            fits = False
        if not fits:
            yield f"{requirement.name}{requirement.specifier}"
