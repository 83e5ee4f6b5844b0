"""An exponential moving average of weights, with a ramp so that early ones do not linger."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from imagen_video.distributed import reshard


class EMA:
    """Averages of a module's parameters, on their device, sharded as they are, in float32."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights; `step` counts from 0."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.average.values(), module.parameters(), strict=True):
            average.lerp_(parameter, rate)

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
        for average, parameter in zip(self.average.values(), module.parameters(), strict=True):
            kept = parameter.clone()
            parameter.copy_(average)
            average.copy_(kept)
