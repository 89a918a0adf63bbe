"""What the tests of nets share: pictures, and nets whose parameters have all been moved."""

import zlib
from typing import TypeVar

import numpy as np
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


@torch.no_grad()
def drawn(net: Net, gain: float) -> Net:
    """Every parameter drawn by its name: the same on any machine, however the net is written."""
    for name, parameter in net.named_parameters():
        draw = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(parameter.shape)
        if parameter.ndim > 1 and name.endswith("weight"):
            draw *= gain * (len(parameter) / parameter.numel()) ** 0.5
        else:
            draw = 0.3 * draw + (name.endswith("weight"))
        parameter.copy_(torch.from_numpy(draw))
    return net.eval()


def summary(image: Tensor) -> list[float]:
    """Mean, deviation, and a pixel of three places."""
    pixels = image.flatten()
    places = [pixels[n].item() for n in (0, len(pixels) // 3, -1)]
    return [pixels.mean().item(), pixels.std().item(), *places]


def layer(name: str, *weight: int, bias: int | None = None) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a layer; `bias` is by default as long as the weight, 0 is none."""
    length = weight[0] if bias is None else bias
    return {f"{name}.weight": weight, **({f"{name}.bias": (length,)} if length else {})}


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def without_gradient(net: nn.Module) -> list[str]:
    """Names of the parameters that a backward pass did not reach."""
    return [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
