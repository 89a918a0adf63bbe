"""The plain U-Net (Ronneberger et al. 2015) that EAR and RIAD share; only the widths are ours."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

# Our choice but for `full`, which is the width of the EAR author's own RIAD. Halving every width
# divides the time by almost four.
PRESETS: dict[str, tuple[int, ...]] = {
    "full": (64, 128, 256, 512),
    "small": (32, 64, 128, 256),
    "tiny": (16, 32, 64, 128),
}


class DoubleConv(nn.Sequential):
    """Twice (3×3 convolution → batch norm → ReLU)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for width in (inputs, outputs):
            layers += [
                nn.Conv2d(width, outputs, 3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)


class Up(nn.Module):
    """Upsample by 2, halve the width, join the skip, and convolve twice."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.conv = DoubleConv(2 * outputs, outputs)

    def forward(self, deep: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat([skip, self.up(deep)], dim=1))


class UNet(nn.Module):
    """RGB in, RGB out.

    Args:
        preset: `full`, `small` or `tiny` (see `PRESETS`).

    Raises:
        ValueError: an unknown preset.
    """

    def __init__(self, preset: str = "full") -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"U-Net preset {preset}: choose one of {', '.join(PRESETS)}")
        widths = PRESETS[preset]
        self.stem = DoubleConv(3, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), DoubleConv(a, b)) for a, b in pairwise(widths)
        )
        self.up = nn.ModuleList(Up(a, b) for a, b in pairwise(widths[::-1]))
        self.head = nn.Conv2d(widths[0], 3, 1)
        self.multiple = 2 ** len(self.down)
        self.to(memory_format=torch.channels_last)  # several times faster on CPUs

    def forward(self, images: Tensor) -> Tensor:
        """B×3×H×W in [0, 1] → the same shape; H and W are multiples of `multiple` (8)."""
        skips = [self.stem(images.contiguous(memory_format=torch.channels_last))]
        for down in self.down:
            skips.append(down(skips[-1]))
        x = skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        return self.head(x)
