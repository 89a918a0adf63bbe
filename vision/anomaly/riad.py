"""RIAD, reconstruction by inpainting (Zavrtanik et al., Pattern Recognition 2021): the yardstick.

For each region size k the picture is cut into k×k cells, which are dealt at random into three
disjoint sets; each set in turn is emptied and inpainted, and the three inpaintings are put
together. Four region sizes and three sets: 12 U-Net passes per picture, where EAR needs one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.anomaly.detector import Detector, Recovery
from vision.anomaly.unet import UNet
from vision.losses import msgms


class RIAD(Detector):
    """Random disjoint masks → U-Net → mean MSGMS over the region sizes.

    Args:
        unet: a preset of `UNet`.
        regions: sides k of the cells in pixels.
        sets: disjoint sets per region size.
        size: side in pixels of the pictures.
        seed: of the masks at inspection, so that two runs agree; training draws fresh ones from
            torch's global generator, which `seed_everything` sets.
        sets_per_step: how many of the sets a training step inpaints, each a U-Net pass; the rest of
            the picture is then given. All of them is RIAD's; fewer gives it the passes of EAR.
    """

    def __init__(
        self,
        unet: str = "full",
        regions: Sequence[int] = (2, 4, 8, 16),
        sets: int = 3,
        size: int = 256,
        seed: int = 0,
        sets_per_step: int = 3,
    ) -> None:
        super().__init__()
        self.unet = UNet(unet)
        if any(size % k for k in regions) or size % self.unet.multiple:
            raise ValueError(f"size={size}: must divide by the regions {regions} and by 8, say 256")
        if not 1 <= sets_per_step <= sets:
            raise ValueError(f"sets_per_step={sets_per_step}: choose 1 to sets={sets}")
        self.regions, self.sets, self.size, self.seed = tuple(regions), sets, size, seed
        self.sets_per_step = sets_per_step
        self.input_size, self.map_names = size, ("structure",)

    def recover(self, images: Tensor) -> Recovery:
        """Inpaint with one region size drawn for the batch; a U-Net pass per set."""
        image = self._resize(images)
        region = self.regions[int(torch.randint(len(self.regions), ()))]
        return Recovery(self._inpaint(image, region, None, self.sets_per_step), image)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        image = self._resize(images)
        generator = torch.Generator().manual_seed(self.seed)
        per_region = [msgms(self._inpaint(image, k, generator), image) for k in self.regions]
        return {"structure": torch.stack(per_region).mean(0)}

    def _resize(self, images: Tensor) -> Tensor:
        return F.interpolate(images, (self.size, self.size), mode="bilinear", antialias=True)

    def _inpaint(
        self, image: Tensor, region: int, generator: torch.Generator | None, sets: int | None = None
    ) -> Tensor:
        side = self.size // region
        deal = torch.randperm(side * side, generator=generator) % self.sets  # cell → its set
        cells = deal.view(1, 1, side, side).to(image.device)
        owner = F.interpolate(cells.float(), scale_factor=float(region), mode="nearest")
        inpainted = image
        for s in range(sets or self.sets):
            hole = owner == s
            inpainted = torch.where(hole, self.unet(image * ~hole).to(image), inpainted)
        return inpainted
