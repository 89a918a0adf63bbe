"""The decoder guided by keypoints of OSX: queries at points, deformable attention around them.

In plain PyTorch. Lin et al. (CVPR 2023), 3.3; Zhu et al., "Deformable DETR" (ICLR 2021).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeformableAttention(nn.Module):
    """Each head looks at a few points around the query's own, in maps of all levels.

    Zhu et al., "Deformable DETR" (ICLR 2021). As in Poseur (Mao et al., ECCV 2022), values are
    projected after they are summed, which is cheaper where queries are few.
    """

    def __init__(self, dim: int = 256, heads: int = 8, levels: int = 3, points: int = 4) -> None:
        super().__init__()
        self.layout = (heads, levels, points)
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_weight = nn.Parameter(torch.empty(heads * dim, dim // heads))
        self.value_bias = nn.Parameter(torch.zeros(heads, dim // heads))
        self.output_proj = nn.Linear(dim, dim)
        # Deformable DETR's start: each head looks its own way, all points count alike. The released
        # code overwrites it by noise around zero.
        turn = torch.arange(heads) * (2 * math.pi / heads)
        way = torch.stack([turn.cos(), turn.sin()], -1)
        way = way / way.abs().amax(-1, keepdim=True)
        steps = way[:, None, None] * torch.arange(1, points + 1)[:, None]  # heads×1×points×2
        for zero in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(zero)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(steps.expand(-1, levels, -1, -1).flatten())
        nn.init.xavier_uniform_(self.value_weight)

    def forward(self, query: Tensor, maps: list[Tensor], at: Tensor) -> Tensor:
        """N×Q×C queries, square maps N×C×s×s, N×Q×2 places in [0, 1] → N×Q×C."""
        heads, _, points = self.layout
        offsets = self.sampling_offsets(query).unflatten(-1, (*self.layout, 2))
        weights = self.attention_weights(query).unflatten(-1, (heads, -1)).softmax(-1)
        seen = []
        for level, map_ in enumerate(maps):
            places = at[:, :, None, None] + offsets[:, :, :, level] / map_.shape[-1]
            grid = (2 * places - 1).flatten(2, 3)  # N×Q×(heads·points)×2
            values = F.grid_sample(map_, grid, align_corners=False)
            seen.append(values.unflatten(3, (heads, points)))
        summed = torch.einsum("ncqhp,nqhp->nqhc", torch.cat(seen, -1), weights)
        value_weight = self.value_weight.unflatten(0, (heads, -1))
        out = torch.einsum("nqhc,hco->nqho", summed, value_weight) + self.value_bias
        return self.output_proj(out.flatten(2))


class DecoderLayer(nn.Module):
    """Queries see each other, then the maps around them; norms after the skips."""

    def __init__(self, dim: int, drop: float = 0.1) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, 8, drop, batch_first=True)
        self.deformable = DeformableAttention(dim)
        first, last = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.ffn = nn.Sequential(first, nn.ReLU(), nn.Dropout(drop), last)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor, own: Tensor, maps: list[Tensor], at: Tensor) -> Tensor:
        """N×Q×C, Q×C that tell the queries apart, maps, N×Q×2 → N×Q×C."""
        named = x + own
        x = self.norms[0](x + self.drop(self.attention(named, named, x, need_weights=False)[0]))
        x = self.norms[1](x + self.drop(self.deformable(x + own, maps, at)))
        return self.norms[2](x + self.drop(self.ffn(x)))


class Decoder(nn.Module):
    """Queries at keypoints ask maps of three levels; where they look from stays where it was."""

    def __init__(self, width: int, points: int, depth: int = 6, dim: int = 256) -> None:
        super().__init__()
        self.neck = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width // part, dim, 1, bias=False), nn.GroupNorm(32, dim))
            for part in (4, 2, 1)
        )
        # Of the published layout: the last of the four is unused.
        self.level_embeds = nn.Parameter(torch.randn(4, dim))
        self.pos_embed = nn.Embedding(points, dim)
        self.layers = nn.ModuleList(DecoderLayer(dim) for _ in range(depth))

    def forward(self, maps: list[Tensor], queries: Tensor, at: Tensor) -> Tensor:
        """Maps N×C×s×s, N×Q×256 queries at N×Q×2 in [0, 1] → N×Q×256."""
        memory = []
        for net, map_, level in zip(self.neck, maps, self.level_embeds[:3], strict=True):
            memory.append(net(map_) + sines(map_, 128) + level[:, None, None])
        for layer in self.layers:
            queries = layer(queries, self.pos_embed.weight, memory, at)
        return queries


def sines(maps: Tensor, half: int) -> Tensor:
    """For square maps …×s×s: 2·half×s×s, sines and cosines of the row, then of the column."""
    side = maps.shape[-1]
    at = (torch.arange(side, device=maps.device) + 0.5) / (side + 1e-6) * 2 * math.pi
    angle = at[:, None] / 10000 ** (torch.arange(0, half, 2, device=maps.device) / half)
    line = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)  # s×half
    down, across = line[:, None].expand(-1, side, -1), line.expand(side, -1, -1)
    return torch.cat([down, across], -1).movedim(-1, 0)
