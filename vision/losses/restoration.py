"""Losses of restored pictures against true ones.

All are called as `loss(restored, truth, regions)`: B×C×H×W each, `regions` B×1×H×W labels or None.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RestorationLoss(nn.Module):
    """Base; `forward` returns a scalar."""

    def forward(self, restored: Tensor, truth: Tensor, regions: Tensor | None = None) -> Tensor:
        raise NotImplementedError


class L1(RestorationLoss):
    """Mean absolute error."""

    def forward(self, restored: Tensor, truth: Tensor, regions: Tensor | None = None) -> Tensor:
        return F.l1_loss(restored, truth)


class MSE(RestorationLoss):
    """Mean squared error."""

    def forward(self, restored: Tensor, truth: Tensor, regions: Tensor | None = None) -> Tensor:
        return F.mse_loss(restored, truth)


class Charbonnier(RestorationLoss):
    """√(e² + ε²): L1 with a smooth foot (Charbonnier et al. 1994; ε of Lai et al. 2017)."""

    def __init__(self, epsilon: float = 1e-3) -> None:
        super().__init__()
        self.epsilon = epsilon

    def forward(self, restored: Tensor, truth: Tensor, regions: Tensor | None = None) -> Tensor:
        return ((restored - truth).square() + self.epsilon**2).sqrt().mean()


class FocalRegion(RestorationLoss):
    """L1 that weighs a region by how badly it is restored (RAT, arXiv 2407.09268).

    mean(e · (1 + β·w)), e the absolute error and w its mean over the pixel's region, over the
    largest such mean of the batch. No gradient flows through w.

    Args:
        beta: weight of the hard regions; the paper's 1, where the released training has 0.001.

    Raises:
        ValueError: no regions.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, restored: Tensor, truth: Tensor, regions: Tensor | None = None) -> Tensor:
        if regions is None:
            raise ValueError("FocalRegion needs region maps; use a data set that has them, or L1")
        error = (restored - truth).abs()
        return (error * (1 + self.beta * region_weights(error.detach(), regions))).mean()


def region_weights(error: Tensor, regions: Tensor) -> Tensor:
    """B×C×H×W ≥ 0 and B×1×H×W labels → B×1×H×W in [0, 1]: w of `FocalRegion`."""
    labels = regions.long()
    apart = labels + torch.arange(len(labels), device=labels.device).view(-1, 1, 1, 1) * (
        labels.max() + 1
    )
    numbers = apart.unique(return_inverse=True)[1].flatten()  # B·H·W, from 0 without gaps
    sizes = numbers.bincount().to(error.dtype)
    sums = error.new_zeros(len(sizes)).index_add_(0, numbers, error.mean(1).flatten())
    means = sums / sizes
    largest = means.max().clamp_min(torch.finfo(error.dtype).tiny)
    return (means / largest)[numbers].view_as(labels).clamp(0, 1)


class Perceptual(RestorationLoss):
    """L1 between features of VGG19 before their activation (Johnson et al. 2016; as in ESRGAN).

    Args:
        layers: indices of the convolutions in torchvision's `features`, and a weight for each. By
            default those of BasicSR's real-world training: conv1_2, 2_2, 3_4, 4_4, 5_4.
        weights_file: `vgg19-dcbb9e9d.pth` of torchvision; None downloads it.

    Raises:
        ValueError: the file is missing.
        URLError: it cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Sequence[int] = (2, 7, 16, 25, 34),
        layer_weights: Sequence[float] = (0.1, 0.1, 1.0, 1.0, 1.0),
        weights_file: str | None = None,
    ) -> None:
        super().__init__()
        from torchvision.models import VGG19_Weights, vgg19

        if len(layers) != len(layer_weights):
            raise ValueError(f"{len(layers)} layers and {len(layer_weights)} weights; give as many")
        if weights_file is not None and not Path(weights_file).is_file():
            raise ValueError(f"{weights_file}: no such file; give torchvision's vgg19-dcbb9e9d.pth")
        net = vgg19(weights=None if weights_file else VGG19_Weights.IMAGENET1K_V1)
        if weights_file is not None:
            try:
                state = torch.load(weights_file, map_location="cpu", weights_only=True)
                net.load_state_dict(state)
            except Exception as error:  # torch raises many kinds for a damaged or hostile file
                raise ValueError(
                    f"{weights_file}: not the weights of torchvision's VGG19"
                    f" ({type(error).__name__}); give vgg19-dcbb9e9d.pth"
                ) from error
        self.features = net.features[: max(layers) + 1].eval().requires_grad_(False)
        for module in self.features:
            if isinstance(module, nn.ReLU):
                module.inplace = False  # or it would change the features that are compared
        self.wanted = dict(zip(layers, layer_weights, strict=True))
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, restored: Tensor, truth: Tensor, regions: Tensor | None = None) -> Tensor:
        both = torch.cat([restored, truth.detach()]).expand(-1, 3, -1, -1)
        x, total = (both - self.mean) / self.std, restored.new_zeros(())
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.wanted:
                mine, true = x.chunk(2)
                total = total + self.wanted[index] * F.l1_loss(mine, true)
        return total


class WeightedSum(RestorationLoss):
    """Several losses, each with its weight."""

    def __init__(self, losses: Sequence[RestorationLoss], weights: Sequence[float]) -> None:
        super().__init__()
        if len(losses) != len(weights) or not losses:
            raise ValueError(f"{len(losses)} losses and {len(weights)} weights; give as many")
        self.losses, self.weights = nn.ModuleList(losses), tuple(weights)

    def forward(self, restored: Tensor, truth: Tensor, regions: Tensor | None = None) -> Tensor:
        pairs = zip(self.losses, self.weights, strict=True)
        return torch.stack([w * loss(restored, truth, regions) for loss, w in pairs]).sum()


def vanilla_gan(logits: Tensor, real: bool) -> Tensor:
    """Cross-entropy of a discriminator's logits (Goodfellow et al. 2014)."""
    wanted = torch.full_like(logits, float(real))
    return F.binary_cross_entropy_with_logits(logits, wanted)


def lsgan(logits: Tensor, real: bool) -> Tensor:
    """Half the mean squared distance of its outputs to 1 or 0 (Mao et al. 2017)."""
    return 0.5 * (logits - float(real)).square().mean()
