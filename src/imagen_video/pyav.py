"""What PyAV must be told so that colours, orientation and errors come out right."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from imagen_video.files import opening
from imagen_video.shapes import UInt8

# Codes of ffmpeg's tables: colour matrices (BT.709 also names primaries and transfer), ranges.
BT709, UNSPECIFIED, BT601 = 1, 2, 5
LIMITED, FULL = 1, 2  # 16-235 as video has it, 0-255 as RGB has it
HDR = {16: "PQ", 18: "HLG"}  # by transfer: taken for what screens show, it is pale
# Containers that hold their video themselves. Playlists and the like would make ffmpeg open other
# files and addresses; a picture under the name of a video is none.
CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,asf,ogg,flv,gif"


def reformat(frame: Any, reformatter: Any, **formats: Any) -> Any:
    """`reformatter.reformat` with exact rounding and full chroma.

    swscale's defaults lose 16 dB on a round trip through yuv420p (35 instead of 51).
    """
    from av.video.reformatter import Interpolation

    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return reformatter.reformat(frame, interpolation=int(exact), **formats)


def upright_rgb(frame: Any, reformatter: Any) -> UInt8[Tensor, "3 h w"]:
    """A decoded frame of any pixel format as RGB, turned as the file says; what is transparent
    lies on white."""
    matrix = frame.colorspace
    if matrix == UNSPECIFIED:  # untagged files: the size tells, as players have it
        matrix = BT709 if frame.height >= 720 else BT601
    alpha = any(part.is_alpha for part in frame.format.components)
    pixels = reformat(
        frame,
        reformatter,
        format="rgba" if alpha else "rgb24",
        src_colorspace=matrix,
        dst_color_range=FULL,
        threads=1,  # by itself swscale starts one a core, which a loader's process may not get
    ).to_ndarray()
    pixels = _upright(on_white(pixels) if alpha else pixels, frame)
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).contiguous()


def _upright(pixels: np.ndarray, frame: Any) -> np.ndarray:
    """Turned by quarters and mirrored, as the frame's display matrix says."""
    from av.sidedata.sidedata import Type

    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return pixels
    # A point (x, y) is shown at (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5]
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def on_white(rgba: np.ndarray) -> np.ndarray:
    """8-bit "h w 4" over white, as "h w 3"."""
    colour, alpha = rgba[..., :3].astype(np.uint16), rgba[..., 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


@contextmanager
def opened(
    source: str | Path | BufferedIOBase, *, name: str = "", contained: bool = False
) -> Iterator[tuple[Any, Any]]:
    """The container and video stream of a path or an open file, closed at the end; whatever fails
    is a ValueError with `name`, but Unreachable where no file can be opened now. If `contained`,
    only CONTAINERS are opened, and no other file is read, whatever this one refers to."""
    from av.error import FFmpegError

    name = name or str(source)
    if isinstance(source, str | Path):
        if not Path(source).is_file():
            raise ValueError(f"there is no file {name!r}")
        source = str(source)
    bound = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file"} if contained else {}
    try:
        with opening(lambda: _container(source, bound), name) as container:
            if not container.streams.video:
                raise ValueError(f"{name!r} holds no video")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ValueError(f"{name!r} is coded in a way that nothing here reads")
            if stream.codec_context.color_trc in HDR:
                kind = HDR[stream.codec_context.color_trc]
                raise ValueError(
                    f"{name!r} is HDR video ({kind}), whose colours are not read here: make it "
                    "SDR, as with ffmpeg's filters zscale and tonemap"
                )
            yield container, stream
    except FFmpegError as error:
        raise ValueError(f"cannot read {name!r} as a video: {error.strerror}") from error


def _container(source: str | BufferedIOBase, bound: dict[str, str]) -> Any:
    import av

    # Tags in another encoding must not hide the video. From 19 on PyAV lets them pass by itself.
    lenient: Any = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
    if not isinstance(source, str):
        source.seek(0)
    return av.open(source, options=bound, **lenient)


def start(stream: Any) -> float:
    """The second at which a stream's first frame is shown."""
    return float((stream.start_time or 0) * stream.time_base)


def sought(container: Any, stream: Any, second: float) -> bool:
    """Whether the next packet is of a key frame found for a time; AVI has none before its first."""
    from av.error import FFmpegError

    try:
        container.seek(int(second / stream.time_base), stream=stream)
    except FFmpegError:
        return False
    return True


def seconds(container: Any, stream: Any, fps: float) -> float:
    """How long a stream of so many frames a second lasts; read through where it does not say so."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    if told := _told_seconds(stream):
        # By mkvmerge, which adds such statistics, a length; by ffmpeg when the stream ends.
        long = any(name.startswith("_STATISTICS_") for name in stream.metadata)
        return told if long else told - start(stream)
    if container.duration and len(container.streams) == 1:  # of the longest stream: sound, too
        return container.duration / 1e6
    count, end = 0, None
    for packet in container.demux(stream):
        count += packet.size > 0
        if packet.size and packet.pts is not None:
            last = (packet.pts + (packet.duration or 0)) * packet.time_base
            end = last if end is None else max(end, last)
    return count / fps if end is None else float(end) - start(stream)


def _told_seconds(stream: Any) -> float:
    """What Matroska says of a stream by a tag, "00:00:06.0400"; 0 if it says nothing."""
    tags = (text for name, text in stream.metadata.items() if name.startswith("DURATION"))
    match = re.fullmatch(r"(\d+):(\d+):([\d.]+)\0*", next(tags, ""))
    hours, minutes, seconds = map(float, match.groups() if match else "000")
    return 3600 * hours + 60 * minutes + seconds
