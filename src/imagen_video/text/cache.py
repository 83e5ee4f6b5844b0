"""Text embeddings kept: on disk by (encoder, text), or one file for a machine with no encoder."""

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from imagen_video.files import cache_root, replacing
from imagen_video.shapes import Float
from imagen_video.spec import TextSpec
from imagen_video.text.encoder import TextEmbedding, TextEncoder, checked, load_encoder

MEMORY_BYTES = 2**28


class CachedEncoder:
    """A TextEncoder that runs `encoder` only on prompts it has never seen.

    `folder` is "text" in $IMAGEN_VIDEO_CACHE or ~/.cache/imagen-video unless given. The most recent
    MEMORY_BYTES stay in memory too. A file that cannot be read is computed and written again.
    """

    def __init__(self, encoder: TextEncoder, folder: str | Path | None = None):
        if folder is None:
            folder = cache_root() / "text"
        self.encoder, self.folder = encoder, Path(folder)
        self.name, self.dim, self.length = encoder.name, encoder.dim, encoder.length
        self._memory: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embed prompts; the unknown ones in one call of the encoder."""
        different = list(dict.fromkeys(checked(prompts)))
        known = {text: row for text in different if (row := self._recall(text)) is not None}
        missing = [text for text in different if text not in known]
        if missing:
            for text, row in zip(missing, self.encoder(missing).to("cpu").rows(), strict=True):
                known[text] = row
                self._write(text, row)
                self._remember(text, row)
        return TextEmbedding.pad([known[text] for text in prompts], self.length)

    def path(self, text: str) -> Path:
        """Where this prompt's embedding is kept."""
        key = hashlib.sha256(f"{self.name}\0{text}".encode()).hexdigest()
        return self.folder / key[:2] / key[2:4] / f"{key}.safetensors"

    def _recall(self, text: str) -> Float[Tensor, "n d"] | None:
        if text in self._memory:
            self._memory.move_to_end(text)
            return self._memory[text]
        try:
            row = load(self.path(text).read_bytes())["tokens"]
        except (OSError, SafetensorError, KeyError):
            return None
        if row.ndim != 2 or row.shape[1] != self.dim or len(row) > self.length:
            return None
        self._remember(text, row)
        return row

    def _remember(self, text: str, row: Float[Tensor, "n d"]) -> None:
        self._memory[text] = row
        self._bytes += row.nbytes
        while self._bytes > MEMORY_BYTES:
            self._bytes -= self._memory.popitem(last=False)[1].nbytes

    def _write(self, text: str, row: Float[Tensor, "n d"]) -> None:
        path = self.path(text)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                save_file({"tokens": row.contiguous()}, temporary)
        except OSError as error:
            warnings.warn(f"text embeddings are not kept in {self.folder}: {error}", stacklevel=3)


def load_keeping(
    spec: TextSpec, *, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> TextEncoder:
    """The encoder that `spec` names; T5's answers are kept on disk, as one can take seconds.

    MiniLM's take milliseconds, and training asks for thousands of different ones a minute.
    """
    encoder = load_encoder(spec, dtype=dtype, device=device)
    return CachedEncoder(encoder) if spec.encoder == "t5" else encoder


class EmbeddingTable:
    """A TextEncoder that knows a fixed list of captions: one safetensors file to carry along.

    The file holds the token embeddings of all captions one after the other, their counts, and, as
    UTF-8 JSON in a tensor of bytes, the captions with the name and length of the encoder.
    """

    def __init__(self, name: str, length: int, rows: dict[str, Tensor]):
        self.name, self.length, self._rows = name, length, rows
        self.dim: int = next(iter(rows.values())).shape[1]

    @classmethod
    def build(cls, encoder: TextEncoder, captions: Sequence[str]) -> "EmbeddingTable":
        """Encode every different caption once."""
        different = list(dict.fromkeys(checked(captions)))
        rows = {}
        for start in range(0, len(different), 1024):  # padded to full length on the way
            part = different[start : start + 1024]
            rows |= dict(zip(part, encoder(part).rows(), strict=True))
        return cls(encoder.name, encoder.length, rows)

    @classmethod
    def load(cls, path: str | Path) -> "EmbeddingTable":
        """Read a file written by `save`; ValueError if it is missing or no such file."""
        try:
            tensors = load_file(path)
            about = json.loads(bytes(tensors["json"].numpy()))
            rows = tensors["tokens"].split(tensors["counts"].tolist())
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"no table of text embeddings in {str(path)!r}: {error}") from error
        return cls(about["name"], about["length"], dict(zip(about["captions"], rows, strict=True)))

    def save(self, path: str | Path) -> None:
        about = {"name": self.name, "length": self.length, "captions": list(self._rows)}
        text = json.dumps(about, ensure_ascii=False).encode()
        rows = list(self._rows.values())
        tensors = {
            "tokens": torch.cat(rows),
            "counts": torch.tensor([len(row) for row in rows]),
            "json": torch.frombuffer(bytearray(text), dtype=torch.uint8),
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary)

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Look captions up; ValueError naming the first one that is not in the table."""
        for text in checked(prompts):
            if text not in self._rows:
                raise ValueError(
                    f"the table of {len(self._rows)} captions does not hold {text!r}; "
                    "build it again with this caption, or install the text encoder"
                )
        return TextEmbedding.pad([self._rows[text] for text in prompts], self.length)
