"""A random T5 of a few kilobytes with a real SentencePiece tokenizer, saved as such models are."""

import json
from pathlib import Path

import sentencepiece
import torch
from transformers import (
    AutoTokenizer,
    MT5Config,
    MT5EncoderModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5EncoderModel,
)

SENTENCES = [
    "a cat left of a rocket",
    "a penguin moving left to right on a red background, 3D render style",
    'the word "STAR" appearing letter by letter, S T A R',
    "an octopus spinning clockwise, glossy cartoon style",
    "two turtles climbing slowly, black and white line art",
    "a teddy bear getting bigger over a blue background",
]
KINDS = {
    "t5": (T5Config, T5ForConditionalGeneration),  # with a decoder, as published
    "mt5": (MT5Config, MT5EncoderModel),
    "umt5": (UMT5Config, UMT5EncoderModel),
}


def build_tiny_t5(folder: Path, *, kind: str = "t5", dim: int = 16, seed: int = 0) -> Path:
    """Write config, weights, spiece.model and tokenizer.json of a new model into `folder`."""
    folder.mkdir(parents=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 4),
        model_prefix=str(folder / "spiece"),
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    # transformers reads spiece.model by T5's class only; UMT5 is published with tokenizer.json.
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer"}))
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.save_pretrained(folder)
    config_class, model_class = KINDS[kind]
    config = config_class(
        vocab_size=len(tokenizer), d_model=dim, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    config.decoder_start_token_id = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model_class(config).save_pretrained(folder)
    return folder
