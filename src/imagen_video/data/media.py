"""Frames out of files: what a stage asks for, decoded from where it lies (paper section 7).

The rule for sources that are less than a stage wants: a video that is too short is slowed down,
at most SLOWEST times; a frame that is too small is enlarged, at most LARGEST times; what needs
more, or has fewer frames a second than the stage, does not fit: it would teach stutter and blur.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedIOBase, BufferedReader, BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagen_video import pyav
from imagen_video.data.clips import Crop
from imagen_video.files import fetched, opening
from imagen_video.shapes import UInt8
from imagen_video.video import Frames, VideoFormat, resize, to_float, to_uint8

SLOWEST = 2.0
LARGEST = 1.25
SAME_RATE = 1.05  # 24 is 25 is 23.976: one frame in twenty may be shown twice
ROUNDING = 1e-3  # seconds: Matroska rounds its time stamps to so many
# Seconds before the wanted one at which a file is sought: MPEG's containers are found in behind the
# place, and key frames lie seconds apart.
EARLIER = (0, 2, 10)
VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .m2ts .wmv .flv .ogv .3gp .gif".split()
)
IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .png .webp .bmp .tif .tiff .ppm .pgm .jp2 .avif .ico .tga".split()
)


class Unfit(ValueError):
    """A sound file that is too short, too small or too slow for the stage."""


@dataclass(frozen=True)
class Media:
    """Where the bytes of one video or image lie: a file, or `size` bytes of one from `offset`."""

    path: str
    offset: int = 0
    size: int | None = None
    member: str = ""

    def __str__(self) -> str:
        return f"{self.path}/{self.member}" if self.member else self.path

    def open(self) -> BufferedIOBase:
        """The bytes as a file; OSError or ValueError if there are none, Unreachable if no file can
        be opened now."""
        if self.size is None:
            return _opened(self.path)
        with _opened(fetched(self.path)) as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise ValueError(f"{self} ends after {len(content)} of {self.size} bytes")
        return BytesIO(content)


def _opened(path: str | Path) -> BufferedReader:
    return opening(lambda: open(path, "rb"), str(path))


@dataclass(frozen=True)
class VideoFacts:
    """What a video's container says of it. `aspect` is width : height of one pixel."""

    seconds: float
    fps: float
    height: int
    width: int
    aspect: float = 1.0


@contextmanager
def opened(media: Media) -> Iterator[tuple[Any, Any]]:
    source = media.open() if media.size is not None else media.path
    with pyav.opened(source, name=str(media), contained=True) as (container, stream):
        if stream.metadata.get("alpha_mode") == "1":  # the decoder shows what lies below as black
            raise ValueError("it has transparent parts in a way (WebM's) that is not read here")
        stream.codec_context.thread_count = 1  # the workers of the loader are the threads
        # Without it decoders draw grey where data is broken, and call it a frame.
        stream.codec_context.options = {"err_detect": "explode"}
        yield container, stream


def video_facts(media: Media) -> VideoFacts:
    """Length, rate and size; ValueError if it is no video, or does not say its rate."""
    with opened(media) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        if not fps:
            raise ValueError(f"{str(media)!r} does not say its frame rate")
        aspect = float(stream.sample_aspect_ratio or 1)
        height, width = stream.codec_context.height, stream.codec_context.width
        return VideoFacts(pyav.seconds(container, stream, fps), fps, height, width, aspect)


def slowing(seconds: float, fps: float, wanted: VideoFormat) -> float:
    """How many times slower than it was a video has to be shown to last long enough; 1 if it does.

    Unfit if that is more than SLOWEST, or if there are too few frames to show it so.
    """
    if wanted.frames == 1:
        return 1.0
    factor = max(1.0, wanted.seconds / seconds)
    if factor > SLOWEST or wanted.fps * factor > fps * SAME_RATE:
        raise Unfit(
            f"{seconds:.2f} s at {fps:.3g} fps; {wanted.seconds:.2f} s at "
            f"{wanted.fps:.3g} fps need as many frames, in at least 1/{SLOWEST:g} of the time"
        )
    return factor


def read_clip(
    media: Media, wanted: VideoFormat, crop: Crop, *, span: tuple[float, float], at: "Place"
) -> tuple[Frames, float]:
    """The frames of `crop` out of a clip of `wanted`, and how many times it was slowed down.

    `span` is the part of the file, in seconds, that may be used. Frames are skipped, not blended.
    ValueError if the file is broken there; Unfit if it is not enough.
    """
    facts = video_facts(media)
    first, last = span[0], min(span[1], facts.seconds)
    if last <= first:
        raise ValueError(f"{str(media)!r} lasts {facts.seconds:.2f} s and is used from {first} s")
    factor = slowing(last - first, facts.fps, wanted)
    start = first + at.time * max(0.0, last - first - wanted.seconds / factor)
    upright = shown(
        media, [start + (crop.frame + i) / (wanted.fps * factor) for i in range(crop.frames)]
    )
    frames = [fitted(frame, wanted, crop, at=at, aspect=_aspect(frame, facts)) for frame in upright]
    return torch.stack(frames), factor


def _aspect(frame: UInt8[Tensor, "3 h w"], facts: VideoFacts) -> float:
    """Of the pixels of an upright frame, which a turned file stores lying down."""
    turned = facts.height != facts.width and frame.shape[1:] == (facts.width, facts.height)
    return 1 / facts.aspect if turned else facts.aspect


@dataclass(frozen=True)
class Place:
    """Which part of what is there, each from 0 to 1: of the seconds, rows and columns left over."""

    time: float = 0.5
    row: float = 0.5
    column: float = 0.5


def shown(media: Media, times: Sequence[float]) -> Iterator[UInt8[Tensor, "3 h w"]]:
    """The upright frame that a player shows at each of the times (seconds, ascending)."""
    from av.video.reformatter import VideoReformatter

    reformatter, given = VideoReformatter(), 0
    with opened(media) as (container, stream):
        for frame, until in _timed(container, stream, times[0]):
            image = None
            while given < len(times) and times[given] < until:
                image = pyav.upright_rgb(frame, reformatter) if image is None else image
                yield image
                given += 1
            if given == len(times):
                return
    raise ValueError(f"{str(media)!r} breaks off before {times[given]:.2f} s")


def _timed(container: Any, stream: Any, begin: float) -> Iterator[tuple[Any, float]]:
    """Decoded frames from one shown at `begin` or before, each with the second at which it ends."""
    origin = pyav.start(stream)
    # Program streams tell few times, and ffmpeg guesses the first ones behind a place.
    tries = EARLIER[1:] if container.format.name == "mpeg" else EARLIER
    for earlier in tries if begin > 1 else ():
        # Before the start, too: the first frame is decoded earlier than it is shown, and what is
        # sought by decoding times from its start on is found behind it.
        if not pyav.sought(container, stream, begin - earlier + origin):
            continue
        frames = _from_key(container, stream)
        first = next(frames, None)
        if first is not None and first.time - origin <= begin:
            yield from _lasting(chain([first], frames), stream, origin)
            return
    if begin > 1 and not pyav.sought(container, stream, origin - EARLIER[-1]):
        container.seek(stream.start_time or 0, stream=stream)
    yield from _lasting(container.decode(stream), stream, origin)


def _from_key(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames from the first key frame behind a seek on, none if it cannot be shown.

    Frames that come after it in the file and before it in time may need some from before the seek
    (open groups of pictures): what a decoder says of them is not said of the file.
    """
    from av.error import FFmpegError

    key, begun = None, False
    for packet in container.demux(stream):
        if key is None and packet.is_keyframe:
            key = packet.pts
        if key is None:
            continue
        try:
            frames = packet.decode()
        except FFmpegError:
            if begun:
                raise
            continue
        for frame in frames:
            if not begun and frame.pts is not None and frame.pts > key:
                return
            begun = begun or frame.pts == key
            if begun:
                yield frame


def _lasting(frames: Iterable[Any], stream: Any, origin: float) -> Iterator[tuple[Any, float]]:
    """Each with the second, from `origin`, at which it ends; ValueError for a corrupt one."""
    length = 1 / float(stream.average_rate or stream.guessed_rate)
    before, start = None, 0.0
    for number, frame in enumerate(frames):
        if frame.is_corrupt:
            raise ValueError(f"the frame after {start:.2f} s is corrupt")
        # A stream without time stamps goes by its rate, and cannot be sought in.
        time = number * length if frame.time is None else frame.time - origin
        if before is not None:
            yield before, time - ROUNDING
        before, start = frame, time
    if before is not None:  # half a frame more: containers round the length of the last
        yield before, start + 1.5 * length


def covering(height: float, width: float, wanted: VideoFormat) -> float:
    """By how much a frame of square pixels is resized to cover the wanted one.

    Unfit if it would be enlarged more than LARGEST times.
    """
    scale = max(wanted.height / height, wanted.width / width)
    if scale > LARGEST:
        raise Unfit(
            f"{width:.0f}x{height:.0f}; {wanted.width}x{wanted.height} needs at least "
            f"{1 / LARGEST:g} of both sides"
        )
    return scale


def fitted(
    image: UInt8[Tensor, "3 h w"],
    wanted: VideoFormat,
    crop: Crop,
    *,
    at: Place,
    aspect: float = 1.0,
) -> UInt8[Tensor, "3 crop_h crop_w"]:
    """Resized antialiased to cover the wanted size, and its crop; Unfit if it is too small."""
    height, width = float(image.shape[1]), image.shape[2] * aspect
    scale = covering(height, width, wanted)
    rows = max(wanted.height, round(height * scale))
    columns = max(wanted.width, round(width * scale))
    top = crop.top + round(at.row * (rows - wanted.height))
    left = crop.left + round(at.column * (columns - wanted.width))
    whole = resize(to_float(image)[None, None], rows, columns)[0, 0]
    return to_uint8(whole[:, top : top + crop.height, left : left + crop.width])


def read_image(media: Media) -> UInt8[Tensor, "3 h w"]:
    """An upright RGB image of any mode and depth, what is transparent on white.

    ValueError if it is none, or larger than Pillow thinks safe; OSError if there is no such file.
    """
    from PIL import Image, ImageOps

    with media.open() as file:
        try:
            with Image.open(file) as image:  # pyright: ignore[reportArgumentType]
                if image.mode == "F" or (image.mode, image.format) == ("I", "TIFF"):
                    raise ValueError("pixels of 32 bits have no agreed range")
                pixels = _rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # Pillow's decoders raise anything on broken data
            kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
            raise ValueError(f"cannot read {str(media)!r} as an image: {kind}{error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _rgb(image: Any) -> np.ndarray:
    if image.mode.startswith("I"):  # 16 bits in one way or another
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) // 257
        return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        return pyav.on_white(np.asarray(image.convert("RGBA")))
    return np.array(image.convert("RGB"))
