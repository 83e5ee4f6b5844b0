"""Videos of every kind: read as what they show, or refused with a reason."""

import struct
from fractions import Fraction

import av
import pytest
import torch
from files import coded, counted, png

from imagen_video.data.clips import Crop
from imagen_video.data.media import (
    Media,
    Place,
    Unfit,
    read_clip,
    video_facts,
)
from imagen_video.video import VideoFormat, VideoWriter

WANTED = VideoFormat(8, 24, 40, 3.0)
WHOLE = Crop(0, 0, 0, 8, 24, 40)
ALL = (0.0, 9e9)


def write(path, frames, fps):
    size = {"height": frames.shape[2], "width": frames.shape[3]}
    with VideoWriter(path, **size, fps=fps) as writer:
        writer.write(frames)
    return Media(str(path))


def numbers(video: torch.Tensor) -> list[int]:
    """The frame numbers of what `counted` made."""
    return ((video.float().mean((1, 2, 3)) - 20) / 2).round().int().tolist()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov"])
def test_frames_are_skipped_down_to_the_rate(tmp_path, name):
    write(tmp_path / "a.mp4", counted(96), 24.0)
    path = tmp_path / name
    if name != "a.mp4":
        remux(tmp_path / "a.mp4", path)
    video, slowed = read_clip(Media(str(path)), WANTED, WHOLE, span=ALL, at=Place(0.0))
    assert slowed == 1 and numbers(video) == list(range(0, 64, 8))
    video, _ = read_clip(Media(str(path)), WANTED, WHOLE, span=ALL, at=Place(1.0))
    assert numbers(video)[0] == 96 - 64
    late = Crop(5, 0, 0, 3, 24, 40)
    video, _ = read_clip(Media(str(path)), WANTED, late, span=(1.0, 9e9), at=Place(0.0))
    assert numbers(video) == [64, 72, 80]


def remux(source, path):
    with av.open(str(source)) as read, av.open(str(path), "w") as written:
        stream = written.add_stream_from_template(read.streams.video[0])
        for packet in read.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                written.mux(packet)


def test_a_part_of_a_file_is_read_like_the_file(tmp_path):
    write(tmp_path / "a.mp4", counted(96), 24.0)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.bin").write_bytes(b"x" * 700 + content + b"y" * 99)
    part = Media(str(tmp_path / "b.bin"), 700, len(content), "a.mp4")
    video, _ = read_clip(part, WANTED, WHOLE, span=ALL, at=Place(0.5))
    whole = Media(str(tmp_path / "a.mp4"))
    assert video.equal(read_clip(whole, WANTED, WHOLE, span=ALL, at=Place(0.5))[0])


def test_short_videos_are_slowed_down_at_most_twice_and_low_rates_do_not_fit(tmp_path):
    short = write(tmp_path / "short.mp4", counted(40), 24.0)  # 1.67 of 2.67 s
    video, slowed = read_clip(short, WANTED, WHOLE, span=ALL, at=Place(0.7))
    assert slowed == pytest.approx(1.6)
    assert numbers(video) == list(range(0, 40, 5))
    slow = write(tmp_path / "slow.mp4", counted(16), 2.9)  # as good as 3
    shown = numbers(read_clip(slow, WANTED, WHOLE, span=ALL, at=Place(0.0))[0])
    assert shown == [0, 0, 1, 2, 3, 4, 5, 6]
    for frames, fps, span in (
        (30, 24.0, ALL),
        (90, 2.0, ALL),
        (96, 24.0, (3.0, 4.2)),
        (6, 3.0, ALL),
    ):
        media = write(tmp_path / "less.mp4", counted(frames), fps)
        with pytest.raises(Unfit, match="need as many frames"):
            read_clip(media, WANTED, WHOLE, span=span, at=Place(0.0))


def test_frames_cover_the_size_and_are_not_blown_up(tmp_path):
    """Columns of a wide video tell which part is shown."""
    ramp = torch.arange(120, dtype=torch.uint8).repeat(64, 3, 48, 1)
    media = write(tmp_path / "a.mp4", ramp * 2, 24.0)
    for column, first in ((0.0, 0), (0.5, 10), (1.0, 20)):  # 48x120 covers 24x40 as 24x60
        at = Place(0.0, 0.5, column)
        video, _ = read_clip(media, WANTED, WHOLE, span=ALL, at=at)
        assert video.shape == (8, 3, 24, 40)
        assert (video[0, 0, 12].float() / 4 - torch.arange(first, first + 40)).abs().max() < 2
    inside = Crop(2, 4, 6, 3, 8, 16)
    part, _ = read_clip(media, WANTED, inside, span=ALL, at=Place(0.0))
    assert part.equal(video_at(media)[2:5, :, 4:12, 6:22])
    with pytest.raises(Unfit, match=r"80x48.*needs at least 0.8"):
        read_clip(
            write(tmp_path / "b.mp4", counted(96), 24.0),
            VideoFormat(8, 96, 160, 3.0),
            Crop(0, 0, 0, 8, 96, 160),
            span=ALL,
            at=Place(0.0),
        )


def video_at(media):
    return read_clip(media, WANTED, WHOLE, span=ALL, at=Place(0.0))[0]


def test_wide_pixels_are_shown_wide(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=3)
        stream.width, stream.height, stream.pix_fmt = 80, 96, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for picture in counted(9, 96, 80):
            picture[:, :, :20] = 255
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy())
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    media = Media(str(tmp_path / "a.mp4"))
    assert video_facts(media).aspect == 2
    white = video_at(media)[0, 0, 12] > 200  # 96x160 as shown: all of it covers 24x40
    assert white.tolist() == [True] * 10 + [False] * 30
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"tkhd") + 44  # the display matrix: a quarter turn
    data[start : start + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    # 80x48 as shown, clockwise: the first quarter is the upper one.
    upper, middle, lower = (
        read_clip(media, WANTED, WHOLE, span=ALL, at=Place(0.0, row, 0.5))[0][0, 0, :, 20] > 200
        for row in (0.0, 0.5, 1.0)
    )
    assert upper[:16].all() and not upper[18:].any() and not middle.any() and not lower.any()


BROKEN = {
    "empty.mp4": lambda good: b"",
    "text.mp4": lambda good: b"no video at all " * 100,
    "cut.mp4": lambda good: good[: len(good) // 2],
    "holes.mp4": lambda good: holes(good),
    "still.mp4": lambda good: png(),
    "list.mp4": lambda good: b"ffconcat version 1.0\nfile good.mp4\n",
    "none.mp4": lambda good: coded("mp4", "libx264", "yuv420p", []),
    "none.mkv": lambda good: coded("matroska", "ffv1", "yuv420p", []),
    "none.avi": lambda good: coded("avi", "mpeg4", "yuv420p", []),
    "bright.mp4": lambda good: coded("mp4", "libx264", "yuv420p10le", counted(96), PQ),
    "alpha.webm": lambda good: coded("webm", "libvpx-vp9", "yuva420p", counted(96)),
}


PQ = {"x264-params": "transfer=smpte2084"}


def holes(content: bytes) -> bytes:
    """The same file with its coded pictures overwritten in the middle."""
    start = content.index(b"mdat") + 4
    middle = start + (len(content) - start) // 3
    return content[:middle] + bytes(1500) + content[middle + 1500 :]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_videos_are_refused(tmp_path, name):
    # One hole in twenty decodes as a picture like any other, so it is always the same one here.
    seeded = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (96, 3, 48, 80), dtype=torch.uint8, generator=seeded)
    write(tmp_path / "good.mp4", noise, 24.0)
    (tmp_path / name).write_bytes(BROKEN[name]((tmp_path / "good.mp4").read_bytes()))
    with pytest.raises((ValueError, OSError)):
        video_at(Media(str(tmp_path / name)))


@pytest.mark.parametrize(
    ("name", "container", "codec", "pixels"),
    [
        ("deep.mp4", "mp4", "libx264", "yuv420p10le"),
        ("grey.mkv", "matroska", "ffv1", "gray"),
        ("odd.mkv", "matroska", "ffv1", "yuv420p"),
        ("alpha.mkv", "matroska", "ffv1", "yuva420p"),
        ("alpha.mov", "mov", "png", "rgba"),
    ],
)
def test_pixels_of_every_kind_are_read_as_what_they_show(tmp_path, name, container, codec, pixels):
    frames = counted(96, 47, 79) if "odd" in name else counted(96)
    (tmp_path / name).write_bytes(coded(container, codec, pixels, frames))
    video = video_at(Media(str(tmp_path / name)))
    assert numbers(video[..., :19]) == list(range(0, 64, 8))
    right = video[..., 21:]
    assert (right == 255).all() if "alpha" in name else numbers(right) == list(range(0, 64, 8))
