"""Rotations in six numbers, in the two orders that published nets use."""

from __future__ import annotations

from typing import Literal

import roma
from torch import Tensor

Order = Literal["columns", "rows"]
"""Where the six numbers of a rotation stand (Zhou et al., CVPR 2019: the first two columns of its
matrix): `rows` takes these two columns row by row (SPIN, OSX: view(−1, 3, 2)), `columns` one after
the other (Multi-HMR: reshape(−1, 2, 3) transposed)."""


def from_6d(numbers: Tensor, order: Order = "columns") -> Tensor:
    """…×6, any numbers → …×3×3 rotations, by Gram and Schmidt."""
    if order == "rows":
        columns = numbers.unflatten(-1, (3, 2))
    else:
        columns = numbers.unflatten(-1, (2, 3)).mT
    return roma.special_gramschmidt(columns)


def to_6d(rotations: Tensor, order: Order = "columns") -> Tensor:
    """…×3×3 → …×6, what `from_6d` takes."""
    columns = rotations[..., :2]
    return (columns if order == "rows" else columns.mT).flatten(-2)
