"""EAR, "Excision And Recovery": inspect by excising what a ViT attends to and recovering it.

arXiv 2310.04010 (Scientific Reports 14:18872, 2024). One deterministic mask from the attention of a
pretrained DINO-type ViT (`masking.py`) excises the suspected regions; the excised pixels are not
emptied but mosaicked, as a hint; a plain U-Net (`unet.py`) recovers the picture; where picture and
recovery differ in structure, the part is suspect. One ViT pass and one U-Net pass per picture.

Beyond the paper: a second map, the distance of the picture's ViT features to those of good
pictures (`neighbours.py`) or of its own recovery.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.anomaly.detector import Detector, Recovery
from vision.anomaly.masking import AttentionMask
from vision.anomaly.neighbours import FeatureNeighbours
from vision.anomaly.unet import UNet
from vision.backbones import Backbone
from vision.losses import msgms

# Masks kept while training, a kilobyte each; augmentation makes a new picture of every move.
KNOWN_MASKS = 32_768


class EAR(Detector):
    """Mask from attention → hint → U-Net → maps.

    What the paper leaves open and we chose, with reasons in `AttentionMask` and docs/anomaly.md:
    ViT and block, head handling, mask rule, mosaic scale, U-Net widths, score.

    Args:
        backbone: a frozen ViT with a class token.
        mask: the rule from attention to mask; default `AttentionMask()`.
        unet: a preset of `UNet`: `full`, `small` or `tiny`.
        hint: what stands in the excised region: `mosaic` (the paper's) or `empty` (zeros, what EAR
            is compared with).
        cell: side in pixels of a mosaic cell, a power of two; `None` takes it from the mask.
        features: the second map: `memory` (distance to the features of good pictures), `recovery`
            (to those of the picture's own recovery, place by place) or `none`.
        size: side in pixels at which the U-Net works and maps are scored.
        mask_grid: tokens a side for the attention.
        feature_grids, feature_mask, blocks, capacity, feature_pool: as `grids`, `gate`, `blocks`,
            `capacity` and `pool` of `FeatureNeighbours`. By default the gate is the rule of the
            mask, on attention of a finer grid. Pooling over 3 tokens is better for textures and
            worse for objects (docs/anomaly.md).
    """

    def __init__(
        self,
        backbone: Backbone,
        mask: AttentionMask | None = None,
        unet: str = "full",
        hint: Literal["mosaic", "empty"] = "mosaic",
        cell: int | None = None,
        features: Literal["memory", "recovery", "none"] = "memory",
        size: int = 256,
        mask_grid: int = 16,
        feature_grids: Sequence[int] = (32, 48),
        feature_mask: AttentionMask | None = None,
        blocks: Sequence[int] = (6, 8),
        capacity: int = 131_072,
        feature_pool: int = 1,
    ) -> None:
        super().__init__()
        if hint not in ("mosaic", "empty"):
            raise ValueError(f"hint={hint}: choose mosaic or empty")
        if features not in ("memory", "recovery", "none"):
            raise ValueError(f"features={features}: choose memory, recovery or none")
        if cell is not None and (cell < 1 or cell & (cell - 1)):
            raise ValueError(f"cell={cell}: a mosaic cell is a power of two in pixels, say 16")
        self.backbone = backbone
        self.mask = mask or AttentionMask()
        self.unet = UNet(unet)
        if size % self.unet.multiple:
            raise ValueError(
                f"size={size}: the U-Net needs a multiple of {self.unet.multiple}, say 256"
            )
        self.hint, self.cell, self.features = hint, cell, features
        self.size, self.mask_grid = size, mask_grid
        self.input_size, self.map_names = max(size, mask_grid * backbone.patch), ("structure",)
        self._known_masks: dict[bytes, Tensor] = {}  # by the digest of the picture
        self.neighbours: FeatureNeighbours | None = None
        if features != "none":
            self.neighbours = FeatureNeighbours(
                backbone,
                feature_grids,
                blocks,
                feature_mask or AttentionMask(),
                capacity,
                size,
                whiten=0.5,
                relative=True,
                pool=feature_pool,
                dims=64,
            )
            self.input_size = max(self.input_size, self.neighbours.input_size)
            self.map_names = ("structure", "features")

    def recover(self, images: Tensor) -> Recovery:
        """B×3×H×W → the U-Net's recovery of the excised pictures, and what it should be."""
        image = F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)
        excised = excise(image, self._mask(images), self.hint, self.cell)
        return Recovery(self.unet(excised), image)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """`structure`: MSGMS between picture and recovery; `features`: the second map."""
        recovery = self.recover(images)
        maps = {"structure": msgms(recovery.recovered, recovery.image)}
        if self.neighbours and self.features == "memory":
            maps |= self.neighbours.maps(images)
        elif self.neighbours:
            again = recovery.recovered.clamp(0, 1)
            # Both at the size of the recovery: its being smaller is no defect.
            maps["features"] = self.neighbours.compare(recovery.image, again)
        return maps

    def remember(self, batches: Iterable[Tensor]) -> None:
        if self.neighbours and self.features == "memory":
            self.neighbours.remember(batches)

    def region(self, images: Tensor) -> Tensor:
        return F.interpolate(self._mask(images), images.shape[-2:], mode="nearest")

    def _mask(self, images: Tensor) -> Tensor:
        """B×1×g×g mask on the grid of attention.

        A frozen ViT says the same of a picture in every epoch, and on a CPU its pass takes a third
        of a training step, so there each picture's mask is worked out once. A GPU is faster asked
        again, with the whole batch.
        """
        if not (self.training and self.backbone.frozen and images.device.type == "cpu"):
            return self._attended(images)
        masks = []
        for image in images.split(1):
            key = hashlib.blake2b(image.contiguous().numpy(), digest_size=16).digest()
            if key not in self._known_masks:
                if len(self._known_masks) >= KNOWN_MASKS:
                    self._known_masks.clear()
                self._known_masks[key] = self._attended(image)
            masks.append(self._known_masks[key])
        return torch.cat(masks)

    @torch.no_grad()
    def _attended(self, images: Tensor) -> Tensor:
        return self.mask(self.backbone.attend(self.backbone.prepare(images, self.mask_grid))[0])


def excise(
    image: Tensor, mask: Tensor, hint: Literal["mosaic", "empty"], cell: int | None
) -> Tensor:
    """Replace the masked pixels by their hint.

    Args:
        image: B×3×S×S.
        mask: B×1×h×w in {0, 1} on the grid of tokens.
        hint: `mosaic` or `empty`.
        cell: mosaic cell in pixels, or None to take it from each mask.

    Returns:
        B×3×S×S.
    """
    wide = F.interpolate(mask, image.shape[-2:], mode="nearest")
    if hint == "empty":
        return image * (1 - wide)
    cells = [cell] * len(image) if cell else [cell_of(m, image.shape[-1]) for m in mask]
    hinted = torch.stack([mosaic(x, c) for x, c in zip(image, cells, strict=True)])
    return torch.where(wide.bool(), hinted, image)


def mosaic(image: Tensor, cell: int) -> Tensor:
    """3×H×W → the same, every cell×cell block replaced by its mean; ragged at the far edges."""
    means = F.avg_pool2d(image[None], cell, ceil_mode=True, count_include_pad=False)
    blocks = F.interpolate(means, scale_factor=float(cell), mode="nearest")
    return blocks[0, :, : image.shape[1], : image.shape[2]]


def cell_of(mask: Tensor, size: int, smallest: int = 4, largest: int = 32) -> int:
    """Mosaic cell for a mask: a power of two, about a twentieth of the side of the masked area.

    Our reading of "scale from the mask": the hint shall leave some twenty cells across what was
    excised, few enough to hide a defect and enough to say how the part lies; docs/anomaly.md has
    the measurement.
    """
    side = size * float(mask.mean()) ** 0.5
    cell = smallest
    while cell < largest and cell * 2 <= side / 20:
        cell *= 2
    return cell
