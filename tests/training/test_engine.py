"""Batches made ready beside the step, and blocks that are compiled once."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forked import together  # pyright: ignore
from torch._dynamo.utils import counters

from imagen_video import presets
from imagen_video.data.mix import Batch, Mix, batches
from imagen_video.data.stickers.source import StickerSource
from imagen_video.diffusion.objective import Draws
from imagen_video.stage import Stage
from imagen_video.text.encoder import load_encoder
from imagen_video.training.ahead import ahead, make_ready
from imagen_video.training.engine import blocks_of, compile_blocks, recompute_blocks
from imagen_video.video import to_float

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BASE = presets.tiny().stage("base")


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(presets.SHORT_CAPTIONS)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_come_in_order_with_the_captions_of_their_frames(encoder, device):
    mix = Mix(StickerSource(0), BASE, seed=0, steps=3)
    place = torch.device(device)
    made = list(
        ahead(iter([mix[0], mix[1], mix[2]]), lambda b: make_ready(b, encoder, place), place)
    )
    assert len(made) == 3
    for step, ready in enumerate(made):
        batch = mix[step]
        assert torch.equal(ready.video.cpu(), batch.video)
        for row, captions in enumerate(batch.captions):
            alone = encoder(captions)
            assert torch.allclose(ready.cond.text[row].cpu(), alone.tokens, atol=1e-5)
            assert torch.equal(ready.cond.text_mask[row].cpu(), alone.mask)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("start", [0, 2, 3])
def test_echoes_show_every_batch_again_wherever_a_run_begins(start, workers):
    spec = replace(BASE, train=replace(BASE.train, echoes=3))
    mix = Mix(StickerSource(0), spec, seed=0, steps=7)
    with closing(batches(mix, start=start, workers=workers)) as loader:
        shown = list(loader)
    assert len(shown) == 7 - start
    for step, batch in enumerate(shown, start):
        assert torch.equal(batch.video, mix[step // 3].video)
        assert mix.position(step + 1)["stickers"].clips == (step // 3 + 1) * spec.train.clips


def test_what_comes_again_is_made_ready_once():
    made: list[Batch] = []
    mix = Mix(StickerSource(0), BASE, seed=0, steps=2)
    echoed = [mix[0]] * 3 + [mix[1]] * 2
    assert list(ahead(iter(echoed), made.append, torch.device("cpu"))) == [None] * 5
    assert made == [echoed[0], echoed[3]]


@pytest.mark.parametrize("device", DEVICES)
def test_what_goes_wrong_ahead_is_told(device):
    def broken(batch):
        raise ValueError("no such caption")

    mix = Mix(StickerSource(0), BASE, seed=0, steps=1)
    with pytest.raises(ValueError, match="no such caption"):
        list(ahead(iter([mix[0]]), broken, torch.device(device)))


def test_an_encoder_answers_two_threads_at_once(encoder):
    prompts = [[f"a cat number {i}", f"{'a very ' * (i % 7)}red dog"] for i in range(24)]
    alone = [encoder(pair) for pair in prompts]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(encoder, prompts))
    for one, other in zip(alone, together, strict=True):
        assert torch.equal(one.tokens, other.tokens)


def compiled(told: Path, recomputed: bool) -> None:
    """Losses of two steps, plain and compiled, and what dynamo made of the blocks."""
    torch.set_num_threads(1)
    spec, encoder = presets.tiny().stage("base"), load_encoder(presets.SHORT_CAPTIONS)
    stage, mix = Stage(spec), Mix(StickerSource(0), spec, seed=0, steps=2)

    def losses() -> Iterator[tuple[float, int]]:
        for step in range(2):
            ready = make_ready(mix[step], encoder, torch.device("cpu"))
            draws = Draws(len(ready.video), seed=0, step=step)
            value = stage.loss(to_float(ready.video), ready.cond, draws).value
            value.backward()
            yield value.item(), counters["stats"]["unique_graphs"]

    plain = [value for value, _ in losses()]
    if recomputed:
        recompute_blocks(stage.unet)
    compile_blocks(stage.unet)
    with torch.compiler.set_stance("default", force_backend="eager"):
        found = list(losses())
    blocks, breaks = len(blocks_of(stage.unet)), len(counters["graph_break"])
    told.write_text(json.dumps([plain, found, blocks, breaks]))


@pytest.mark.parametrize("recomputed", [False, True])
def test_blocks_are_compiled_once_and_compute_the_same(tmp_path, recomputed):
    """torch's dynamo traces them; its eager backend stands for the minutes of a C++ compiler. In a
    process of its own: the checks of shapes in tests cannot be traced."""
    together(compiled, tmp_path / "told", recomputed, said=tmp_path / "said", ranks=1)
    plain, found, blocks, breaks = json.loads((tmp_path / "told").read_text())
    (first, graphs), (second, later) = found
    assert [first, second] == pytest.approx(plain, rel=1e-5)
    assert 0 < graphs <= blocks
    assert later == graphs and breaks == 0
