"""A bounded memory of normal ViT features, and a detector that is nothing but that.

The distance of a token to the nearest normal token is the oldest good score there is (SPADE, Cohen
& Hoshen 2020; PatchCore, Roth et al. 2022; AnomalyDINO, Damm et al. 2025 on DINOv2). Here it is
EAR's second map, and on its own the baseline "gated nearest neighbours".
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.anomaly.detector import Detector
from vision.backbones import Backbone


class FeatureMemory(nn.Module):
    """At most `capacity` normal feature vectors, and the distance to the nearest of them.

    Vectors are turned into their `dims` leading principal components, where three times as many fit
    into the same time and space, which measured better than the full length (docs/anomaly.md). They
    are kept in float16: 25 MB at the defaults, whatever the size of the training set. Which ones
    are kept is a uniform draw, fixed by the seed: our choice over a greedy coreset, which costs
    hours on a CPU at this capacity.

    Args:
        channels: length of a vector.
        capacity: vectors kept.
        seed: of the draw.
        dims: principal components kept; no more than `channels` are.
    """

    bank: Tensor
    centre: Tensor
    basis: Tensor

    def __init__(
        self, channels: int, capacity: int = 98_304, seed: int = 0, dims: int = 128
    ) -> None:
        super().__init__()
        if capacity < 1 or dims < 1:
            raise ValueError(
                f"capacity={capacity}, dims={dims}: the memory must hold something; give 1 or more"
            )
        self.channels, self.capacity, self.seed = channels, capacity, seed
        self.dims = min(dims, channels)
        self.register_buffer("bank", torch.zeros(0, self.dims, dtype=torch.float16))
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("basis", torch.eye(channels, self.dims))

    def fill(self, batches: Iterable[Tensor]) -> None:
        """Draw the memory from batches of N×C unit vectors, in one pass and bounded space.

        Every vector gets a random key, and those with the smallest keys stay (reservoir sampling),
        so the draw is uniform whatever the number of batches.

        Raises:
            ValueError: no vector came.
        """
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.zeros(0, self.channels, dtype=torch.float16, device=self.bank.device)
        keys = torch.zeros(0)
        for vectors in batches:
            keys = torch.cat([keys, torch.rand(len(vectors), generator=generator)])
            drawn = torch.cat([drawn, vectors.to(drawn)])
            if len(keys) > self.capacity:
                keys, kept = keys.topk(self.capacity, largest=False, sorted=False)
                drawn = drawn[kept.to(drawn.device)]
        if not len(drawn):
            raise ValueError("the feature memory saw no good picture; give at least one")
        if self.dims < self.channels:
            few = drawn[:: max(1, len(drawn) // (16 * self.channels))].cpu().double()
            centre = few.mean(0)
            self.centre.copy_(centre)
            spread = (few - centre).T @ (few - centre)  # C×C
            self.basis.copy_(torch.linalg.eigh(spread).eigenvectors.flip(1)[:, : self.dims])
        self.bank = torch.cat([self._project(part) for part in drawn.split(8192)]).half()

    def forward(self, vectors: Tensor, wanted: Tensor | None = None) -> Tensor:
        """B×N×C unit vectors → B×N distances to the nearest normal vector, 0 where not `wanted`.

        The distance is half the squared Euclidean one, which for unit vectors of full length is
        1 − cosine. One product per picture, in float32: half precision rounds exactly where the
        nearest neighbours lie, and a product over the batch would round differently for each size.

        Raises:
            ValueError: the memory is empty.
        """
        if not len(self.bank):
            raise ValueError("the feature memory is empty; run `train.py fit` first")
        if wanted is None:
            wanted = torch.ones(vectors.shape[:2], dtype=torch.bool, device=vectors.device)
        distances = torch.zeros(vectors.shape[:2], device=vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):
            bank = self.bank.float()
            lengths = bank.square().sum(1)
            for row, picture, chosen in zip(distances, vectors, wanted, strict=True):
                own = self._project(picture[chosen])
                # In parts, since all tokens against all vectors would take 400 MB.
                nearest = torch.cat(
                    [
                        torch.addmm(lengths, part, bank.T, alpha=-2).amin(1)
                        for part in own.split(128)
                    ]
                )
                row[chosen] = (own.square().sum(1) + nearest).clamp_min(0) / 2
        return distances

    def _project(self, vectors: Tensor) -> Tensor:
        return (vectors.float() - self.centre) @ self.basis

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: object) -> None:
        if f"{prefix}bank" in state:  # the number of vectors is data, not architecture
            self.bank = self.bank.new_empty(len(state[f"{prefix}bank"]), self.dims)
        super()._load_from_state_dict(state, prefix, *args)


class FeatureNeighbours(Detector):
    """Distance of every ViT token to the nearest normal one, kept only where attention is highest.

    Needs no training: `fit` fills the memory and calibrates.

    Args:
        backbone: a ViT with a class token.
        grid: tokens a side.
        blocks: whose tokens; several are normalised one by one and joined.
        gate: share of the tokens, by CLS attention, whose distance counts, in (0, 1]; 1 keeps all.
        capacity: vectors in the memory.
        size: side in pixels at which maps are scored.
    """

    def __init__(
        self,
        backbone: Backbone,
        grid: int = 32,
        blocks: Sequence[int] = (6,),
        gate: float = 0.2,
        capacity: int = 98_304,
        size: int = 256,
    ) -> None:
        super().__init__()
        if not 0 < gate <= 1:
            raise ValueError(f"gate={gate}: give a share of the tokens in (0, 1], say 0.2")
        self.backbone, self.grid, self.blocks, self.gate = backbone, grid, tuple(blocks), gate
        self.size, self.input_size = size, max(size, grid * backbone.patch)
        self.map_names = ("features",)
        self.memory = FeatureMemory(backbone.width(blocks), capacity)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        attention, vectors = self._look(images)
        distances = self.memory(vectors, attended(attention, self.grid, self.gate))  # B×N
        return {"features": self.enlarge(distances.view(len(images), 1, self.grid, self.grid))}

    def remember(self, batches: Iterable[Tensor]) -> None:
        self.memory.fill(self._kept(images) for images in batches)

    def region(self, images: Tensor) -> Tensor:
        attention, _ = self._look(images)
        seen = attended(attention, self.grid, self.gate).float()
        grid = seen.view(-1, 1, self.grid, self.grid)
        return F.interpolate(grid, images.shape[-2:], mode="nearest")

    def _kept(self, images: Tensor) -> Tensor:
        attention, vectors = self._look(images)
        return vectors[attended(attention, self.grid, self.gate)]

    def _look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        prepared = self.backbone.prepare(images, self.grid)
        attention, features = self.backbone.attend(prepared, blocks=self.blocks)
        return attention, unit_vectors(features)


def unit_vectors(features: Sequence[Tensor]) -> Tensor:
    """Maps B×C×h×w of several blocks → B×(h·w)×ΣC, each block with the same say, length 1."""
    units = [F.normalize(f.flatten(2).transpose(1, 2), dim=-1) for f in features]
    return torch.cat(units, dim=-1) / len(units) ** 0.5


def attended(attention: Tensor, grid: int, share: float) -> Tensor:
    """B×heads×h×w attention → B×(grid²) bool: the tokens with the highest mean attention."""
    seen = attention.float().mean(1, keepdim=True)
    if seen.shape[-1] != grid:
        seen = F.interpolate(seen, (grid, grid), mode="bilinear", align_corners=False)
    flat = seen.flatten(1)
    count = max(1, round(share * flat.shape[1]))
    chosen = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, chosen, True)
