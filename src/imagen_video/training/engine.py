"""What is done to a network from outside: memory, compilation and sharding before it trains, its
average put together after."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from imagen_video.distributed import Ranks, ShardedArithmetic, gathered, spread
from imagen_video.spec import TrainSpec
from imagen_video.stage import Stage, build_unet
from imagen_video.training.ema import EMA, trained
from imagen_video.training.lora import Lora
from imagen_video.unet.unet import VideoUNet
from imagen_video.weights import load_weights


def prepare(
    unet: VideoUNet, ranks: Ranks, *, bf16: bool, recompute: bool = False, compiled: bool = False
) -> None:
    """Put the network on the run's devices, in place.

    `recompute` keeps only the inputs of every block for the backward pass (activation
    checkpointing), `compiled` compiles every block by itself (regional torch.compile).
    """
    if recompute:
        recompute_blocks(unet)
    if compiled:
        compile_blocks(unet)
    if ranks.mesh is None:
        unet.to(ranks.device)
    else:
        spread(unet, ranks, parts=blocks_of(unet), bf16=bf16)
    unet.train()


def compile_blocks(unet: VideoUNet) -> None:
    """Compile every block by itself, in place; blocks alike share what is compiled."""
    blocks = blocks_of(unet)
    # Past its limit torch silently runs what it has not compiled; each block may need its own.
    torch._dynamo.config.recompile_limit = max(
        torch._dynamo.config.recompile_limit, len(blocks) + 8
    )
    for block in blocks:
        # Sizes that differ between blocks do not differ from step to step.
        block.compile(dynamic=False)


def uncompiled(compiled: bool) -> AbstractContextManager:
    """Where compiled blocks run as they were written: for steps too few to be compiled for, and for
    what counts operations."""
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def blocks_of(unet: VideoUNet) -> list[nn.Module]:
    """The parts that are recomputed, compiled, and gathered when sharded, each by itself."""
    return [block for level in [*unet.down, *unet.up] for block in level]  # pyright: ignore


def recompute_blocks(unet: VideoUNet) -> None:
    """Let blocks keep their inputs alone for the backward pass, in place."""
    for block in blocks_of(unet):
        block.forward = _recomputed(block.forward)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A function of Python: dynamo, which compiles blocks, lets `checkpoint` itself run as it is,
    and all within it."""

    def recomputed(*given: Any) -> Any:
        return checkpoint(forward, *given, use_reentrant=False)

    return recomputed


def make_optimizer(train: TrainSpec, unet: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that a stage's `TrainSpec` names; ValueError where it cannot be had."""
    rate, decay = train.learning_rate, train.weight_decay
    weights = list(trained(unet).values())
    if train.optimizer == "adafactor":
        return Adafactor(weights, lr=rate, weight_decay=decay)
    if train.optimizer == "adamw8bit":
        try:
            from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ValueError(
                'adamw8bit needs torchao: pip install "imagen-video[adamw8bit]"'
            ) from error
        return AdamW8bit(weights, lr=rate, betas=(0.9, 0.99), weight_decay=decay)
    return torch.optim.AdamW(weights, lr=rate, betas=(0.9, 0.99), weight_decay=decay, fused=True)


class Adafactor(torch.optim.Adafactor):
    """torch's, over sharded weights too: its state lies as they do."""

    def step(self, closure: None = None) -> None:
        """One step on the gradients there are."""
        with ShardedArithmetic():
            super().step(closure)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate, in place where an optimizer keeps it as a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def side_alone(unet: VideoUNet) -> None:
    """Freeze all but the network beside it, in place."""
    assert unet.side is not None
    unet.requires_grad_(False)
    unet.side.requires_grad_(True)


def initialise_from(stage: Stage, folder: Path, *, only: str = "") -> Sequence[str]:
    """Copy every weight of a saved stage whose name and shape match, or those whose name begins
    with `only`; returns the names."""
    source = load_weights(folder)
    own = stage.unet.state_dict()
    matching = [k for k, v in source.items() if k in own and own[k].shape == v.shape]
    matching = [name for name in matching if name.startswith(only)]
    if not matching:
        raise ValueError(f"no weight {only}* of {folder} fits stage {stage.spec.name!r}")
    stage.unet.load_state_dict(own | {name: source[name].to(own[name]) for name in matching})
    return matching


def averaged(stage: Stage, ema: EMA, ranks: Ranks, lora: Lora | None) -> Stage | None:
    """A stage on the CPU with the averaged weights; None but on the first process, though all of
    them call it."""
    weights = {}
    for name, parameter in stage.unet.named_parameters():
        whole = gathered(ema.average.get(name, parameter))
        if ranks.first:  # a second network on its device might not fit
            weights[name] = whole.cpu()
    if not ranks.first:
        return None
    own = Stage(stage.spec, build_unet(stage.spec, device="meta"))
    if lora is not None:
        lora.adapt(own.unet)
    own.unet.load_state_dict(weights, assign=True)
    own.unet.requires_grad_(False).eval()
    return own
