"""Many processes as one: who this is, how a network is spread, what they agree on (torchrun).

The network knows nothing of it. Everything works the same in one process without torchrun.
"""

import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from imagen_video.files import Unreachable

# The first process draws sample sheets while the others wait.
PATIENCE = timedelta(hours=1)
# What gloo, NCCL and torch's store say when the other end does not answer.
LOST = re.compile("gloo/transport|by peer|TCPStore|ncclRemoteError|NCCL.*(timeout|abort)", re.S)


class Lost(RuntimeError):
    """Another process of the run is gone."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run. `mesh` is (replicas, shards); None in a run of one.

    `talk` and `saving` are groups of their own on the CPU: flags, and checkpoints that are written
    while training goes on, must not meet the gradients' collectives.
    """

    rank: int = 0
    ranks: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    mesh: Any = None
    talk: Any = None
    saving: Any = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agreed(self, *flags: bool) -> list[bool]:
        """Whether any process raised each flag: all go the same way in the same step."""
        if self.ranks == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.int32)
        torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX, group=self.talk)
        return raised.bool().tolist()

    def told(self, value: Any) -> Any:
        """The first process's value, on every process."""
        box = [value]
        if self.ranks > 1:
            torch.distributed.broadcast_object_list(box, src=0, group=self.talk)
        return box[0]

    def total(self, values: Tensor) -> Tensor:
        """The sum over the processes, in float64 on the CPU."""
        values = values.detach().double().cpu()
        if self.ranks > 1:
            torch.distributed.all_reduce(values, group=self.talk)
        return values

    def wait(self) -> None:
        """Until every process is here."""
        if self.ranks > 1:
            torch.distributed.barrier(group=self.talk)


def device_of(name: str | torch.device) -> torch.device:
    """The device of a name; ValueError for one that is not here."""
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).strip().splitlines()[0]
        raise ValueError(f"no device {str(name)!r} here ({why}): give cpu, or another") from None


@contextmanager
def started(device: str = "cpu", *, shards: int = 1) -> Iterator[Ranks]:
    """Join the processes that torchrun started; alone where it did not.

    The network is spread over `shards` processes, and as many copies as that leaves: 1 is data
    parallelism, all processes FSDP, between them hybrid sharding. ValueError if the number of
    processes is no multiple of it; Lost when another process is gone.
    """
    from torch.distributed.device_mesh import init_device_mesh

    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if shards < 1 or ranks % shards:
        raise ValueError(f"{ranks} processes cannot hold a network in {shards} shards each")
    if ranks == 1:
        yield Ranks(device=device_of(device))
        return
    kind = device_of(device).type
    place = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else kind
    if kind == "cuda":
        torch.cuda.set_device(place)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    # unfold() returns a view and nobody writes into it.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")
    torch.distributed.init_process_group(backend, timeout=PATIENCE)
    with telling_lost():
        yield Ranks(
            rank=torch.distributed.get_rank(),
            ranks=ranks,
            device=torch.device(place),
            mesh=init_device_mesh(
                kind, (ranks // shards, shards), mesh_dim_names=("replicate", "shard")
            ),
            talk=torch.distributed.new_group(backend="gloo", timeout=PATIENCE),
            saving=torch.distributed.new_group(backend="gloo", timeout=PATIENCE),
        )
    torch.distributed.destroy_process_group()


@contextmanager
def telling_lost() -> Iterator[None]:
    """Turn the many errors of a collective whose other end is gone into one, Lost."""
    from torch.distributed.checkpoint.api import CheckpointException  # no Exception

    try:
        yield
    except (Exception, CheckpointException) as error:
        # What tidies up after the collective may itself fail: the first error tells.
        kinds = RuntimeError, CheckpointException
        texts = [str(e).strip() for e in _chain(error) if isinstance(e, kinds)]
        lost = [text for text in texts if LOST.search(text)]
        if isinstance(error, Lost | Unreachable) or not lost:
            raise
        raise Lost(
            f"another process of this run is gone ({lost[-1].splitlines()[0]}); nothing saved is "
            "lost: the same command goes on from the last checkpoint"
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those it was raised from or while handling, the last first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def spread(unet: nn.Module, ranks: Ranks, *, parts: list[nn.Module], bf16: bool) -> None:
    """Shard the network in place over the mesh: each of `parts`, then what is left.

    The first process has the weights; those of the others are on "meta" and never were anywhere
    else. No process ever holds a whole network on its device.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    weights = {name: w.contiguous() for name, w in unet.state_dict().items() if ranks.first}
    unet.to("meta")
    for parameter in unet.parameters():  # FSDP keeps no memory format
        parameter.data = parameter.data.contiguous()
    # Inputs stay as they are: autocast converts them where half precision does no harm.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for part in [*parts, unet]:
        fully_shard(part, mesh=ranks.mesh, mp_policy=policy)
    unet.to_empty(device=ranks.device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(unet, weights, options=options)


def gathered(value: Tensor) -> Tensor:
    """A sharded tensor whole, on every process; others as they are."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value  # pyright: ignore


def own_part(value: Tensor) -> Tensor:
    """This process's part of a sharded tensor, sharing its memory; others as they are."""
    return value.detach().to_local() if hasattr(value, "to_local") else value  # pyright: ignore


def synchronise(unet: nn.Module, ranks: Ranks, *, last: bool) -> None:
    """Exchange gradients after the last part of an accumulated step only, or of a sharded network
    after every part: until then each process would keep all of them whole."""
    if hasattr(unet, "set_requires_gradient_sync"):
        unet.set_requires_gradient_sync(last or ranks.mesh["shard"].size() > 1)  # pyright: ignore[reportCallIssue]


def reshard(unet: nn.Module) -> None:
    """Let go of the whole weights that a forward pass without a backward one left behind."""
    for part in unet.modules():
        if hasattr(part, "reshard"):
            part.reshard()  # pyright: ignore[reportCallIssue]


class ShardedArithmetic(TorchFunctionMode):
    """Makes up for what DTensor refuses Adafactor: to square a norm that waits for its sum, to
    change a tensor by one that lies elsewhere, to shard what is made like a tensor but smaller."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        from torch.distributed.tensor import Replicate

        own: Any = args[0] if args and _is_sharded(args[0]) else None
        if own is not None and func.__name__.endswith("_"):
            args = [_laid(a, own.placements) if _like(a, own) else a for a in args]
        if func in (Tensor.__matmul__, Tensor.matmul):  # a column by a row
            func = torch.mul
        out: Any = func(*args, **(kwargs or {}))
        if not _is_sharded(out):
            return out
        if own is not None and func is Tensor.new_zeros:  # means of rows or columns
            rows = 1 < out.shape[0] == own.shape[0]
            return _laid(out, own.placements if rows else [Replicate()] * own.device_mesh.ndim)
        return _laid(out, [Replicate() if p.is_partial() else p for p in out.placements])


def _is_sharded(value: object) -> bool:
    return hasattr(value, "placements")


def _like(value: Any, own: Any) -> bool:
    return _is_sharded(value) and value.shape == own.shape


def _laid(value: Any, placements: Sequence[Any]) -> Any:
    """The same tensor over the processes in this way; itself if it is."""
    same = tuple(placements) == value.placements
    return value if same else value.redistribute(placements=placements)
