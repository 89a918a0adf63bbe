"""Rotations in six numbers, in the two orders that published nets use."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Order = Literal["columns", "rows"]
"""Where the six numbers of a rotation stand (Zhou et al., CVPR 2019: the first two columns of its
matrix): `rows` takes these two columns row by row (SPIN, OSX: view(−1, 3, 2)), `columns` one after
the other (Multi-HMR: reshape(−1, 2, 3) transposed)."""

TINY = 1e-12
"""Length of a column that says no direction."""


def from_6d(numbers: Tensor, order: Order = "columns") -> Tensor:
    """…×6, any numbers → …×3×3 rotations, by Gram and Schmidt.

    Numbers that say no direction (a column of zeros, a second one along the first) give some
    rotation, and gradients of 0 there.
    """
    columns = numbers.unflatten(-1, (3, 2)) if order == "rows" else numbers.unflatten(-1, (2, 3)).mT
    first, second = columns.unbind(-1)
    axes = torch.eye(3, dtype=numbers.dtype, device=numbers.device)
    x = _unit(first, TINY, axes[0])
    rest = second - (x * second).sum(-1, keepdim=True) * x
    # What is left of a second column along the first is rounding.
    rounding = 8 * torch.finfo(numbers.dtype).eps * second.norm(dim=-1, keepdim=True) + TINY
    y = _unit(rest, rounding, torch.linalg.cross(axes[x.abs().argmin(-1)], x))
    return torch.stack([x, y, torch.linalg.cross(x, y)], -1)


def _unit(vectors: Tensor, least: Tensor | float, otherwise: Tensor) -> Tensor:
    """…×3 at length 1; `otherwise` in their stead where they are no longer than `least`."""
    short = (vectors.norm(dim=-1, keepdim=True) <= least).detach()
    vectors = torch.where(short, otherwise.detach(), vectors)
    return vectors / vectors.norm(dim=-1, keepdim=True)


def to_6d(rotations: Tensor, order: Order = "columns") -> Tensor:
    """…×3×3 → …×6, what `from_6d` takes."""
    columns = rotations[..., :2]
    return (columns if order == "rows" else columns.mT).flatten(-2)
