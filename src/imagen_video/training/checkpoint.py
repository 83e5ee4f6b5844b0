"""Resume state of a single-process training: one safetensors file, whole or not there.

Random state and data position are both functions of (seed, step), so the step is all of them.
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from imagen_video.files import replacing
from imagen_video.training.ema import EMA

FILE = "checkpoint.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(
    folder: Path, unet: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, *, facts: dict
) -> None:
    """Write weights, averages and optimizer moments; `facts` (step, seed, ...) as JSON inside."""
    tensors = {}
    for name, parameter in unet.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach()
        tensors[f"ema/{name}"] = ema.average[name]
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}/{name}"] = value
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    with replacing(folder / FILE) as path:
        save_file(tensors, path, metadata={"facts": json.dumps(facts)})


def load_checkpoint(
    folder: Path, unet: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer
) -> dict | None:
    """Restore what `save_checkpoint` wrote, in place, and return its facts; None if there is none.

    Raises ValueError where the checkpoint is of another network.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        expected = {f"weight/{name}" for name, _ in unet.named_parameters()}
        missing = expected - names
        if missing or {n for n in names if n.startswith("weight/")} - expected:
            raise ValueError(f"{path} is of another network: use another --out folder")
        with torch.no_grad():
            for name, parameter in unet.named_parameters():
                _copy(parameter, file.get_tensor(f"weight/{name}"), path)
                _copy(ema.average[name], file.get_tensor(f"ema/{name}"), path)
                moments = {m: f"{m}/{name}" for m in MOMENTS if f"{m}/{name}" in names}
                if moments:
                    optimizer.state[parameter] = {
                        m: _like(parameter, file.get_tensor(key)) for m, key in moments.items()
                    }
        return json.loads(file.metadata()["facts"])


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """A moment in the memory layout of its parameter: fused AdamW walks both as raw memory."""
    if value.shape != parameter.shape:  # AdamW's step count, a scalar
        return value.to(parameter.device)
    return torch.empty_like(parameter).copy_(value)


def _copy(into: Tensor, value: Tensor, path: Path) -> None:
    if into.shape != value.shape:
        raise ValueError(f"{path} is of another network: use another --out folder")
    into.copy_(value)
