"""Videos of every kind: read as what they show, or refused with a reason."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from files import coded, counted, png

from imagen_video.data.clips import Crop
from imagen_video.data.media import (
    Media,
    Place,
    Unfit,
    _timed,
    opened,
    read_clip,
    shown,
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


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.flv"])
def test_sound_that_goes_on_makes_no_video_longer(tmp_path, name):
    codecs = ("libvpx-vp9", "libopus") if name == "a.webm" else ("libx264", "aac")
    with av.open(str(tmp_path / name), "w") as container:
        video = container.add_stream(codecs[0], rate=24)
        video.width, video.height, video.pix_fmt = 80, 48, "yuv420p"
        sound = container.add_stream(codecs[1], rate=48000)
        for picture in counted(96):  # 4 s
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).numpy())
            container.mux(video.encode(frame))
        for i in range(6 * 50):  # 6 s
            still = np.zeros((1, 960), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(still, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 48000, 960 * i
            container.mux(sound.encode(frame))
        for stream in (video, sound):
            container.mux(stream.encode(None))
    media = Media(str(tmp_path / name))
    assert video_facts(media).seconds == pytest.approx(4, abs=0.05)
    shown, _ = read_clip(media, WANTED, WHOLE, span=ALL, at=Place(1.0))
    assert numbers(shown)[0] == pytest.approx(96 - 64, abs=1)
    wanted = VideoFormat(8, 24, 40, 1.5)  # 5.33 s
    assert read_clip(media, wanted, WHOLE, span=ALL, at=Place(1.0))[1] == pytest.approx(4 / 3, 0.02)


def test_a_part_of_a_file_is_read_like_the_file(tmp_path):
    write(tmp_path / "a.mp4", counted(96), 24.0)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.bin").write_bytes(b"x" * 700 + content + b"y" * 99)
    part = Media(str(tmp_path / "b.bin"), 700, len(content), "a.mp4")
    video, _ = read_clip(part, WANTED, WHOLE, span=ALL, at=Place(0.5))
    whole = Media(str(tmp_path / "a.mp4"))
    assert video.equal(read_clip(whole, WANTED, WHOLE, span=ALL, at=Place(0.5))[0])


def test_frames_of_any_timing_are_shown_when_they_are(tmp_path):
    """Variable rate: frame i starts at i^2 / 24 s."""
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=24)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 24)
        for i, picture in enumerate(counted(11)):
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).numpy())
            frame.pts, frame.time_base = i * i, Fraction(1, 24)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    wanted = VideoFormat(8, 24, 40, 3.0)
    media = Media(str(tmp_path / "a.mkv"))
    video, slowed = read_clip(media, wanted, WHOLE, span=ALL, at=Place(0.0))
    starts = [i * i / 24 for i in range(11)]
    times = [i / (3.0 * slowed) for i in range(8)]
    assert numbers(video) == [sum(s <= t + 1e-6 for s in starts) - 1 for t in times]


def timed(path, times, **options):
    """A file whose frame i is shown at the i-th of the times."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, picture in zip(times, counted(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).numpy())
            frame.pts, frame.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return Media(str(path))


def test_a_video_that_begins_late_is_as_long_as_what_it_shows(tmp_path):
    media = timed(tmp_path / "late.mkv", [5 + i / 24 for i in range(96)])
    assert video_facts(media).seconds == pytest.approx(4, abs=0.02)
    assert numbers(read_clip(media, WANTED, WHOLE, span=ALL, at=Place(1.0))[0])[0] in (31, 32)


def test_a_recording_that_does_not_say_its_length_is_read_to_its_end(tmp_path):
    """Of variable rate, as screens are recorded: half of its frames are of the first second."""
    times = [i / 30 for i in range(30)] + [1 + i / 4 for i in range(30)]
    media = timed(tmp_path / "live.mkv", times, live="1")
    assert video_facts(media).seconds == pytest.approx(times[-1], abs=0.1)
    assert numbers(read_clip(media, WANTED, WHOLE, span=ALL, at=Place(1.0))[0])[-1] == 57


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
OPEN = {"x264-params": "open-gop=1:keyint=24:bframes=3:scenecut=0"}


@pytest.mark.parametrize(
    ("container", "codec", "options", "earlier"),
    [
        ("mp4", "libx264", OPEN, 4),
        ("mpegts", "libx264", OPEN, 4),
        # The first key frame is decoded before it is shown, and the next lies far behind.
        ("mpegts", "libx264", {"x264-params": "keyint=250:bframes=3:scenecut=0"}, 7),
        ("mpeg", "mpeg2video", {"g": "24", "bf": "2"}, 4),
    ],
)
def test_any_part_is_found_without_reading_all_before_it(
    tmp_path, container, codec, options, earlier
):
    """Groups of pictures that lean on the one before, and containers found in behind the place."""
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 48, 80), generator=generator, dtype=torch.uint8)
    moving = torch.stack([picture.roll(i, 2) for i in range(480)])
    (tmp_path / "a").write_bytes(coded(container, codec, "yuv420p", moving, options))
    media, times = Media(str(tmp_path / "a")), [i / 24 + 0.02 for i in range(480)]
    whole = list(shown(media, times))
    for first in (40, 191, 262, 333, 404):
        some = list(shown(media, times[first : first + 12]))
        assert all(a.equal(b) for a, b in zip(some, whole[first:], strict=False)), first
    with opened(media) as (file, stream):
        until = next(_timed(file, stream, 17.0))[1]
        # Where no group but the first is closed, x264's key frames still are found.
        assert 17 - earlier < until < 17.1


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


def test_a_recording_that_breaks_off_is_used_up_to_there_and_no_further(tmp_path):
    write(tmp_path / "a.mp4", counted(192), 24.0)
    remux(tmp_path / "a.mp4", tmp_path / "a.ts")
    content = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(content[: len(content) * 6 // 10 // 188 * 188])
    media = Media(str(tmp_path / "a.ts"))
    seconds = video_facts(media).seconds
    assert 4 < seconds < 6
    assert numbers(video_at(media)) == list(range(0, 64, 8))
