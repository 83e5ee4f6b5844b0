"""Embeddings from disk equal those of the encoder, which is asked only for what is new."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_t5 import SENTENCES, build_tiny_t5

from imagen_video import presets
from imagen_video.spec import TextSpec
from imagen_video.text import cache as cache_module
from imagen_video.text.cache import CachedEncoder, EmbeddingTable
from imagen_video.text.encoder import T5Encoder, load_encoder
from imagen_video.training.job import JobSpec, encoder_of, train_stage
from imagen_video.training.run import RunSpec


class Counting:
    """A TextEncoder that remembers what it was asked."""

    def __init__(self, encoder):
        self.encoder, self.asked = encoder, []
        self.name, self.dim, self.length = encoder.name, encoder.dim, encoder.length

    def __call__(self, prompts):
        self.asked.append(list(prompts))
        return self.encoder(prompts)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return T5Encoder(build_tiny_t5(tmp_path_factory.mktemp("t5") / "model"), 64)


def same(a, b):
    torch.testing.assert_close(a.tokens, b.tokens, atol=1e-5, rtol=1e-4)
    return torch.equal(a.mask, b.mask)


def test_only_misses_are_encoded_in_one_batch(t5, tmp_path):
    counting = Counting(t5)
    cached = CachedEncoder(counting, tmp_path)
    prompts = [SENTENCES[0], SENTENCES[1], SENTENCES[0]]
    assert same(cached(prompts), t5(prompts))
    assert same(cached([SENTENCES[2], SENTENCES[1]]), t5([SENTENCES[2], SENTENCES[1]]))
    assert counting.asked == [SENTENCES[:2], [SENTENCES[2]]]
    assert (cached.name, cached.dim, cached.length) == (t5.name, 16, 64)


def test_another_process_finds_them_on_disk(t5, tmp_path):
    first = CachedEncoder(t5, tmp_path)(SENTENCES)
    counting = Counting(t5)
    again = CachedEncoder(counting, tmp_path)(SENTENCES)
    assert counting.asked == []
    assert torch.equal(again.tokens, first.tokens) and torch.equal(again.mask, first.mask)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == len(SENTENCES)
    assert all(len(path.relative_to(tmp_path).parts) == 3 for path in files)


def test_another_encoder_has_other_files(t5, tmp_path):
    other = T5Encoder(build_tiny_t5(tmp_path / "model", seed=1), 64)
    CachedEncoder(t5, tmp_path / "cache")(SENTENCES)
    assert same(CachedEncoder(other, tmp_path / "cache")(SENTENCES), other(SENTENCES))


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_a_damaged_file_is_computed_again(t5, tmp_path, damage):
    path = CachedEncoder(t5, tmp_path).path(SENTENCES[0])
    CachedEncoder(t5, tmp_path)(SENTENCES[:1])
    whole = path.read_bytes()
    path.write_bytes(whole[:-10] if damage is None else damage)
    assert same(CachedEncoder(t5, tmp_path)(SENTENCES[:1]), t5(SENTENCES[:1]))
    assert path.read_bytes() == whole


def test_memory_is_bounded_and_keeps_the_latest(t5, tmp_path, monkeypatch):
    rows = t5(SENTENCES).rows()
    monkeypatch.setattr(cache_module, "MEMORY_BYTES", rows[0].nbytes + rows[1].nbytes)
    counting = Counting(t5)
    cached = CachedEncoder(counting, tmp_path)
    cached(SENTENCES[:2])
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    cached(SENTENCES[:2])
    assert len(counting.asked) == 1
    cached(SENTENCES[2:3])
    cached(SENTENCES[:1])
    assert counting.asked[1:] == [SENTENCES[2:3], SENTENCES[:1]]


def test_the_folder_is_the_users_choice_and_made_when_needed(t5, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEN_VIDEO_CACHE", str(tmp_path / "mine"))
    cached = CachedEncoder(t5)
    assert cached.folder == tmp_path / "mine" / "text" and not cached.folder.exists()
    cached(SENTENCES[:1])
    assert cached.path(SENTENCES[0]).is_file()
    monkeypatch.delenv("IMAGEN_VIDEO_CACHE")
    assert CachedEncoder(t5).folder == Path.home() / ".cache" / "imagen-video" / "text"


def test_a_folder_that_cannot_be_written_is_told_and_survived(t5):
    with pytest.warns(UserWarning, match="not kept in /proc/nowhere"):
        embedding = CachedEncoder(t5, "/proc/nowhere")(SENTENCES[:1])
    assert same(embedding, t5(SENTENCES[:1]))


def test_table_travels_without_its_encoder(t5, tmp_path):
    EmbeddingTable.write(t5, [*SENTENCES, SENTENCES[0]], tmp_path)
    loaded = EmbeddingTable.load(tmp_path)
    assert (loaded.name, loaded.dim, loaded.length) == (t5.name, 16, 64)
    order = [SENTENCES[3], SENTENCES[0], SENTENCES[3]]
    assert same(loaded(order), t5(order))
    with pytest.raises(ValueError, match=r"6 captions does not hold 'a dog'"):
        loaded([SENTENCES[0], "a dog", "a cow"])


def test_what_is_no_table_is_refused(t5, tmp_path):
    with pytest.raises(ValueError, match="of 0 encoders, one fits"):
        EmbeddingTable.load(tmp_path / "missing")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"no text embeddings in .*junk\.safetensors"):
        EmbeddingTable.load(tmp_path)


def test_a_table_is_written_in_parts_and_goes_on_after_a_stop(t5, tmp_path, monkeypatch):
    monkeypatch.setattr("imagen_video.text.cache.PART", 2)

    class Stopping:
        name, dim, length, asked = t5.name, t5.dim, t5.length, 0

        def __call__(self, prompts):
            self.asked += 1
            if self.asked == 2:
                raise KeyboardInterrupt
            return t5(prompts)

    encoder = Stopping()
    with pytest.raises(KeyboardInterrupt):
        EmbeddingTable.write(encoder, SENTENCES, tmp_path)
    assert len(os.listdir(tmp_path)) == 1
    EmbeddingTable.write(encoder, SENTENCES, tmp_path)
    assert len(os.listdir(tmp_path)) == 3 and encoder.asked == 4  # once for each, and the stop
    assert same(EmbeddingTable.load(tmp_path)(SENTENCES), t5(SENTENCES))
    EmbeddingTable.write(encoder, [*SENTENCES[:2], "one more"], tmp_path)
    assert len(os.listdir(tmp_path)) == 4 and encoder.asked == 5  # what was there is kept
    assert same(EmbeddingTable.load(tmp_path)(SENTENCES), t5(SENTENCES))
    encoder.name = "t5-another-64"
    with pytest.raises(ValueError, match=r"holds embeddings of t5-.*, not of t5-another-64"):
        EmbeddingTable.write(encoder, ["another"], tmp_path)


def test_a_table_of_another_encoder_is_refused_before_training(t5, tmp_path):
    table = tmp_path / "captions"
    EmbeddingTable.write(t5, SENTENCES, table)
    job = JobSpec(stage="base", out=tmp_path / "out")
    with pytest.raises(ValueError, match="has 16 features a token"):
        train_stage(presets.tiny(), job, RunSpec(captions=table))
    text = TextSpec(encoder="t5", name="some", dim=16, length=32)
    with pytest.raises(ValueError, match=r"of t5 of up to 64 tokens a caption, .* read some of 32"):
        encoder_of(text, RunSpec(captions=table), torch.device("cpu"))
    with pytest.raises(ValueError, match="the networks read minilm of 64"):
        encoder_of(TextSpec(dim=16, length=64), RunSpec(captions=table), torch.device("cpu"))
    assert encoder_of(replace(text, length=64), RunSpec(captions=table), torch.device("cpu"))


def test_a_caption_that_is_missing_is_told_before_training(tmp_path):
    """Even if it would not come for a long time."""
    Image.new("RGB", (40, 24)).save(tmp_path / "still.png")
    rows = ["still.png,known"] * 300 + ["still.png,unknown"]
    (tmp_path / "stills.csv").write_text("\n".join(["path,text", *rows]))
    base, *others = presets.tiny().stages
    stills = replace(base, train=replace(base.train, clips=0, image_packs=1))
    cascade = replace(presets.tiny(), stages=(stills, *others))
    EmbeddingTable.write(load_encoder(cascade.text), ["", "known"], tmp_path / "captions")
    data = ("stickers", f"{tmp_path}/stills.csv=2")
    job = JobSpec(stage="base", out=tmp_path / "out", data=data, steps=1)
    with pytest.raises(ValueError, match=r"2 captions does not hold 'unknown': add it with"):
        train_stage(cascade, job, RunSpec(captions=tmp_path / "captions", workers=0))
    assert not list((tmp_path / "out").glob("[!.]*"))
