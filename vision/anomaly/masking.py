"""The one deterministic mask of EAR: where the class token of a DINO-type ViT looks.

EAR, "Excision And Recovery" (arXiv 2310.04010), excises the regions to which an ImageNet-pretrained
DINO-ViT attends. The paper leaves the rule from attention to mask open; every parameter here is the
project's own choice, with its reason beside it; docs/anomaly.md has the measurement of the rule.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.layers.precision import exact


class AttentionMask(nn.Module):
    """CLS attention → binary mask of what to excise.

    Args:
        heads: how the heads become one map. `mean` is the default: single heads of DINOv2 may look
            at the background only, and the mean outvotes them.
        rule: `mass` keeps the fewest tokens that together hold the share `keep` of the attention;
            `quantile` keeps the share `keep` of the tokens. `mass` is the default because it holds
            for objects and textures: attention gathered on an object gives a mask of the object,
            attention spread over a texture gives a mask of most of the picture. (DINO's own figures
            draw attention in the same way.)
        keep: share of attention (`mass`) or of tokens (`quantile`), in (0, 1].
        smooth: standard deviation in tokens of a Gaussian over the attention before the rule; it
            closes holes, since the attention of single tokens is noisy.
        min_tokens: components (8-connected) of fewer tokens are dropped.
        grow: tokens by which what is left is widened on all sides.
    """

    def __init__(
        self,
        heads: Literal["mean", "max"] = "mean",
        rule: Literal["mass", "quantile"] = "mass",
        keep: float = 0.8,
        smooth: float = 0.7,
        min_tokens: int = 2,
        grow: int = 0,
    ) -> None:
        super().__init__()
        if heads not in ("mean", "max"):
            raise ValueError(f"heads={heads}: choose mean or max")
        if rule not in ("mass", "quantile"):
            raise ValueError(f"rule={rule}: choose mass or quantile")
        if not 0 < keep <= 1:
            raise ValueError(f"keep={keep}: a share must lie in (0, 1]; 0.8 is the default")
        if smooth < 0 or min_tokens < 0 or grow < 0:
            raise ValueError(
                f"smooth={smooth}, min_tokens={min_tokens}, grow={grow}: give values of 0 or more"
            )
        self.heads, self.rule, self.keep = heads, rule, keep
        self.smooth, self.min_tokens, self.grow = smooth, min_tokens, grow

    def forward(self, attention: Tensor) -> Tensor:
        """B×heads×h×w attention → B×1×h×w float mask, 1 where the picture is excised.

        Never empty: where no component is large enough, the largest one stays.
        """
        # On the CPU: a GPU adds up a cumulative sum in another order each time.
        per_head = attention.float().cpu()
        joined = per_head.amax(1) if self.heads == "max" else per_head.mean(1)
        smoothed = gaussian_blur(joined[:, None], self.smooth)
        chosen = self._choose(smoothed.flatten(1)).view_as(smoothed)  # B×1×h×w
        if self.min_tokens > 1:
            cleaned = [_drop_small(m[0].numpy(), self.min_tokens) for m in chosen]
            chosen = torch.from_numpy(np.stack(cleaned))[:, None]
        mask = chosen.float()
        if self.grow:
            mask = F.max_pool2d(mask, 2 * self.grow + 1, 1, self.grow)
        return mask.to(attention.device)

    def _choose(self, tokens: Tensor) -> Tensor:
        """B×N attention → B×N bool. A stable sort settles ties by position, so it is repeatable."""
        order = tokens.argsort(dim=1, descending=True, stable=True)
        if self.rule == "quantile":
            count = max(1, round(self.keep * tokens.shape[1]))
            kept = torch.zeros_like(tokens, dtype=torch.bool)
            kept[:, :count] = True
        else:
            ranked = tokens.gather(1, order)
            before = ranked.cumsum(1) - ranked
            kept = before < self.keep * ranked.sum(1, keepdim=True)
            kept[:, 0] = True  # no attention at all must not give an empty mask
        return torch.zeros_like(kept).scatter(1, order, kept)


def gaussian_blur(maps: Tensor, sigma: float) -> Tensor:
    """Gaussian of standard deviation `sigma` pixels over B×1×H×W maps, edges reflected."""
    if sigma == 0:
        return maps
    radius = min(max(1, round(3 * sigma)), min(maps.shape[-2:]) - 1)
    grid = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = torch.exp(-(grid**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = F.pad(maps, [radius] * 4, mode="reflect")
    with exact(maps.device):  # half precision would move the mask
        return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))


def _drop_small(mask: np.ndarray, least: int) -> np.ndarray:
    """h×w bool → the same without components of fewer than `least` tokens; never empty."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    large = areas >= min(least, areas.max())
    large[0] = False
    return large[labels]
