"""Images of every kind: read as what they show, or refused with a reason."""

import numpy as np
import pytest
import torch
from files import coded, counted, png
from PIL import Image

from imagen_video.data.media import Media, read_image


@pytest.mark.parametrize("mode", ["RGB", "L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_images_of_every_mode(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((5, 7), 0x8080, np.uint16)).save(path)
    else:
        Image.new("RGB", (7, 5), (128, 128, 128)).convert(mode).save(path)
    image = read_image(Media(str(path)))
    assert image.shape == (3, 5, 7) and image.dtype == torch.uint8
    if mode not in ("1", "P"):  # these dither
        assert (image.int() - 128).abs().max() <= 2


def test_transparent_images_lie_on_white_and_turned_ones_come_upright(tmp_path):
    Image.new("RGBA", (4, 4), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    assert (read_image(Media(str(tmp_path / "clear.png"))) == 255).all()
    turned = Image.new("RGB", (48, 32))
    turned.paste((255, 255, 255), (0, 0, 16, 16))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    upright = read_image(Media(str(tmp_path / "turned.jpg")))
    white = upright[0] > 128  # clockwise: what was left is above, what was above is right
    assert white.shape == (48, 32) and white[:16, 16:].all() and white.sum() == 16 * 16


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_numbers_of_no_agreed_range_are_no_picture(tmp_path, kind):
    Image.fromarray(np.full((5, 7), 200, kind)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="no agreed range"):
        read_image(Media(str(tmp_path / "a.tif")))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image",
        coded("mp4", "libx264", "yuv420p", counted(8)),
        png()[:60],
        png()[:-30] + b"x" * 30,
        b"\x89PNG\r\n\x1a\n" + b"\0" * 50,
    ],
    ids=["empty", "text", "video", "cut", "changed", "header only"],
)
def test_broken_images_are_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*a\.png"):
        read_image(Media(str(tmp_path / "a.png")))
