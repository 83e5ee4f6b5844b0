"""Text embeddings kept: on disk by (encoder, text), or a folder for a machine with no encoder."""

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file, save_file
from torch import Tensor
from tqdm import tqdm

from imagen_video.files import cache_root, replacing
from imagen_video.shapes import Float
from imagen_video.spec import TextSpec
from imagen_video.text.encoder import TextEmbedding, TextEncoder, checked, load_encoder

MEMORY_BYTES = 2**28
# Captions that are encoded and written at once.
PART = 1024


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
    """A TextEncoder that knows a fixed list of captions: a folder of files to carry along.

    A file holds the token embeddings of PART captions one after the other, their counts, and, as
    UTF-8 JSON in a tensor of bytes, the captions with the name and length of the encoder.
    """

    def __init__(self, name: str, length: int, rows: dict[str, Tensor]):
        self.name, self.length, self._rows = name, length, rows
        self.dim: int = next(iter(rows.values())).shape[1]

    @staticmethod
    def write(encoder: TextEncoder, captions: Iterable[str], folder: Path) -> None:
        """Encode every different caption that the folder does not hold, part by part: stopped and
        called again, it goes on. ValueError where it holds embeddings of another encoder.
        """
        folder.mkdir(parents=True, exist_ok=True)
        known: set[str] = set()
        if any(folder.glob("*.safetensors")):
            table = EmbeddingTable.load(folder)
            if table.name != encoder.name:
                raise ValueError(
                    f"{folder} holds embeddings of {table.name}, not of {encoder.name}: give "
                    "another folder"
                )
            known = set(table._rows)
        different = sorted(set(captions) - known)
        for start in tqdm(range(0, len(different), PART), unit="part", disable=None):
            part = different[start : start + PART]
            about = {"name": encoder.name, "length": encoder.length, "captions": part}
            text = json.dumps(about).encode()
            path = folder / f"{hashlib.sha256(text).hexdigest()[:16]}.safetensors"
            _write_part(path, encoder(part).to("cpu").rows(), text)

    @classmethod
    def load(cls, folder: Path) -> "EmbeddingTable":
        """What `write` wrote, mapped into memory; ValueError if it is missing or no such folder."""
        rows, encoders = {}, set()
        try:
            for path in folder.glob("*.safetensors"):
                tensors = load_file(path)
                about = json.loads(bytes(tensors["json"].numpy()))
                encoders.add((about["name"], about["length"]))
                parts = tensors["tokens"].split(tensors["counts"].tolist())
                rows |= zip(about["captions"], parts, strict=True)
        except (OSError, SafetensorError, KeyError) as error:
            raise ValueError(f"no text embeddings in {str(path)!r}: {error}") from error
        if len(encoders) != 1:
            raise ValueError(
                f"{str(folder)!r} has text embeddings of {len(encoders)} encoders, one fits: give "
                "the captions folder that `imagen-video data embed` or `carry` wrote"
            )
        name, length = encoders.pop()
        return cls(name, length, rows)

    def check(self, captions: Iterable[str]) -> None:
        """ValueError naming the first caption that is not in the table."""
        for text in captions:
            if text not in self._rows:
                raise ValueError(
                    f"the table of {len(self._rows)} captions does not hold {text!r}: add it with "
                    "`imagen-video data embed` (stickers: `data carry`), or let the encoder run"
                )

    def __call__(self, prompts: Sequence[str]) -> TextEmbedding:
        """Look captions up; ValueError naming the first one that is not in the table."""
        self.check(checked(prompts))
        return TextEmbedding.pad([self._rows[text] for text in prompts], self.length)


def _write_part(path: Path, rows: Sequence[Tensor], about: bytes) -> None:
    tensors = {
        "tokens": torch.cat(list(rows)),
        "counts": torch.tensor([len(row) for row in rows]),
        "json": torch.frombuffer(bytearray(about), dtype=torch.uint8),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary)
