"""Resume state on disk: torch.distributed.checkpoint in safetensors files, whole or not there.

A checkpoint is a folder step-00000120 with a file a process and facts.json. It is written beside
training under another name and renamed when every process is done. Random state and data position
are functions of (seed, step), so the step is all of them; any number of processes can go on.
"""

import json
import os
import shutil
import warnings
from concurrent.futures import Future
from contextlib import suppress
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import async_save

from imagen_video.distributed import Ranks
from imagen_video.training.ema import EMA, trained
from imagen_video.training.engine import set_rate

FACTS = "facts.json"


def latest(folder: Path, back: int = 0) -> Path | None:
    """The newest whole checkpoint below a training's folder, or one so many `back`, or the oldest
    of fewer."""
    found = sorted(_all(folder))
    return found[max(0, len(found) - 1 - back)] if found else None


def best(folder: Path) -> Path | None:
    """The whole checkpoint with the lowest validation loss of those that are kept."""
    rated = {}
    for path in _all(folder):
        with suppress(ValueError):  # a damaged one ends no run that needs another
            loss = facts_of(path).get("validation")
            if loss is not None and isfinite(loss):
                rated[path] = loss
    return min(rated, default=None, key=rated.__getitem__)


def facts_of(checkpoint: Path) -> dict:
    """What is known of a checkpoint besides its tensors: step, seed, spec, validation loss."""
    try:
        return json.loads((checkpoint / FACTS).read_text())
    except ValueError as error:
        raise damaged(checkpoint, error) from error


def damaged(checkpoint: Path, error: Exception | str) -> ValueError:
    """What to say of a checkpoint that cannot be read."""
    return ValueError(
        f"{checkpoint} is damaged ({str(error).strip().splitlines()[-1]}): remove that folder, and "
        "the run goes on from the checkpoint before it"
    )


def _all(folder: Path) -> list[Path]:
    return [path for path in (folder / "checkpoints").glob("step-*") if (path / FACTS).is_file()]


def tensors_of(unet: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, averages and optimizer state by name, as the very tensors that are trained; 8-bit
    moments, which safetensors does not know, as numbers that read as the same codes."""
    tensors = {}
    for name, parameter in trained(unet).items():
        tensors[f"weight/{name}"] = parameter.detach()
        tensors[f"ema/{name}"] = ema.average[name]
        for moment, value in _moments(optimizer, parameter):
            tensors[f"{moment}/{name}"] = _plain(value, parameter) if _quantised(value) else value
    return tensors


def _plain(value: Tensor, parameter: Tensor) -> Tensor:
    """In the order of its codes, which knows no memory format.

    The lowest signed code stands for -0.993 of a block's scale: told as -1, it shows the scale to
    the reader, who takes the largest number for it.
    """
    like = torch.zeros_like(parameter, memory_format=torch.contiguous_format).detach()
    own = _own(value)
    values = torch.cat([own.qmap[:1].round(), own.qmap[1:]])
    _own(like).copy_(type(own)(own.codes, own.scale, values, own.signed).dequantize())
    return like


def _moments(optimizer: torch.optim.Optimizer, parameter: Tensor) -> list[tuple[str, Tensor]]:
    state = optimizer.state.get(parameter, {})
    return [(moment, value) for moment, value in state.items() if isinstance(value, Tensor)]


def _quantised(value: Tensor) -> bool:
    """Codes and scales that pass for a tensor (torchao), whole or sharded."""
    return type(_own(value)) is not Tensor


def _own(value: Tensor) -> Any:
    """What lies here of a tensor that may be sharded."""
    return getattr(value, "_local_tensor", value)


class Saver:
    """Writes checkpoints beside training, and keeps the last few and the best."""

    def __init__(self, folder: Path, ranks: Ranks, *, keep: int):
        self.folder, self.ranks, self.keep = folder / "checkpoints", ranks, keep
        self._writing: tuple[Future, Path, dict] | None = None
        _hush()
        if ranks.first:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left_over in self.folder.glob(".*.part"):  # of a run killed while it saved
                shutil.rmtree(left_over)
            for left_over in folder.glob(".*.part"):
                left_over.unlink()
        ranks.wait()

    def save(self, tensors: dict[str, Tensor], facts: dict) -> None:
        """Copy the tensors and begin to write them; waits for a checkpoint still being written."""
        self.finish()
        part = self.folder / f".step-{facts['step']:08d}.part"
        if self.ranks.first:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
        self.ranks.wait()
        writing = async_save(
            tensors,
            storage_writer=HuggingFaceStorageWriter(str(part), save_distributed=True),
            process_group=self.ranks.saving,
            no_dist=self.ranks.ranks == 1,
        )
        assert isinstance(writing, Future)  # of the default stager
        self._writing = writing, part, facts

    def finish(self) -> None:
        """Wait until the checkpoint is on disk under its name, and remove those not kept.

        ValueError where it cannot be written; those of before are whole.
        """
        if self._writing is None:
            return
        (writing, part, facts), self._writing = self._writing, None
        try:
            writing.result()
        except CheckpointException as error:  # no Exception
            why = "; ".join(str(found) for found, _ in error.failures.values())
            raise ValueError(
                f"cannot save {part}: {why}; what was saved before is whole: mend that and run the "
                "same command"
            ) from error
        if self.ranks.first:
            (part / FACTS).write_text(json.dumps(facts))
            _flush(part)
            whole = self.folder / part.name.removeprefix(".").removesuffix(".part")
            if whole.exists():  # the same step, saved at an interval and at the end
                shutil.rmtree(part)
            else:
                os.replace(part, whole)
            self._prune()
        self.ranks.wait()

    def poll(self) -> None:
        """Finish if there is nothing left to wait for; every process calls it in the same step."""
        done = self._writing is not None and self._writing[0].done()
        if self._writing is not None and not self.ranks.agreed(not done)[0]:
            self.finish()

    def _prune(self) -> None:
        saved = sorted(_all(self.folder.parent))
        for path in set(saved[: -self.keep]) - {best(self.folder.parent)}:
            part = path.with_name(f".{path.name}.part")  # half of one is none
            os.replace(path, part)
            shutil.rmtree(part)


def _flush(folder: Path) -> None:
    """Bring the files to the disk before their name says they are whole."""
    for path in [*folder.iterdir(), folder]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def load(checkpoint: Path, unet: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> None:
    """Restore in place what `Saver` wrote, on any number of processes.

    ValueError where the checkpoint is of another network or optimizer.
    """
    prime(optimizer)
    tensors = tensors_of(unet, ema, optimizer)
    saved, wanted = _shapes(checkpoint), {name: value.shape for name, value in tensors.items()}
    if saved.items() < wanted.items():
        raise damaged(checkpoint, f"{len(wanted) - len(saved)} of {len(wanted)} tensors are gone")
    if saved != wanted:
        raise ValueError(
            f"{checkpoint} is of another network or optimizer: use another --out folder"
        )
    _fill(tensors, checkpoint)
    for name, parameter in trained(unet).items():
        for moment, value in _moments(optimizer, parameter):
            if _quantised(value):
                value.copy_(tensors[f"{moment}/{name}"])


def tensors_in(checkpoint: Path, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Some tensors of a checkpoint, whole, in float32, whatever processes wrote it."""
    tensors = {name: torch.empty(shape) for name, shape in shapes.items()}
    _hush()
    gone = set(tensors) - set(_shapes(checkpoint))
    if gone:
        raise damaged(checkpoint, f"{len(gone)} of {len(tensors)} tensors are gone")
    _fill(tensors, checkpoint, no_dist=True)
    return tensors


def holds(checkpoint: Path, name: str) -> bool:
    """Whether a checkpoint has this tensor."""
    return name in _shapes(checkpoint)


def _shapes(checkpoint: Path) -> dict[str, torch.Size]:
    """What lies in a checkpoint's files; ValueError where one cannot be read."""
    try:
        found = HuggingFaceStorageReader(str(checkpoint)).read_metadata().state_dict_metadata
    except (SafetensorError, ValueError, OSError) as error:
        raise damaged(checkpoint, error) from error
    return {name: about.size for name, about in found.items()}  # pyright: ignore


def _fill(tensors: dict[str, Tensor], checkpoint: Path, *, no_dist: bool = False) -> None:
    try:
        reader = HuggingFaceStorageReader(str(checkpoint))
        load_tensors(tensors, storage_reader=reader, no_dist=no_dist)
    except CheckpointException as error:  # no Exception
        first = next(str(found) for found, _ in error.failures.values())
        raise damaged(checkpoint, first) from error


def _hush() -> None:
    """DCP tells those who did not know that they run in one process."""
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")


def prime(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer make its state, in the layout it wants, without a change of the weights."""
    rate = float(optimizer.param_groups[0]["lr"])
    set_rate(optimizer, 0.0)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    set_rate(optimizer, rate)
