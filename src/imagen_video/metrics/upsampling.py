"""What upsampling is measured by against the truth: PSNR, SSIM and VMAF; and how smooth time is."""

import functools
import json
import math
import subprocess
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from imagen_video import motion
from imagen_video.metrics.measures import psnr
from imagen_video.shapes import Float, UInt8
from imagen_video.video import Frames, to_float

SMALLEST = 32
"""Pixels of height below which VMAF's filters do not fit into a frame."""
WARPED = 320
"""Pixels of width above which frames are warped at a whole part of their size: blocks of a 768x1280
clip take a minute to match, and errors at one size compare the stages of a cascade."""


def fidelity(
    video: Frames, truth: UInt8[torch.Tensor, "_f _c _h _w"], fps: float
) -> dict[str, float]:
    """`psnr` in dB over the whole clip in RGB; `ssim` (RGB planes averaged) and `vmaf` (0 to 100,
    its default model) by ffmpeg where imageio-ffmpeg is installed and the frames are large enough.
    """
    if video.shape != truth.shape:
        raise ValueError(
            f"a video of {tuple(video.shape)} and a truth of {tuple(truth.shape)} cannot be "
            "compared: give both the same frames and size"
        )
    found = {"psnr": psnr(video, truth)}
    program = ffmpeg()
    if program is None or video.shape[-2] < SMALLEST:
        return found
    with tempfile.TemporaryDirectory() as folder:
        return found | _by_ffmpeg(program, video, truth, fps=fps, folder=Path(folder))


def ffmpeg() -> str | None:
    """The program that imageio-ffmpeg brings; None where it is not installed, or knows no VMAF."""
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    program = imageio_ffmpeg.get_ffmpeg_exe()
    return program if _knows_vmaf(program) else None


@functools.cache
def _knows_vmaf(program: str) -> bool:
    done = subprocess.run([program, "-hide_banner", "-filters"], capture_output=True, text=True)
    return "libvmaf" in done.stdout


def _by_ffmpeg(
    program: str, video: Frames, truth: Frames, *, fps: float, folder: Path
) -> dict[str, float]:
    height, width = video.shape[-2:]
    inputs = []
    for name, frames in (("video", video), ("truth", truth)):
        with open(folder / name, "wb") as file:
            for frame in frames:
                file.write(frame.permute(1, 2, 0).contiguous().numpy().tobytes())
        inputs += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"]
        inputs += ["-r", str(fps), "-i", str(folder / name)]
    graph = (
        "[0]format=gbrp,split[a][c];[1]format=gbrp,split[b][d];[a][b]ssim=stats_file=ssim[e];"
        "[c]format=yuv420p[f];[d]format=yuv420p[g];[f][g]libvmaf=log_fmt=json:log_path=vmaf[h]"
    )
    command = [program, "-v", "error", *inputs, "-filter_complex", graph]
    command += ["-map", "[e]", "-f", "null", "-", "-map", "[h]", "-f", "null", "-"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ffmpeg failed: {done.stderr[-500:]}")
    lines = (folder / "ssim").read_text().splitlines()
    ssim = [float(line.partition("All:")[2].split()[0]) for line in lines]
    vmaf = json.loads((folder / "vmaf").read_text())["pooled_metrics"]["vmaf"]["mean"]
    return {"ssim": sum(ssim) / len(ssim), "vmaf": vmaf}


def flicker(features: Float[torch.Tensor, "f d"]) -> float:
    """How far each frame's features are from the next one's: 1 - cosine, averaged."""
    _enough(len(features), 2)
    rows = F.normalize(features.double(), dim=1)
    return (1 - (rows[1:] * rows[:-1]).sum(1)).mean().item()


def warping_error(video: Frames) -> float:
    """How far frames are from what lies half-way between their neighbours along what moved
    (`motion.between`): root mean square, of 255. 0 for anything that moves evenly. Frames wider
    than WARPED are averaged over squares of pixels first."""
    _enough(len(video), 3)
    errors, square = [], math.ceil(video.shape[-1] / WARPED)
    for i in range(1, len(video) - 1):
        frames = F.avg_pool2d(to_float(video[i - 1 : i + 2]), square)
        before, here, after = frames.split(1)
        middle, _ = motion.between(before, after, 0.5)
        errors.append((middle - here).square().mean())
    return torch.stack(errors).mean().sqrt().item() * 127.5


def _enough(frames: int, wanted: int) -> None:
    if frames < wanted:
        raise ValueError(f"this measure needs {wanted} frames or more, got {frames}")
