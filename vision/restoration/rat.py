"""RAT, the region attention transformer for medical image restoration.

Yang et al., "Region Attention Transformer for Medical Image Restoration" (MICCAI 2024, arXiv
2407.09268). A U-shaped net of NAFBlocks whose middle is a transformer in which a token attends to
the tokens of its own region, wherever in the picture they lie, and then to its window:

    conv → (NAFBlock × n → down) × 2 → group × 4, + skip → (up, + skip → NAFBlock × n) × 2 → conv
    group: (R-MSA → MLP → W-MSA → MLP) × 3 → conv, + skip

Region maps come from SAM in the paper; any map of labels serves (`data.regions`). The attention is
computed region by region (`vision.layers.regions`), where the released code computes it densely
and subtracts 1000 from the logits between regions: the same function at a fraction of the cost.

Names of modules are those of the released checkpoints, so these load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from vision.layers.padding import mirror_pad
from vision.layers.pooling import GlobalMean
from vision.layers.regions import Regions, region_attention
from vision.layers.windows import attend, merge, split_heads, windows
from vision.restoration.spec import Spec

HEADS, WINDOW, LAYERS, MLP_RATIO = 8, 4, 3, 2


class NAFBlock(nn.Module):
    """Convolutions, a gate in place of an activation, and simplified channel attention.

    Chen et al., "Simple Baselines for Image Restoration" (ECCV 2022, arXiv 2204.04676).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        wide = 2 * dim
        self.norm1 = LayerNorm2d(dim)
        self.conv1 = nn.Conv2d(dim, wide, 1)
        self.conv2 = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.sca = nn.Sequential(GlobalMean(), nn.Conv2d(dim, dim, 1))
        self.conv3 = nn.Conv2d(dim, dim, 1)
        self.norm2 = LayerNorm2d(dim)
        self.conv4 = nn.Conv2d(dim, wide, 1)
        self.conv5 = nn.Conv2d(dim, dim, 1)
        self.beta = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        gated = gate(self.conv2(self.conv1(self.norm1(x))))
        x = x + self.beta * self.conv3(gated * self.sca(gated))
        return x + self.gamma * self.conv5(gate(self.conv4(self.norm2(x))))


class RegionAttention(nn.Module):
    """R-MSA: every token attends to the tokens of its region."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Conv2d(dim, 3 * dim, 1)
        self.project_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, regions: Regions) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        tokens = self.qkv(x).permute(0, 2, 3, 1).flatten(1, 2)  # B×N×3C
        q, k, v = tokens.unflatten(-1, (3, self.heads, -1)).unbind(2)  # B×N×heads×d each
        attended = region_attention(q, k, v, regions, self.heads**-0.5)
        attended = attended.flatten(2).unflatten(1, x.shape[-2:])  # B×H×W×C
        return self.project_out(attended.permute(0, 3, 1, 2))


class WindowAttention(nn.Module):
    """W-MSA: attention within windows, without shift and without position bias."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj_out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W; H and W are multiples of the window."""
        tokens = windows(self.qkv(x.permute(0, 2, 3, 1)), self.window)
        q, k, v = split_heads(tokens, 3, self.heads)
        # The released code scales by the number of heads, not by their width; so do its weights.
        attended = merge(attend(q, k, v, scale=self.heads**-0.5))  # B×H×W×C
        return self.proj_out(attended).permute(0, 3, 1, 2)


class MLP(nn.Module):
    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(dim, ratio * dim, 1)
        self.fc2 = nn.Conv2d(ratio * dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Layer(nn.Module):
    """Region attention, then window attention, each followed by an MLP.

    λ, per channel, weighs the attention alone and begins at zero.
    """

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.norm_ra = LayerNorm2d(dim)
        self.ra = RegionAttention(dim, heads)
        self.lambda_ra = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.norm_ra_mlp = LayerNorm2d(dim)
        self.mlp_ra = MLP(dim, MLP_RATIO)
        self.norm_wa = LayerNorm2d(dim)
        self.wa = WindowAttention(dim, heads, window)
        self.lambda_wa = nn.Parameter(torch.zeros(1, dim, 1, 1))
        self.norm_wa_mlp = LayerNorm2d(dim)
        self.mlp_wa = MLP(dim, MLP_RATIO)

    def forward(self, x: Tensor, regions: Regions) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        x = x + self.lambda_ra * self.ra(self.norm_ra(x), regions)
        x = x + self.mlp_ra(self.norm_ra_mlp(x))
        x = x + self.lambda_wa * self.wa(self.norm_wa(x))
        return x + self.mlp_wa(self.norm_wa_mlp(x))


class Group(nn.Module):
    """Layers and a convolution, with a skip around them."""

    def __init__(self, dim: int, layers: int, heads: int, window: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(dim, heads, window) for _ in range(layers))
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, regions: Regions) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        inner = x
        for layer in self.layers:
            inner = layer(inner, regions)
        return x + self.conv(inner)


class RAT(nn.Module):
    """Degraded pictures and their region maps in, restored pictures out.

    Args:
        scale: 1, or what the input is enlarged by (bilinear) before the net sees it.
        channels: of the pictures; the published net is for grey ones.
        width: channels of the outermost level; each level down has twice as many.
        groups: in the middle, of three layers each.
        blocks: NAFBlocks of each level, on the way down and on the way up.

    Raises:
        ValueError: a width that the heads do not divide, or a scale below 1.
    """

    UNSAID = ("scale",)
    """Arguments that leave no trace in a checkpoint."""

    def __init__(
        self,
        scale: int = 1,
        channels: int = 1,
        width: int = 64,
        groups: int = 4,
        blocks: Sequence[int] = (2, 2),
    ) -> None:
        super().__init__()
        dims = [width * 2**level for level in range(len(blocks) + 1)]
        if scale < 1 or dims[-1] % HEADS:
            raise ValueError(
                f"RAT of scale {scale}, width {width}: give a scale of 1 or more, and a width that"
                f" makes the middle ({dims[-1]}) a multiple of its {HEADS} heads"
            )
        self.spec = Spec(scale, channels, pools_globally=True, regions=True)
        self.multiple = WINDOW * 2 ** len(blocks)
        self.intro = nn.Conv2d(channels, width, 3, padding=1)
        self.encoders = nn.ModuleList(
            nn.Sequential(*(NAFBlock(dim) for _ in range(count)))
            for dim, count in zip(dims, blocks, strict=False)
        )
        self.downs = nn.ModuleList(nn.Conv2d(dim, 2 * dim, 2, stride=2) for dim in dims[:-1])
        self.middle_blks = nn.ModuleList(
            Group(dims[-1], LAYERS, HEADS, WINDOW) for _ in range(groups)
        )
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(dim, 2 * dim, 1, bias=False), nn.PixelShuffle(2))
            for dim in reversed(dims[1:])
        )
        self.decoders = nn.ModuleList(
            nn.Sequential(*(NAFBlock(dim) for _ in range(count)))
            for dim, count in zip(reversed(dims[:-1]), reversed(blocks), strict=True)
        )
        self.ending = nn.Conv2d(width, channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor, regions: Tensor) -> Tensor:
        """Restore pictures of any size.

        Args:
            images: B×C×H×W in [0, 1].
            regions: B×1×h×w integer labels ≥ 0, of the size of the result or of the input.

        Returns:
            B×C×(scale·H)×(scale·W), not clamped.

        Raises:
            ValueError: a region map of another size, or labels below 0.
        """
        scale, size = self.spec.scale, images.shape[-2:]
        if scale > 1:
            images = F.interpolate(images, scale_factor=scale, mode="bilinear")
        height, width = images.shape[-2:]
        labels = self._labels(regions, (height, width), size)
        image = mirror_pad(images, self.multiple)
        image = image.contiguous(memory_format=torch.channels_last)
        x, skips = self.intro(image), []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            skips.append(encoder(x))
            x = down(skips[-1])
        middle, plan = x, Regions(labels.flatten(1))
        for group in self.middle_blks:
            middle = group(middle, plan)
        x = x + middle
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            x = decoder(up(x) + skip)
        return (image + self.ending(x))[..., :height, :width]

    def _labels(self, regions: Tensor, wanted: Sequence[int], given: Sequence[int]) -> Tensor:
        """Labels of the tokens in the middle, B×h×w: every fourth, as `nearest` takes them."""
        if regions.shape[-2:] != tuple(wanted):
            if regions.shape[-2:] != tuple(given):
                raise ValueError(
                    f"a region map of {tuple(regions.shape[-2:])} for a result of {tuple(wanted)};"
                    " make it of the size of the picture"
                )
            regions = regions.repeat_interleave(self.spec.scale, -1)
            regions = regions.repeat_interleave(self.spec.scale, -2)
        if regions.min() < 0:
            raise ValueError(f"a region map with the label {regions.min():g}; labels begin at 0")
        step = 2 ** len(self.downs)
        return mirror_pad(regions, self.multiple)[:, 0, ::step, ::step]

    @classmethod
    def describe(cls, state: Mapping[str, Tensor]) -> dict[str, object] | None:
        """The arguments that build the net of a released checkpoint, or None if it is no RAT.

        The scale leaves no trace in it, since the net enlarges before its first layer.
        """
        if "middle_blks.0.layers.0.lambda_ra" not in state:
            return None
        width, channels = state["intro.weight"].shape[:2]
        levels = _count(state, "encoders.{}.0.beta")
        blocks = [_count(state, f"encoders.{level}.{{}}.beta") for level in range(levels)]
        groups = _count(state, "middle_blks.{}.conv.weight")
        return {"channels": channels, "width": width, "groups": groups, "blocks": blocks}


def gate(x: Tensor) -> Tensor:
    """B×2C×H×W → B×C×H×W: the product of its halves."""
    first, second = x.chunk(2, dim=1)
    return first * second


def _count(state: Mapping[str, Tensor], key: str) -> int:
    """How many of the numbered keys there are, from 0 on."""
    count = 0
    while key.format(count) in state:
        count += 1
    return count
