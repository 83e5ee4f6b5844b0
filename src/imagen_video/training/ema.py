"""An exponential moving average of weights, with a ramp so that early ones do not linger."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from imagen_video.distributed import reshard


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
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, parameter in self._pairs(module):
            average.lerp_(parameter, rate)

    def _pairs(self, module: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(self.average.values(), trained(module).values(), strict=True)

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
        for average, parameter in self._pairs(module):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
