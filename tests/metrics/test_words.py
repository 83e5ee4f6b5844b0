import numpy as np
import pytest

from imagen_video.data.stickers import render
from imagen_video.data.stickers.scene import Attributes, staged
from imagen_video.data.stickers.words import FONTS
from imagen_video.metrics.words import reader
from imagen_video.video import VideoFormat

pytest.importorskip("rapidocr_onnxruntime")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_words_of_the_sticker_world_are_read():
    read = reader()
    assert read is not None
    found = []
    for i, (word, font) in enumerate(zip(("PIZZA", "OCEAN", "TRUCK", "MAGIC"), FONTS, strict=True)):
        facts = Attributes(
            family="text",
            background="white",
            style=font,
            motion="zooming in",
            word=word,
            ink="black",
        )
        scene = staged(facts, np.random.default_rng(i))
        found.append(read(render(scene, VideoFormat(16, 96, 160, 3.0))) == word)
    assert sum(found) >= 3
    blank = render(scene, VideoFormat(16, 96, 160, 3.0)) * 0
    assert read(blank) == ""
