"""A bounded memory of normal feature vectors, and the distance to the nearest of them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import starmap

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from vision.layers.precision import exact


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
        whiten: 0 keeps the components as they are, 1 gives all of them the same spread, and what
            lies between goes part of the way.
        relative: a distance is less the spacing of its neighbour, which is the mean distance of
            that to the nearest three vectors of other pictures. Where good parts differ much from
            each other (a thread, a highlight), a part may differ from them as much and be good.
    """

    bank: Tensor
    spacing: Tensor
    centre: Tensor
    basis: Tensor

    def __init__(
        self,
        channels: int,
        capacity: int = 98_304,
        seed: int = 0,
        dims: int = 128,
        whiten: float = 0.0,
        relative: bool = False,
    ) -> None:
        super().__init__()
        if capacity < 1 or dims < 1:
            raise ValueError(
                f"capacity={capacity}, dims={dims}: the memory must hold something; give 1 or more"
            )
        if not 0 <= whiten <= 1:
            raise ValueError(f"whiten={whiten}: give a value from 0 to 1")
        self.channels, self.capacity, self.seed = channels, capacity, seed
        self.dims, self.whiten, self.relative = min(dims, channels), whiten, relative
        self.register_buffer("bank", torch.zeros(0, self.dims, dtype=torch.float16))
        self.register_buffer("spacing", torch.zeros(0))
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("basis", torch.eye(channels, self.dims))
        self._draw: _Draw | None = None

    def fill(self, pictures: Iterable[Tensor]) -> None:
        """`add` each picture's vectors, then `settle`."""
        for vectors in pictures:
            self.add(vectors)
        self.settle()

    def add(self, vectors: Tensor) -> None:
        """Offer the N×C unit vectors of one picture; the first after `settle` begins anew."""
        self._draw = self._draw or _Draw(self.capacity, self.seed)
        self._draw.add(vectors)

    def settle(self) -> None:
        """Turn what was drawn from the pictures into the memory.

        Raises:
            ValueError: no vector came.
        """
        drawn, owner = self._draw.result() if self._draw else (torch.zeros(0), torch.zeros(0))
        self._draw = None
        if not len(drawn):
            raise ValueError("the feature memory saw no good picture; give at least one")
        if self.dims < self.channels or self.whiten:
            few = drawn[:: max(1, len(drawn) // (16 * self.channels))].cpu().double()
            centre = few.mean(0)
            self.centre.copy_(centre)
            found = torch.linalg.eigh((few - centre).T @ (few - centre))  # C×C, ascending
            variance = found.eigenvalues.flip(0)[: self.dims].clamp_min(1e-12)
            scale = (variance / variance.mean()).clamp_min(1e-4) ** (-self.whiten / 2)
            self.basis.copy_(found.eigenvectors.flip(1)[:, : self.dims] * scale)
        self.bank = torch.cat([self._project(part) for part in drawn.split(8192)]).half()
        self.spacing = torch.zeros(len(self.bank), device=self.bank.device)
        if self.relative:
            self._measure_spacing(owner)

    def forward(self, vectors: Tensor, wanted: Tensor | None = None) -> Tensor:
        """B×N×C unit vectors → B×N distances ≥ 0 to the nearest normal one, 0 where not `wanted`.

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
        with exact(vectors.device):
            bank = self.bank.float()
            lengths = bank.square().sum(1)
            for row, picture, chosen in zip(distances, vectors, wanted, strict=True):
                own = self._project(picture[chosen])
                # In parts, since all tokens against all vectors would take 400 MB.
                parts = [
                    torch.addmm(lengths, part, bank.T, alpha=-2).min(1) for part in own.split(128)
                ]
                nearest = torch.cat([part.values for part in parts]) + own.square().sum(1)
                spacing = self.spacing[torch.cat([part.indices for part in parts])]
                row[chosen] = (nearest.clamp_min(0) / 2 - spacing).clamp_min(0)
        return distances

    def _measure_spacing(self, owner: Tensor) -> None:
        """Mean distance of each vector to the nearest three of other pictures; 0 without any."""
        bank = self.bank.float()
        lengths = bank.square().sum(1)
        console = Console(stderr=True)
        # The vectors of a picture follow each other.
        ends = owner.unique_consecutive(return_counts=True)[1].cumsum(0).tolist()
        steps = track(
            [*zip([0, *ends], ends, strict=False)],
            "comparing good parts",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        with exact(bank.device):
            for own in starmap(slice, steps):
                for rows in torch.arange(own.start, own.stop, device=bank.device).split(256):
                    apart = torch.addmm(lengths, bank[rows], bank.T, alpha=-2)
                    apart[:, own] = torch.inf
                    near = apart.topk(min(3, len(bank)), dim=1, largest=False).values
                    near = (near + lengths[rows, None]).clamp_min(0) / 2
                    there = near.isfinite()
                    self.spacing[rows] = near.where(there, 0).sum(1) / there.sum(1).clamp_min(1)

    def _project(self, vectors: Tensor) -> Tensor:
        return (vectors.float() - self.centre) @ self.basis

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: object) -> None:
        if f"{prefix}bank" in state:  # the number of vectors is data, not architecture
            self.bank = self.bank.new_empty(len(state[f"{prefix}bank"]), self.dims)
            self.spacing = self.spacing.new_empty(len(self.bank))
        super()._load_from_state_dict(state, prefix, *args)


class _Draw:
    """A uniform draw of at most `capacity` vectors from a stream, in bounded space.

    Every vector gets a random key, and those with the smallest keys stay (reservoir sampling), so
    the draw is uniform, and the same however the stream is cut into pictures.
    """

    def __init__(self, capacity: int, seed: int) -> None:
        self.capacity, self.pictures, self.waiting = capacity, 0, 0
        self.generator = torch.Generator().manual_seed(seed)
        self.vectors: list[Tensor] = []  # N×C each
        self.keys: list[Tensor] = []
        self.owners: list[Tensor] = []  # the number of the picture

    def add(self, vectors: Tensor) -> None:
        self.vectors.append(vectors.half())
        self.keys.append(torch.rand(len(vectors), generator=self.generator))
        self.owners.append(torch.full((len(vectors),), self.pictures))
        self.pictures += 1
        self.waiting += len(vectors)
        if self.waiting > self.capacity // 4 + 1:  # not after every picture: it copies everything
            self._thin()

    def result(self) -> tuple[Tensor, Tensor]:
        """The vectors N×C and their owners N, on the device of the vectors."""
        self._thin()
        return self.vectors[0], self.owners[0].to(self.vectors[0].device)

    def _thin(self) -> None:
        vectors, keys, owners = (torch.cat(x) for x in (self.vectors, self.keys, self.owners))
        if len(keys) > self.capacity:
            kept = keys.topk(self.capacity, largest=False).indices.sort().values
            vectors, keys, owners = vectors[kept.to(vectors.device)], keys[kept], owners[kept]
        self.vectors, self.keys, self.owners, self.waiting = [vectors], [keys], [owners], 0
