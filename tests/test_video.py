"""Formats, 8-bit conversion, resizing, and files that come back as they were written."""

import os
import struct

import av
import numpy as np
import pytest
import torch

from imagen_video.video import (
    VideoFormat,
    VideoWriter,
    iter_video,
    probe_output,
    read_video,
    resize,
    to_float,
    to_uint8,
    video_info,
)

COLOURS = [(220, 60, 60), (70, 110, 220), (80, 180, 90), (240, 215, 80), (0, 0, 0), (255, 255, 255)]


def moving_square(frames=6, height=16, width=26):
    """Red, with a green square that moves right along the top."""
    video = torch.tensor([220, 60, 60], dtype=torch.uint8)[None, :, None, None]
    video = video.repeat(frames, 1, height, width)
    for i in range(frames):
        video[i, :, :8, 2 * i : 2 * i + 8] = torch.tensor([20, 200, 40], dtype=torch.uint8)[
            :, None, None
        ]
    return video


def write(path, video, fps=6.0, metadata=None):
    with VideoWriter(
        path, height=video.shape[2], width=video.shape[3], fps=fps, metadata=metadata
    ) as writer:
        writer.write(video)
    return path


def test_format_reads_what_it_writes():
    video = VideoFormat(frames=32, height=48, width=80, fps=6.0)
    assert str(video) == "32x48x80@6" and VideoFormat.parse(str(video)) == video
    assert VideoFormat.parse("16x24x40@29.97").fps == 29.97
    assert video.size == (48, 80) and video.seconds == 32 / 6


@pytest.mark.parametrize("text", ["32x48@6", "32x48x80", "0x48x80@6", "32x48x80@0", "-1x4x4@3"])
def test_format_refuses(text):
    with pytest.raises(ValueError, match="video format"):
        VideoFormat.parse(text)


def test_eight_bits_survive_floats():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    floats = to_float(every)
    assert floats.min() == -1 and floats.max() == 1 and floats.dtype == torch.float32
    assert torch.equal(to_uint8(floats), every)
    outside = torch.tensor([[[-3.0, 7.0, -1.0, 1.0, 0.0]]])
    assert to_uint8(outside).flatten().tolist() == [0, 255, 0, 255, 128]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resize_keeps_straight_lines_and_averages_when_shrinking(mode):
    ramp = torch.linspace(-1, 1, 32).expand(1, 2, 3, 16, 32)
    step = ramp[..., 1] - ramp[..., 0]
    larger = resize(ramp, 32, 64, mode=mode)[..., 8:-8]
    torch.testing.assert_close(
        larger.diff(dim=-1), (step / 2)[0, 0, 0, 0].expand(1, 2, 3, 32, 47), atol=1e-5, rtol=0
    )
    checkers = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    grey = resize(checkers.expand(1, 1, 3, 32, 32), 8, 8, mode=mode)
    assert grey[..., 2:-2, 2:-2].abs().max() < 0.02


def test_resize_treats_every_frame_alone_in_any_dtype():
    video = torch.rand(1, 2, 3, 2400, 2400)  # so large that frames go one by one
    small = resize(video, 30, 40)
    torch.testing.assert_close(small[:, 1:], resize(video[:, 1:], 30, 40))
    half = resize(small.bfloat16(), 15, 20)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), resize(small, 15, 20), atol=0.01, rtol=0)
    assert resize(small, 30, 40) is small


def test_resize_passes_gradients_on():
    video = torch.rand(1, 2, 3, 8, 8, requires_grad=True)
    resize(video, 4, 4).sum().backward()
    assert video.grad is not None
    torch.testing.assert_close(video.grad.sum(), torch.tensor(2 * 3 * 16.0))


@pytest.mark.parametrize("size", [(64, 96), (720, 1280)])
def test_colours_survive(tmp_path, size):
    flat = torch.tensor(COLOURS, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, *size)
    frames = read_video(write(tmp_path / "flat.mp4", flat)).frames
    assert (frames.int() - flat.int()).abs().max() <= 4


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("fps", [3.0, 24.0, 30000 / 1001, 1.5])
def test_count_size_and_rate_are_exact(tmp_path, count, fps):
    path = write(tmp_path / "a.mp4", moving_square(count), fps=fps)
    info = video_info(path)
    assert (info.frames, info.height, info.width) == (count, 16, 26)
    assert info.fps == pytest.approx(fps, rel=1e-9)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None and stream.time_base is not None
        assert float(stream.duration * stream.time_base) == pytest.approx(count / fps, abs=1e-3)
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        tags = (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range)
        assert [int(tag) for tag in tags] == [1, 1, 1, 1]
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before it is loaded


def test_metadata_and_content_survive(tmp_path):
    metadata = {"prompt": "ein Bär; 熊=\\ \"'\n" * 500, "seed": 7, "steps": [32, 16]}
    video = moving_square()
    clip = read_video(write(tmp_path / "a.mp4", video, metadata=metadata))
    assert clip.metadata == metadata and clip.fps == 6
    below = (clip.frames.float() - video.float())[:, :, 12:]  # away from the square's edge
    assert below.abs().mean() < 2
    assert read_video(tmp_path / "a.mp4", max_frames=2).frames.equal(clip.frames[:2])
    assert torch.stack(list(iter_video(tmp_path / "a.mp4"))).equal(clip.frames)


def test_writing_in_parts_is_writing_at_once(tmp_path):
    video = moving_square()
    with VideoWriter(tmp_path / "parts.mp4", height=16, width=26, fps=6.0) as writer:
        for part in video.split(4):
            writer.write(part)
    whole = write(tmp_path / "whole.mp4", video)
    assert whole.read_bytes() == (tmp_path / "parts.mp4").read_bytes()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    writer = VideoWriter(path, height=16, width=26, fps=6.0)
    with pytest.raises(KeyboardInterrupt), writer:
        writer.write(moving_square())
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="no frame"), VideoWriter(path, height=2, width=2, fps=6.0):
        pass
    with pytest.raises(ValueError, match="3x16x26"), writer:
        writer.write(moving_square(width=28))
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.mp4"]


def test_odd_sizes_are_refused_with_the_even_one():
    with pytest.raises(ValueError, match="18x26"):
        VideoWriter("a.mp4", height=17, width=25, fps=6.0)


def test_probe_makes_the_folder_and_touches_no_file(tmp_path):
    probe_output(tmp_path / "new" / "er" / "a.mp4")
    assert os.listdir(tmp_path / "new" / "er") == []
    old = tmp_path / "old.mp4"
    old.write_bytes(b"old")
    probe_output(old)
    assert old.read_bytes() == b"old"
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "told.json").mkdir()
    bad_ones = [old / "below.mp4", tmp_path / "folder.mp4", tmp_path / "a.avi", tmp_path]
    bad_ones += [tmp_path / "told.mp4", tmp_path / f"{251 * 'a'}.mp4"]  # no room for the .json
    for bad in bad_ones:
        with pytest.raises(ValueError, match=r"output must end|cannot write"):
            probe_output(bad)
    with pytest.raises(ValueError, match="cannot write"):
        probe_output("/proc/nowhere/a.mp4")


def encode(path, codec, pixels, image):
    """Four equal frames through another codec and pixel format."""
    kind = {2: "gray", 3: "rgb24", 4: "rgba"}[image.ndim if image.ndim == 2 else image.shape[2]]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=6)
        stream.height, stream.width = image.shape[:2]
        stream.pix_fmt = pixels
        for _ in range(4):
            frame = av.VideoFrame.from_ndarray(image, format=kind)
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mp4", "libx264", "yuv444p"),
        ("a.mkv", "ffv1", "yuv420p"),
        ("a.mkv", "ffv1", "yuv420p10le"),
        ("a.mkv", "mjpeg", "yuvj420p"),
        ("a.mpg", "mpeg2video", "yuv420p"),
        ("a.mov", "png", "rgba"),
        ("a.mkv", "ffv1", "yuva420p"),
        ("a.mkv", "ffv1", "gray"),
    ],
)
def test_odd_sizes_grey_and_alpha_are_read_as_rgb(tmp_path, name, codec, pixels):
    image = moving_square(1, 17, 31)[0].permute(1, 2, 0).numpy()
    if pixels == "gray":
        image = image[..., 0]
    elif "a" in pixels.removeprefix("yuvj"):
        image = np.dstack([image, np.full((17, 31), 128, np.uint8)])
    encode(tmp_path / name, codec, pixels, np.ascontiguousarray(image))
    info, frames = video_info(tmp_path / name), read_video(tmp_path / name).frames
    assert frames.shape == (4, 3, 17, 31)
    assert (info.frames, info.height, info.width, info.fps) == (4, 17, 31, 6)
    grey, half = pixels == "gray", image.shape[2:] == (4,)  # half transparent, over white
    for (y, x), colour in (((12, 24), (220, 60, 60)), ((3, 3), (20, 200, 40))):
        expected = torch.tensor([colour[0]] * 3 if grey else colour)
        expected = (expected + 255) // 2 if half else expected
        assert (frames[3, :, y, x].int() - expected).abs().max() <= 6


@pytest.mark.parametrize(
    ("shown", "matrix"),
    [
        (lambda stored: stored.rot90(-1, dims=(2, 3)), (0, 1, -1, 0)),
        (lambda stored: stored.rot90(2, dims=(2, 3)), (-1, 0, 0, -1)),
        (lambda stored: stored.rot90(1, dims=(2, 3)), (0, -1, 1, 0)),
        (lambda stored: stored.flip(3), (-1, 0, 0, 1)),
        (lambda stored: stored.flip(2), (1, 0, 0, -1)),
        (lambda stored: stored.transpose(2, 3), (0, 1, 1, 0)),
        (lambda stored: stored.transpose(2, 3).flip(2, 3), (0, -1, -1, 0)),
    ],
)
def test_turned_and_mirrored_files_come_upright(tmp_path, shown, matrix):
    path = write(tmp_path / "a.mp4", moving_square(2))
    plain = read_video(path).frames
    a, b, c, d = (65536 * entry for entry in matrix)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44  # the display matrix of the track header
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    assert read_video(path).frames.equal(shown(plain))
    assert video_info(path).height == shown(plain).shape[2]


def test_unreadable_files_say_why(tmp_path):
    with pytest.raises(ValueError, match="no file"):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="no file"):
        read_video(tmp_path)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video at all " * 100)
    whole = write(tmp_path / "a.mp4", moving_square()).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    for name in ("empty.mp4", "text.mp4", "cut.mp4"):
        with pytest.raises(ValueError, match=name):
            read_video(tmp_path / name)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        sound.rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(ValueError, match="no video"):
        read_video(tmp_path / "sound.wav")


def test_a_half_read_file_is_closed(tmp_path):
    path = write(tmp_path / "a.mp4", moving_square())

    def links():
        names = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return [os.readlink(name) for name in names if os.path.islink(name)]

    frames = iter_video(path)
    next(frames)
    assert str(path) in links()
    frames.close()
    assert str(path) not in links()
