"""How long videos are and when their frames are shown, whatever their containers say."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from files import coded, counted
from test_media import ALL, WANTED, WHOLE, numbers, remux, video_at, write  # pyright: ignore

from imagen_video.data.media import Media, Place, _timed, opened, read_clip, shown, video_facts
from imagen_video.video import VideoFormat


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


def timed(path, times, tags=(), **options):
    """A file whose frame i is shown at the i-th of the times."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("libx264", rate=30)
        stream.metadata.update(tags)
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


def test_a_length_that_mkvmerge_told_is_one(tmp_path):
    """It writes into the tag for which ffmpeg's is the end the length, and others beside it."""
    tags = {"_STATISTICS_WRITING_APP": "mkvmerge v80.0"}
    media = timed(tmp_path / "late.mkv", [5 + i / 24 for i in range(96)], tags)
    content = (tmp_path / "late.mkv").read_bytes()
    assert content.count(b"00:00:08.99") == 1
    (tmp_path / "late.mkv").write_bytes(content.replace(b"00:00:08.99", b"00:00:03.99"))
    assert video_facts(media).seconds == pytest.approx(4, abs=0.02)


def test_a_recording_that_does_not_say_its_length_is_read_to_its_end(tmp_path):
    """Of variable rate, as screens are recorded: half of its frames are of the first second."""
    times = [i / 30 for i in range(30)] + [1 + i / 4 for i in range(30)]
    media = timed(tmp_path / "live.mkv", times, live="1")
    assert video_facts(media).seconds == pytest.approx(times[-1], abs=0.1)
    assert numbers(read_clip(media, WANTED, WHOLE, span=ALL, at=Place(1.0))[0])[-1] == 57


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


def test_a_recording_that_breaks_off_is_used_up_to_there_and_no_further(tmp_path):
    write(tmp_path / "a.mp4", counted(192), 24.0)
    remux(tmp_path / "a.mp4", tmp_path / "a.ts")
    content = (tmp_path / "a.ts").read_bytes()
    (tmp_path / "a.ts").write_bytes(content[: len(content) * 6 // 10 // 188 * 188])
    media = Media(str(tmp_path / "a.ts"))
    seconds = video_facts(media).seconds
    assert 4 < seconds < 6
    assert numbers(video_at(media)) == list(range(0, 64, 8))


def test_program_streams_that_tell_few_times_are_shown_in_time(tmp_path):
    """Of small frames many share one time stamp."""
    still = counted(240)
    content = coded("mpeg", "mpeg2video", "yuv420p", still, {"g": "48", "bf": "2", "qmax": "2"})
    (tmp_path / "a.mpg").write_bytes(content)
    media, times = Media(str(tmp_path / "a.mpg")), [i / 24 + 0.02 for i in range(220)]
    whole = list(shown(media, times))
    for first in range(24, 220, 5):
        assert next(shown(media, times[first:])).equal(whole[first]), first
