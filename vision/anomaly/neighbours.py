"""How far the ViT features of a picture lie from those of good pictures.

The distance of a token to the nearest normal token is the oldest good score there is (SPADE, Cohen
& Hoshen 2020; PatchCore, Roth et al. 2022; AnomalyDINO, Damm et al. 2025 on DINOv2). On its own it
is the baseline "gated nearest neighbours"; with better distances it is EAR's second map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.functional import InterpolationMode, rotate

from vision.anomaly.detector import Detector
from vision.anomaly.level import moved, poses
from vision.anomaly.masking import AttentionMask
from vision.anomaly.memory import FeatureMemory
from vision.backbones import Backbone

FOLDS = 8
"""A few good pictures are left out in turn, in so many groups: the memory is filled for each."""
Look = tuple[list[Tensor], list[Tensor]]


class FeatureNeighbours(Detector):
    """Distance of every ViT token to the nearest normal one, kept only where attention is highest.

    Needs no training: `fit` fills the memory and calibrates. The defaults are the plain baseline.

    Args:
        backbone: a ViT with a class token.
        grids: tokens a side, one or more; each has a memory of its own, and their maps are
            averaged, since what is normal but rare rarely is so at two scales.
        blocks: whose tokens; several are normalised one by one and joined.
        gate: which tokens are remembered and scored, since the background of an object is not the
            part; from the attention on the first of `grids`. Default: a fifth of the tokens.
        capacity: vectors in the memory of each grid.
        pool: side in tokens of the square over which features are averaged first, odd; 1 for none
            (PatchCore's "locally aware" features have 3).
        size: side in pixels at which maps are scored.
        whiten, relative, dims: as in `FeatureMemory`.
        copies: 1, 4, 8 or 16: of each good picture itself, its turns by quarters, these mirrored,
            and all of that turned by an eighth are remembered.
        level: lay long parts level first (`vision.anomaly.level`), and turn their maps back; what
            is turned out of the frame is not looked at, and a picture in which no long part lies
            free is compared as it is. Copies are 1 or 4: as parts lie, turned by half, these
            mirrored.
        ensemble: a picture is looked at in as many copies itself, 8 at most, and its map is the
            mean of theirs.
    """

    def __init__(
        self,
        backbone: Backbone,
        grids: Sequence[int] = (32,),
        blocks: Sequence[int] = (6,),
        gate: AttentionMask | None = None,
        capacity: int = 98_304,
        size: int = 256,
        whiten: float = 0.0,
        relative: bool = False,
        pool: int = 1,
        dims: int = 128,
        copies: Literal[1, 4, 8, 16] = 1,
        level: bool = False,
        ensemble: bool = False,
    ) -> None:
        super().__init__()
        if copies not in (1, 4, 8, 16):
            raise ValueError(f"copies={copies}: give 1, 4, 8 or 16")
        if level and copies > 4:
            raise ValueError(f"copies={copies}: of parts that are laid level give 1 or 4")
        if ensemble and copies > 8:
            raise ValueError(f"copies={copies}: with ensemble give 1, 4 or 8")
        if not grids:
            raise ValueError("no grid of features; give one or more, say [32]")
        if pool < 1 or pool % 2 == 0:
            raise ValueError(f"pool={pool}: a square around a token has an odd side, say 3")
        self.backbone, self.grids, self.blocks = backbone, tuple(grids), tuple(blocks)
        self.gate = gate or AttentionMask(rule="quantile", keep=0.2, smooth=0, min_tokens=0)
        self.pool, self.copies, self.ensemble, self.level = pool, copies, ensemble, level
        self.quarters = (0, 2) if level else (0, 1, 2, 3)
        self.size, self.input_size = size, max(size, max(grids) * backbone.patch)
        self.map_names = ("features",)
        self.memories = nn.ModuleList(
            FeatureMemory(
                backbone.width(blocks), capacity, dims=dims, whiten=whiten, relative=relative
            )
            for _ in grids
        )

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        laid, places = self._laid(images)
        copies = self._copies(laid) if self.ensemble else [laid]
        return {"features": self._seen((self.look(copy) for copy in copies), places)}

    def compare(self, images: Tensor, others: Tensor) -> Tensor:
        """1 − cosine of the features of two pictures as they are, place by place: B×1×size×size."""
        vectors, wanted = self.look(images)
        again = [self._vectors(others, grid) for grid in self.grids]
        pairs = zip(vectors, again, wanted, strict=True)
        return self._joined([(1 - (v * w).sum(-1)).clamp_min(0) * on for v, w, on in pairs])

    def remember(self, batches: Iterable[Tensor]) -> None:
        self._fill([self.look(c) for c in self._copies(self._laid(b)[0])] for b in batches)

    def remember_few(self, batches: Iterable[Tensor]) -> list[dict[str, Tensor]]:
        laid = [self._laid(image[None]) for images in batches for image in images]
        looks = [[self._kept(copy) for copy in self._copies(image)] for image, _ in laid]
        places = [place for _, place in laid]
        if len(looks) == 1:  # its copies leave each other out
            looks, places = [[look] for look in looks[0]], places * self.copies
        if len(looks) == 1:
            raise ValueError("one good picture, of which copies=1 is remembered; give more of both")
        found = []
        for left in range(min(FOLDS, len(looks))):
            self._fill(own for i, own in enumerate(looks) if i % FOLDS != left)
            for own, place in zip(looks[left::FOLDS], places[left::FOLDS], strict=True):
                # A threshold takes four scores; the copies of a few pictures give them, and how
                # these lie does not matter for a score.
                few = len(looks) < 4
                judged = [[k] for k in own] if few else [own if self.ensemble else own[:1]]
                found += [{"features": self._seen(seen, place)} for seen in judged]
        self._fill(looks)
        return found

    def _laid(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pictures as they are looked at, and where that is, if they are moved."""
        if not self.level:
            return images, None
        side = (self.input_size, self.input_size)
        if images.shape[-2:] != side:
            images = F.interpolate(images, side, mode="bilinear", antialias=True)
        places = poses(images)
        return moved(images, places), places

    def _copies(self, images: Tensor) -> Iterator[Tensor]:
        return turned(images, self.copies, self.quarters)

    def _seen(self, looks: Iterable[Look], places: Tensor | None) -> Tensor:
        """The map of pictures, of looks at their copies in turn, as it lies on them."""
        maps = (self._far(*look) for look in looks)
        back = [_unturned(m, copy, self.quarters) for copy, m in enumerate(maps)]
        mean = torch.stack(back).mean(0)
        return mean if places is None else moved(mean, places.inverse(), "zeros")

    def _kept(self, images: Tensor) -> Look:
        """What is seen, in half the space."""
        vectors, wanted = self.look(images)
        return [v.half() for v in vectors], wanted

    def _fill(self, pictures: Iterable[Sequence[Look]]) -> None:
        """Batches of pictures, each as several copies, which count as one picture together:
        how near copies lie to each other does not say how good parts differ."""
        memories = [m for m in self.memories if isinstance(m, FeatureMemory)]
        for looks in pictures:
            for k, memory in enumerate(memories):
                for i in range(len(looks[0][0][k])):
                    seen = [vectors[k][i][wanted[k][i]] for vectors, wanted in looks]
                    memory.add(torch.cat(seen))
        for memory in memories:
            memory.settle()

    def _far(self, vectors: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
        """What `look` saw → B×1×size×size distances."""
        found = zip(self.memories, vectors, wanted, strict=True)
        return self._joined([memory(v, w) for memory, v, w in found])

    def region(self, images: Tensor) -> Tensor:
        laid, places = self._laid(images)
        gate = self.gate(self.backbone.attend(self.backbone.prepare(laid, self.grids[0]))[0])
        mask = F.interpolate(gate, laid.shape[-2:], mode="nearest")
        if places is None:
            return mask
        back = moved(mask, places.inverse(), "zeros").round()
        return F.interpolate(back, images.shape[-2:], mode="nearest")

    @torch.no_grad()
    def look(self, images: Tensor) -> Look:
        """For each grid: unit vectors B×N×C, and which of them pass the gate, B×N bool."""
        prepared = self.backbone.prepare(images, self.grids[0])
        attention, features = self.backbone.attend(prepared, blocks=self.blocks)
        further = [self._vectors(images, grid) for grid in self.grids[1:]]
        gate = self.gate(attention)  # B×1×h×w
        wanted = [F.interpolate(gate, (g, g)).flatten(1).bool() for g in self.grids]
        return [unit_vectors(features, self.pool), *further], wanted

    def _vectors(self, images: Tensor, grid: int) -> Tensor:
        prepared = self.backbone.prepare(images, grid)
        return unit_vectors(self.backbone.pyramid(prepared, self.blocks), self.pool)

    def _joined(self, distances: Sequence[Tensor]) -> Tensor:
        """Mean of the B×N maps of the grids, enlarged: B×1×size×size."""
        grids = zip(distances, self.grids, strict=True)
        return torch.stack([self.enlarge(d.view(-1, 1, g, g)) for d, g in grids]).mean(0)


def turned(images: Tensor, copies: int, quarters: Sequence[int] = (0, 1, 2, 3)) -> Iterator[Tensor]:
    """The first `copies` of: B×3×S×S turned by so many quarters, these mirrored, and all that
    turned by 45° first: of four quarters 4, 8, 16. What comes in at corners has the mean colour of
    the four.
    """
    count = len(quarters)
    for copy in range(copies):
        if copy == 2 * count:
            images = torch.stack([_slanted(image) for image in images])
        copied = images.rot90(quarters[copy % count], (2, 3))
        yield copied.flip(3) if copy // count % 2 else copied


def _unturned(maps: Tensor, copy: int, quarters: Sequence[int]) -> Tensor:
    """Of the copy of that number, below 2·quarters, as `turned` made it: as the picture lies."""
    upright = maps.flip(3) if copy // len(quarters) else maps
    return upright.rot90(-quarters[copy % len(quarters)], (2, 3))


def _slanted(image: Tensor) -> Tensor:
    """3×S×S turned by 45°."""
    fill = image[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean(1).tolist()
    return rotate(image, 45, InterpolationMode.BILINEAR, fill=fill)


def unit_vectors(features: Sequence[Tensor], pool: int = 1) -> Tensor:
    """Maps B×C×h×w of several blocks → B×(h·w)×ΣC, each block with the same say, length 1.

    With `pool`, each token's direction is the mean over the square of that side around it.
    """
    units = [F.normalize(f, dim=1) for f in features]
    if pool > 1:
        means = [F.avg_pool2d(u, pool, 1, pool // 2, count_include_pad=False) for u in units]
        units = [F.normalize(mean, dim=1) for mean in means]
    return torch.cat([u.flatten(2).transpose(1, 2) for u in units], dim=-1) / len(units) ** 0.5
