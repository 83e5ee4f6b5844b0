"""A training step on tensors without data: what it allocates and computes, on any machine.

The trainer's own loss runs forwards and backwards under PyTorch's `FakeTensorMode`, so every
tensor is counted that would have lived, in its own type and for as long as it would.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from imagen_video.diffusion.objective import Draws
from imagen_video.info import call_on_meta
from imagen_video.spec import StageSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.training.engine import recompute_blocks, side_alone
from imagen_video.training.lora import Lora
from imagen_video.training.run import trained_format
from imagen_video.unet.inputs import Conditioning
from imagen_video.video import VideoFormat

FLOAT = 4


def training_flops(
    spec: StageSpec,
    tokens: int,
    *,
    recompute: bool = False,
    lora: Lora | None = None,
    beside: bool = False,
) -> int:
    """FLOPs of the forward and the backward pass of one row of a batch; of a side network alone
    if `beside`, with what it stands beside called twice."""
    unet, shown = build_unet(spec, device="meta"), trained_format(spec)
    if beside:
        side_alone(unet)
    if lora is not None:
        lora.adapt(unet)
    if recompute:
        recompute_blocks(unet)
    # Counting needs no tensor that seems to lie on a CPU, which takes several times as long.
    given = call_on_meta(spec, shown.frames, shown.size, tokens=tokens, captions=shown.frames)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        unet(*given).sum().backward()
        if beside:
            unet(*given[:2], replace(given[2], guidance=None))
    return counter.get_total_flops()


@dataclass(frozen=True)
class StepMemory:
    """What one step allocates besides the weights and what the optimizer keeps: `most` has the
    peak of activations for each amount of gradients that the backward pass had made by then.
    """

    most: dict[int, int]

    def peak(self, shards: int = 1) -> int:
        """Bytes at the worst moment, when each process keeps its share of the gradients."""
        return max(seen + gradients // shards for gradients, seen in self.most.items())

    @property
    def activations(self) -> int:
        return max(self.most.values())


def step_memory(
    spec: StageSpec, tokens: int, rows: int, *, recompute: bool = False, sharded: bool = False
) -> StepMemory:
    """The memory of a step on `rows` of a batch.

    When `sharded`, without the half-precision weights that are gathered for a block at a time.
    """
    dtype = torch.bfloat16 if sharded else torch.float32
    with _fake(spec, recompute=recompute, dtype=dtype) as stage:
        weights = list(stage.unet.parameters())
        allocated = _Allocated(weights)
        for weight in weights:
            weight.register_post_accumulate_grad_hook(allocated.hand_over)
        with allocated:
            _forwards_and_backwards(stage, tokens, rows)
    return StepMemory(allocated.most)


def optimizer_bytes(spec: StageSpec) -> int:
    """What the stage's optimizer keeps."""
    weights = list(build_unet(spec, device="meta").parameters())
    match spec.train.optimizer:
        case "adamw":
            return 2 * FLOAT * sum(weight.numel() for weight in weights)
        case "adamw8bit":
            return 2 * sum(weight.numel() for weight in weights)
        case "adafactor":  # a mean a row and a column of matrices
            return FLOAT * sum(
                w.numel() // w.shape[-1] + w.numel() // w.shape[-2] if w.dim() > 1 else w.numel()
                for w in weights
            )


class _Allocated(TorchDispatchMode):
    """Counts the bytes of all storages that operations made and something still holds."""

    def __init__(self, weights: list[nn.Parameter]):
        super().__init__()
        self.now = self.gradients = 0
        self.most: dict[int, int] = {}
        self._alive = {weight.untyped_storage()._cdata for weight in weights}

    def hand_over(self, weight: Tensor) -> None:
        """Count a gradient apart, which every process keeps a share of in float32."""
        weight.grad = None
        self.gradients += FLOAT * weight.numel()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, Tensor):
                self._saw(value.untyped_storage())
        return made

    def _saw(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self.now += size
            self.most[self.gradients] = max(self.most.get(self.gradients, 0), self.now)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


@contextmanager
def _fake(
    spec: StageSpec,
    *,
    recompute: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Stage]:
    """The stage with weights that have no data but think that they lie on a CPU."""
    unet = build_unet(spec, device="meta")
    if recompute:
        recompute_blocks(unet)
    with FakeTensorMode():
        for part in unet.modules():
            for name, weight in list(part.named_parameters(recurse=False)):
                like = torch.empty_strided(weight.shape, weight.stride(), dtype=dtype)
                setattr(part, name, nn.Parameter(like, weight.requires_grad))
        yield Stage(spec, unet)


def _forwards_and_backwards(stage: Stage, tokens: int, rows: int) -> None:
    shown: VideoFormat = trained_format(stage.spec)
    text = torch.zeros(rows, shown.frames, tokens, stage.spec.unet.text_dim)
    mask = torch.ones(rows, shown.frames, tokens, dtype=torch.bool)
    cond = Conditioning(text, mask, torch.ones(rows, dtype=torch.bool))
    video = torch.zeros(rows, shown.frames, 3, *shown.size)
    with torch.autocast("cpu", torch.bfloat16):
        loss = stage.loss(video, cond, Draws(rows))
    loss.value.backward()
