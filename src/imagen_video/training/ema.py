"""An exponential moving average of weights, with a ramp so that early ones do not linger."""

import torch
from torch import nn


class EMA:
    """Averages of a module's parameters, on their device and in float32."""

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the module's weights; `step` counts from 0."""
        rate = 1 - min(self.decay, (1 + step) / (10 + step))
        for average, parameter in zip(self.average.values(), module.parameters(), strict=True):
            average.lerp_(parameter, rate)

    def copy_to(self, module: nn.Module) -> None:
        module.load_state_dict(self.average)
