"""Attention within regions of any shape: a token sees the tokens of its own label, no others."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BATCHED = 256
"""Regions of up to so many tokens are padded to powers of two and attended many at a time, since
there the calls would cost more than the arithmetic; a larger one is attended alone."""


class Bucket(NamedTuple):
    """Regions attended together.

    Attributes:
        tokens: R×L, the numbers of the tokens of R regions; shorter regions are filled up.
        valid: R×L bool, false where filled up.
    """

    tokens: Tensor
    valid: Tensor


class Regions:
    """The tokens of a batch sorted by region: made once per picture, used by every layer.

    Args:
        labels: B×N integers ≥ 0. Pictures are apart even where they share a label.

    Attributes:
        buckets: all tokens, each once.
        order: B·N, where each token's result lies among those of the buckets.
    """

    def __init__(self, labels: Tensor) -> None:
        labels = labels.unique(return_inverse=True)[1]  # without gaps: they become lengths
        apart = labels + torch.arange(len(labels), device=labels.device)[:, None] * (
            labels.max() + 1
        )
        by_region = apart.flatten().argsort(stable=True)
        lengths = apart.flatten().bincount()
        lengths = lengths[lengths > 0]
        starts = lengths.cumsum(0) - lengths
        # The next power of two; a region that is attended alone keeps its length.
        padded = 2 ** (lengths - 1).clamp(min=1).log2().floor().add(1).long()
        padded = torch.where(lengths > BATCHED, lengths, padded)
        self.buckets: list[Bucket] = []
        for width in padded.unique().tolist():
            chosen = (padded == width).nonzero()[:, 0]
            for group in chosen.split(1 if width > BATCHED else max(1, 65_536 // width)):
                within = torch.arange(width, device=labels.device)
                valid = within < lengths[group, None]  # R×L
                places = starts[group, None] + within.minimum(lengths[group, None] - 1)
                self.buckets.append(Bucket(by_region[places], valid))
        done = torch.cat([bucket.tokens[bucket.valid] for bucket in self.buckets])
        self.order = done.argsort()


def region_attention(q: Tensor, k: Tensor, v: Tensor, regions: Regions, scale: float) -> Tensor:
    """Softmax attention of every token over the tokens of its region.

    The same function as dense attention whose logits between regions are −∞, at the cost of the
    sum of the squares of the regions' sizes in place of the square of the sum, and without ever
    holding a logit of the dense form.

    Args:
        q, k, v: B×N×heads×d.
        regions: of the same B×N tokens.
        scale: factor on the logits.

    Returns:
        B×N×heads×d.
    """
    flat = [x.flatten(0, 1) for x in (q, k, v)]  # B·N×heads×d
    done = []
    for tokens, valid in regions.buckets:
        mine, keys, values = (x[tokens].transpose(1, 2) for x in flat)  # R×heads×L×d
        mask = None if valid.all() else valid[:, None, None]
        attended = F.scaled_dot_product_attention(mine, keys, values, mask, scale=scale)
        done.append(attended.transpose(1, 2)[valid])
    return torch.cat(done)[regions.order].view_as(q)
