"""An exponential moving average of weights, with a ramp so that early ones do not linger."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from imagen_video.distributed import own_part, reshard


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are not frozen, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


class EMA:
    """Averages of a module's trained parameters, in float32, where and sharded as they are."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in trained(module).items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights; `step` counts from 0."""
        move = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        move(*self._own(module), step)

    def _own(self, module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Averages and weights as far as they lie in this process: each number is on its own, and
        sharded tensors would ask at every step how to be dealt with."""
        both = self.average.values(), trained(module).values()
        averages, weights = ([own_part(tensor) for tensor in some] for some in both)
        return averages, weights

    @contextmanager
    def in_place_of(self, module: nn.Module) -> Iterator[None]:
        """The module with the averaged weights for a while; its own come back exactly."""
        self._swap(module)
        try:
            yield
        finally:
            reshard(module)
            self._swap(module)

    @torch.no_grad()
    def _swap(self, module: nn.Module) -> None:
        for average, parameter in zip(*self._own(module), strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
