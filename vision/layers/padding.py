"""Padding that works for any size, also where a picture is smaller than what is added."""

from __future__ import annotations

import torch
from torch import Tensor


def mirror_pad(images: Tensor, multiple: int, least: int = 0) -> Tensor:
    """B×C×H×W → the same, continued below and to the right.

    To multiples of `multiple` that are no less than `least`. Mirrored without repeating the edge,
    as torch's `reflect`, which refuses to add more than a picture has; here the mirror image is
    mirrored again, as often as it takes.
    """
    for dim in (-2, -1):
        side = images.shape[dim]
        padded = -(-max(side, least) // multiple) * multiple
        if side < padded:
            wanted = torch.arange(padded, device=images.device)
            period = max(1, 2 * (side - 1))
            wanted = wanted % period
            images = images.index_select(dim, wanted.minimum((period - wanted).clamp(max=side - 1)))
    return images
