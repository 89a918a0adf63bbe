"""Pooling over the whole picture, and what it becomes where a net sees the picture in tiles.

A net that pools globally sees in a tile another average than in the whole picture, and neighbouring
tiles disagree. `shared_pooling` lets all tiles of a picture use one: a first pass over the tiles
writes down what each pools, a second one gives every tile the joint result. Averages deeper in the
net were then written down by a net whose earlier ones were still per tile. The joint mean is exact
but for overlaps: a tile counts by the share of its pixels that is its own, wherever these lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class GlobalPool(nn.Module):
    """Base: B×C×H×W → B×C×1×1, a weighted mean over the pixels.

    A subclass gives `pool`, and asks `pooled` for what it works with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.joint: Joint | None = None

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean B×C×1×1 over these pixels, and the logarithm of their weight, B×1×1×1."""
        raise NotImplementedError

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """As `pool`, but over the whole picture where `shared_pooling` knows that."""
        found = self.pool(x)
        return found if self.joint is None else self.joint.take(*found)


class GlobalMean(GlobalPool):
    """Every pixel counts alike: B×C×H×W → B×C×1×1."""

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((-2, -1), keepdim=True), log_area(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.pooled(x)[0]


def log_area(x: Tensor) -> Tensor:
    """The logarithm of the number of pixels of B×C×H×W, B×1×1×1 float32."""
    area = float(x.shape[-2] * x.shape[-1])
    return torch.full((len(x), 1, 1, 1), area, device=x.device).log()


class Joint:
    """What one pool of a net found in all tiles of a picture."""

    def __init__(self) -> None:
        self.share = 1.0
        self._known: tuple[Tensor, Tensor] | None = None  # of the pass before
        self.found: tuple[Tensor, Tensor] | None = None

    def take(self, mean: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Write down what the tile pools; what it gets is the joint mean, once that is known."""
        own = weight + math.log(self.share)
        if self.found is None:
            self.found = mean, own
        else:
            before, far = self.found
            total = torch.logaddexp(far, own)
            joined = before * (far - total).exp() + mean * (own - total).exp()
            self.found = joined, total
        return self._known or (mean, weight)

    def settle(self) -> None:
        """The end of a pass."""
        self._known, self.found = self.found, None


class Passes:
    """Handed out by `shared_pooling` to whoever sends the tiles through the net."""

    def __init__(self, joints: list[Joint]) -> None:
        self._joints = joints

    def share(self, share: float) -> None:
        """The share of the next tile's pixels that is its own, since tiles overlap."""
        for joint in self._joints:
            joint.share = share

    def found(self) -> list[Any]:
        """What has been written down so far, to go `back` to when a tile fails half-way."""
        return [joint.found for joint in self._joints]

    def back(self, found: list[Any]) -> None:
        for joint, earlier in zip(self._joints, found, strict=True):
            joint.found = earlier

    def settle(self) -> None:
        """After all tiles of a picture: what they pooled is what the next pass uses."""
        for joint in self._joints:
            joint.settle()


@contextmanager
def shared_pooling(net: nn.Module) -> Iterator[Passes]:
    """While it lasts, the pools of `net` write down, and use, means over all tiles of a picture."""
    pools = [module for module in net.modules() if isinstance(module, GlobalPool)]
    joints = [Joint() for _ in pools]
    for pool, joint in zip(pools, joints, strict=True):
        pool.joint = joint
    try:
        yield Passes(joints)
    finally:
        for pool in pools:
            pool.joint = None
