"""Videos as diffusers and other libraries hold them: written as mp4, and as the base of our
super-resolution stages."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagen_video.cascade import Cascade
from imagen_video.pyav import on_white
from imagen_video.sampling import Progress
from imagen_video.video import Frames, VideoWriter


def as_frames(video: Any) -> Frames:
    """One video as 8-bit RGB: what a diffusers pipeline returns, its `.frames`, PIL images, or an
    array or tensor, "f h w c" or "f c h w", in 8 bits or as floats in [0, 1].

    A batch must hold one video. ValueError for anything else.
    """
    video = getattr(video, "frames", video)
    if isinstance(video, list | tuple):
        video = _stacked(video)
    channels_last = isinstance(video, np.ndarray)  # where three rows would leave it open
    if isinstance(video, np.ndarray):
        video = torch.from_numpy(video)
    if not isinstance(video, torch.Tensor) or video.ndim not in (4, 5):
        shape = f" of shape {tuple(video.shape)}" if isinstance(video, torch.Tensor) else ""
        raise ValueError(f"a video is a list of images or f x h x w x c, got {_kind(video)}{shape}")
    if video.ndim == 5:
        if len(video) != 1:
            raise ValueError(f"{len(video)} videos came, one fits: give one of .frames")
        video = video[0]
    video = video.detach().cpu()
    axes = [axis for axis in (-1, -3) if video.shape[axis] == 3]
    if not axes or len(video) == 0:
        raise ValueError(f"a video has RGB frames, f x h x w x 3, got {tuple(video.shape)}")
    if (axes[0] if channels_last else axes[-1]) == -1:
        video = video.permute(0, 3, 1, 2)
    return _in_8_bits(video).contiguous()


def export_to_video(frames: Any, path: str | Path, *, fps: float = 10.0) -> Path:
    """Write what `as_frames` takes as an H.264 mp4 of exactly its size and rate."""
    video, path = as_frames(frames), Path(path)
    height, width = video.shape[-2:]
    with VideoWriter(path, height=height, width=width, fps=fps) as writer:
        writer.write(video)
    return path


def upsampled(
    cascade: Cascade,
    source: Callable[[str], Any] | Any,
    prompt: str = "",
    *,
    stages: Sequence[str] = ("ssr3",),
    fps: float | None = None,
    **options: Any,
) -> Iterator[Progress]:
    """Another generator's video through our stages: `source` is one that `as_frames` takes, or
    what makes one of the prompt, such as a diffusers pipeline. `options` are those of `upscale`."""
    video = as_frames(source(prompt) if callable(source) else source)
    yield from cascade.upscale(video, prompt, fps=fps, stages=stages, **options)


def _stacked(frames: Sequence[Any]) -> np.ndarray | torch.Tensor:
    """Frames one by one, or a batch of one list of them, as one array."""
    if not frames:
        raise ValueError("a video has at least one frame, got none")
    if isinstance(frames[0], list | tuple):
        if len(frames) != 1:
            raise ValueError(f"{len(frames)} videos came, one fits: give one of .frames")
        return _stacked(frames[0])
    pictures = [_pixels(frame) for frame in frames]
    shapes = {tuple(picture.shape) for picture in pictures}
    if len(shapes) > 1:
        raise ValueError(f"the frames of a video have one size, got {sorted(shapes)}")
    tensors = [picture for picture in pictures if isinstance(picture, torch.Tensor)]
    return torch.stack(tensors) if len(tensors) == len(pictures) else np.stack(pictures)


def _pixels(frame: Any) -> np.ndarray | torch.Tensor:
    """An array as it is, a PIL image of any mode as RGB."""
    if isinstance(frame, np.ndarray | torch.Tensor):
        return frame
    if not hasattr(frame, "convert"):
        raise ValueError(f"a frame is a PIL image, an array or a tensor, got {_kind(frame)}")
    return on_white(np.asarray(frame.convert("RGBA")))


def _in_8_bits(video: torch.Tensor) -> torch.Tensor:
    if video.dtype == torch.uint8:
        return video
    if not video.is_floating_point():
        raise ValueError(f"a video has 8-bit or float values, got {video.dtype}")
    low, high = video.min().item(), video.max().item()
    if not (low > -0.01 and high < 1.01):  # some decoders overshoot by a rounding
        raise ValueError(
            f"float frames lie in [0, 1], got {low:.3g} to {high:.3g}: map [-1, 1] by x / 2 + 0.5"
        )
    return video.float().mul(255).round_().clamp_(0, 255).to(torch.uint8)


def _kind(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__name__}"
