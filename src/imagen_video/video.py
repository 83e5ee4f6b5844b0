"""Videos as tensors and as files: formats, 8-bit frames, resizing, mp4 in and out with PyAV."""

import json
import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from imagen_video import pyav
from imagen_video.files import replacing
from imagen_video.shapes import Float, UInt8

Video = Float[Tensor, "b f c h w"]
"""Clean video in [-1, 1], RGB."""
PerClip = Float[Tensor, " b"]
Frames = UInt8[Tensor, "f c h w"]
"""One clip as 8-bit RGB."""
ALL = slice(None)
"""Every frame."""


@dataclass(frozen=True)
class VideoFormat:
    """Frames x height x width at a frame rate; `str` gives "32x48x80@6" and `parse` reads it."""

    frames: int
    height: int
    width: int
    fps: float

    def __post_init__(self):
        if min(self.frames, self.height, self.width) < 1 or not 0 < self.fps < float("inf"):
            raise ValueError(f"a video format has positive sizes and frame rate, got {self}")

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}@{self.fps:.10g}"

    @classmethod
    def parse(cls, text: str) -> "VideoFormat":
        """Read "32x48x80@6": frames x height x width @ frames per second."""
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)@(\d+\.?\d*)", text.strip())
        if match is None:
            raise ValueError(f"a video format reads like '32x48x80@6', got {text!r}")
        frames, height, width = map(int, match.groups()[:3])
        return cls(frames, height, width, float(match[4]))

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.height, self.width


def to_float(video: UInt8[Tensor, "... c h w"]) -> Float[Tensor, "... c h w"]:
    """8-bit video as float32 in [-1, 1]."""
    return video.float().div_(127.5).sub_(1)


def to_uint8(video: Float[Tensor, "... c h w"]) -> UInt8[Tensor, "... c h w"]:
    """Video in [-1, 1] rounded to 8 bits; what lies outside is clamped."""
    return video.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def resize(
    video: Float[Tensor, "b f c h w"],
    height: int,
    width: int,
    *,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> Float[Tensor, "b f c {height} {width}"]:
    """Every frame at another size, antialiased when shrinking; a few frames at a time.

    Bicubic is Catmull-Rom and may leave [-1, 1]. The same size gives back the video itself.
    """
    b, f, c, h, w = video.shape
    if (h, w) == (height, width):
        return video
    shrinks = height < h or width < w
    # The antialiased bilinear kernel equals the plain one when enlarging, at twice its time. For
    # bicubic the two differ, and one kernel for both directions is easier to reason about.
    antialias = shrinks or mode == "bicubic"
    resized = video.new_empty(b * f, c, height, width)
    frames = video.reshape(b * f, c, h, w)
    chunk = max(1, 2**24 // (c * max(h * w, height * width)))
    for start in range(0, b * f, chunk):
        part = frames[start : start + chunk]
        if part.dtype in (torch.bfloat16, torch.float16):
            part = part.float()  # the antialiased CPU kernels know no half precision
        resized[start : start + chunk] = F.interpolate(
            part, (height, width), mode=mode, align_corners=False, antialias=antialias
        )
    return resized.view(b, f, c, height, width)


def probe_output(path: str | Path, *, suffix: str = ".mp4") -> None:
    """Make the folder of `path` and see that a file can be written there; touch no existing file.

    ValueError if the name does not end in `suffix`, is a folder, or could not be written,
    nor the .json beside it.
    """
    path = Path(path)
    if path.suffix.lower() != suffix:
        raise ValueError(f"the output must end in {suffix}, got {str(path)!r}")
    try:
        for name in {path, path.with_suffix(".json")}:  # a video's facts lie beside it
            if name.is_dir():
                raise ValueError(
                    f"cannot write {str(name)!r}: it is a folder; choose another output path"
                )
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(
            f"cannot write {str(path)!r}: {error.strerror}; choose another output path"
        ) from error


class VideoWriter:
    """Write 8-bit RGB frames to an H.264 mp4, frame by frame, at exact size and frame rate.

    with VideoWriter("out.mp4", height=768, width=1280, fps=24.0, metadata={...}) as writer:
        writer.write(frames)                      # "f c h w", as often as you like

    `metadata` goes into the comment tag as JSON. The file appears when the block ends cleanly;
    after an exception there is none, and an older one of that name is still there.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        height: int,
        width: int,
        fps: float,
        metadata: Mapping[str, Any] | None = None,
    ):
        if height % 2 or width % 2 or min(height, width) < 2:
            even = f"{max(2, height + height % 2)}x{max(2, width + width % 2)}"
            raise ValueError(f"H.264 needs an even size, got {height}x{width}; {even} would fit")
        self.path, self.height, self.width = Path(path), height, width
        self.rate = Fraction(fps).limit_denominator(1001)  # 29.97002997 is 30000/1001
        self.comment = json.dumps(metadata or {}, ensure_ascii=False)
        self.frames = 0

    def __enter__(self) -> "VideoWriter":
        import av
        from av.video.reformatter import VideoReformatter

        probe_output(self.path)
        with ExitStack() as stack:
            temporary = stack.enter_context(replacing(self.path))
            self._container = stack.enter_context(
                av.open(
                    str(temporary), "w", format="mp4", container_options={"movflags": "faststart"}
                )
            )
            self._container.metadata["comment"] = self.comment
            # At this crf faster presets lose nothing but size (docs/log.md).
            options = {"crf": "18", "preset": "superfast"}
            self._stream = self._container.add_stream("libx264", rate=self.rate, options=options)
            codec = self._stream.codec_context
            codec.width, codec.height, codec.pix_fmt = self.width, self.height, "yuv420p"
            codec.color_range = pyav.LIMITED
            codec.colorspace = codec.color_primaries = codec.color_trc = pyav.BT709
            self._reformatter = VideoReformatter()
            self._stack = stack.pop_all()
        return self

    def write(self, frames: Frames) -> None:
        """Append frames of this writer's height and width."""
        import av

        if frames.shape[1:] != (3, self.height, self.width):
            got = "x".join(map(str, frames.shape[1:]))
            raise ValueError(f"the video is 3x{self.height}x{self.width}, got frames of {got}")
        for frame in frames:
            planes = frame.permute(1, 2, 0).cpu().numpy()
            picture = av.VideoFrame.from_ndarray(planes, format="gbrp")  # spares mixing the colours
            picture = pyav.reformat(
                picture,
                self._reformatter,
                format="yuv420p",
                dst_colorspace=pyav.BT709,
                src_color_range=pyav.FULL,
                dst_color_range=pyav.LIMITED,
            )
            picture.pts, picture.time_base = self.frames, 1 / self.rate
            picture.duration = 1
            self._container.mux(self._stream.encode(picture))
            self.frames += 1

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with self._stack:  # closes the container, then renames the file or removes it
            if error is not None:
                raise error
            if self.frames == 0:
                raise ValueError(f"no frame was written to {str(self.path)!r}")
            self._container.mux(self._stream.encode(None))


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds: frame count, upright size, rate, and the metadata of `VideoWriter`."""

    frames: int
    height: int
    width: int
    fps: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class VideoClip:
    """A decoded file: 8-bit RGB frames, frames a second, and the metadata of `VideoWriter`."""

    frames: Frames
    fps: float
    metadata: dict[str, Any]


def video_info(path: str | Path) -> VideoInfo:
    """Size, length, rate and metadata of a file; ValueError if it is no readable video."""
    with closing(iter_video(path)) as frames:
        _, height, width = next(frames).shape  # decoded, because a rotated file swaps its sides
    with pyav.opened(path) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        try:
            metadata = json.loads(container.metadata.get("comment", "{}"))
        except (ValueError, RecursionError):
            metadata = {}  # some other program's comment
        # Some containers do not say how many frames they hold: count packets, without decoding.
        count = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    if not fps:
        raise ValueError(f"{str(path)!r} does not say its frame rate")
    return VideoInfo(count, height, width, fps, metadata if isinstance(metadata, dict) else {})


def iter_video(
    path: str | Path, *, every: int = 1
) -> Generator[UInt8[Tensor, "c h w"], None, None]:
    """Upright RGB frames one by one, or one in `every`; what is transparent lies on white.

    ValueError, when the first frame is asked for, if the file is missing, corrupt or empty.
    """
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()
    with pyav.opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        size = None
        for frame in islice(container.decode(stream), 0, None, every):
            image = pyav.upright_rgb(frame, reformatter)
            if size not in (None, image.shape):
                raise ValueError(f"{str(path)!r} changes its size from {size} to {image.shape}")
            size = image.shape
            yield image
        if size is None:
            raise ValueError(f"{str(path)!r} holds no frame")


def read_video(path: str | Path, *, max_frames: int | None = None) -> VideoClip:
    """A whole file, or its first `max_frames` frames, in memory; ValueError as `iter_video`."""
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames must be at least 1, got {max_frames}")
    info = video_info(path)
    with closing(iter_video(path)) as frames:
        return VideoClip(torch.stack(list(islice(frames, max_frames))), info.fps, info.metadata)
