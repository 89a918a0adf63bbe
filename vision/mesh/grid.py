"""People as cells of a grid: which cell answers for whom, and which cells say that one is there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Cells = tuple[Tensor, Tensor, Tensor]
"""N cells: which picture of the batch, row, column; int64."""


def peaks(scores: Tensor, threshold: float, kernel: int, most: int | None = None) -> Cells:
    """Cells of B×h×w scores of at least `threshold` that no cell within the kernel exceeds.

    Picture by picture, in reading order; of each the `most` highest.
    """
    highest = F.max_pool2d(scores[:, None], kernel, stride=1, padding=kernel // 2)[:, 0]
    kept = torch.where(scores == highest, scores, -torch.inf).flatten(1)
    if most is not None and most < kept.shape[1]:
        least = kept.topk(most, dim=1).values[:, -1:]
        kept = torch.where(kept >= least, kept, -torch.inf)
    picture, cell = torch.where(kept >= threshold)
    return picture, cell // scores.shape[2], cell % scores.shape[2]


def assign(
    picture: Tensor, anchor: Tensor, box: Tensor, grid: int, step: float
) -> tuple[Cells, Tensor]:
    """Cells of true people by where an anchor of theirs lies.

    Args:
        picture: N, of the batch.
        anchor: N×2 in pixels.
        box: N×4 left, top, right, bottom in pixels; of two people in a cell, the larger one is
            answered for.
        grid: cells a side.
        step: pixels of a cell.

    Returns:
        Cells, and the indices of the people they are of; who has none is left out.
    """
    column, row = (anchor / step).floor().long().unbind(-1)
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    inside = (column >= 0) & (column < grid) & (row >= 0) & (row < grid)
    order = torch.argsort(area, descending=True, stable=True)
    taken: set[tuple[int, int, int]] = set()
    kept = []
    for i in order.tolist():
        cell = (int(picture[i]), int(row[i]), int(column[i]))
        if inside[i] and cell not in taken:
            taken.add(cell)
            kept.append(i)
    chosen = torch.tensor(sorted(kept), dtype=torch.long, device=picture.device)
    return (picture[chosen], row[chosen], column[chosen]), chosen
