"""Attention within square windows, and a bias for every relative position in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def windows(x: Tensor, side: int) -> Tensor:
    """B×H×W×C → B×(H/side)×(W/side)×side×side×C, a view."""
    return x.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)


def split_heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """B×n×m×s×s×(parts·C) windows → parts×B×n×m×heads×s²×(C/heads)."""
    x = x.unflatten(-1, (parts, heads, -1))  # B×n×m×s×s×parts×heads×d
    return x.permute(5, 0, 1, 2, 6, 3, 4, 7).contiguous().flatten(5, 6)  # copied once


def merge(x: Tensor) -> Tensor:
    """B×n×m×heads×s²×d windows → B×(n·s)×(m·s)×(heads·d)."""
    side = int(x.shape[4] ** 0.5)
    x = x.unflatten(4, (side, side)).permute(0, 1, 4, 2, 5, 3, 6)  # B×n×s×m×s×heads×d
    return x.flatten(5).flatten(3, 4).flatten(1, 2)  # the first copies


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """softmax(scale·q·kᵀ + bias)·v over B×n×m×heads×s²×d; bias heads×s²×t², scale 1/√d."""
    shape = q.shape
    q, k, v = (t.flatten(0, 2) for t in (q, k, v))
    if bias is not None and bias.requires_grad and bias.device.type == "cpu":
        # torch has no fused kernel here for a bias that learns, and its fallback guards against
        # rows without a key, which windows do not have: half as fast
        scores = (q * (scale or q.shape[-1] ** -0.5)) @ k.mT
        return (scores.add_(bias).softmax(-1) @ v).view(shape)
    mask = None if bias is None else bias[None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).view(shape)


def position_bias(table: Tensor, index: Tensor) -> Tensor:
    """P×heads table, s²×t² index into it → heads×s²×t². Negative indices count from the end."""
    return table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1).contiguous()


def window_index(window: int) -> Tensor:
    """Which row of the bias table stands for each query and key of a window: s²×s²."""
    return _relative(window, window, 1 - window, 2 * window - 1, -1)


def overlap_index(window: int, wide: int) -> Tensor:
    """The same for the keys of the wide window: s²×t².

    The published offset lets the index begin below zero, where it counts from the end of the
    table. All relative positions still have a row of their own, so it is kept as it was trained.
    """
    return _relative(window, wide, wide - window - 1, window + wide - 1, 1)


def _relative(window: int, wide: int, least: int, columns: int, sign: int) -> Tensor:
    own, other = torch.arange(window), torch.arange(wide)
    step = sign * (other - own[:, None]) - least  # s×t
    index = step[:, None, :, None] * columns + step[None, :, None, :]  # s×s×t×t
    return index.reshape(window**2, wide**2)
