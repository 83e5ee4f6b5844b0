"""PNG files and contact sheets."""

import numpy as np
import pytest
import torch
from PIL import Image

from imagen_video.pictures import contact_sheet, write_png


def test_png_is_what_pillow_reads(tmp_path):
    image = torch.randint(0, 256, (3, 11, 17), dtype=torch.uint8)
    write_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as read:
        assert read.mode == "RGB" and np.array_equal(np.asarray(read), image.permute(1, 2, 0))
    with pytest.raises(FileNotFoundError):
        write_png(tmp_path / "nowhere" / "a.png", image)


def test_contact_sheet_shows_evenly_spaced_frames():
    clip = torch.arange(9, dtype=torch.uint8)[:, None, None, None].expand(9, 3, 4, 6) * 20
    short = torch.full((1, 3, 2, 3), 250, dtype=torch.uint8)
    sheet = contact_sheet([clip, short], columns=3, scale=2)
    assert sheet.shape == (3, 2 + (8 + 2) + (4 + 2), 2 + 3 * (12 + 2))
    centres = [sheet[0, 6, 2 + 14 * i + 6].item() for i in range(3)]
    assert centres == [0, 80, 160]  # frames 0, 4 and 8
    assert (sheet[:, 2:10, 2:14] == 0).all() and (sheet[:, 12:16, 2:8] == 250).all()
    assert sheet[0, 12, 10] == sheet[0, 0, 0]
