"""What the tests of nets share: pictures, and nets whose parameters have all been moved."""

from typing import TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    """1×C×H×W in [0, 1], the same every time."""
    generator = torch.Generator().manual_seed(height * width)
    return torch.rand(1, channels, height, width, generator=generator)


@torch.no_grad()
def shaken(net: Net) -> Net:
    """Every parameter moved, so that none is zero and none goes untested."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        parameter += 0.03 * torch.randn(parameter.shape, generator=generator)
    return net


def without_gradient(net: nn.Module) -> list[str]:
    """Names of the parameters that a backward pass did not reach."""
    return [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
