"""HAT, the hybrid attention transformer for super-resolution and same-size restoration.

Chen et al., "Activating More Pixels in Image Super-Resolution Transformer" (CVPR 2023, arXiv
2205.04437) and "HAT: Hybrid Attention Transformer for Image Restoration" (arXiv 2309.05239).
Windowed self-attention, channel attention and overlapping cross-attention side by side:

    conv → RHAG × n → conv, + skip → upsampling → conv
    RHAG: HAB × m → OCAB → conv, + skip

Names of modules are those of the published checkpoints, so these load as they are.

The tokens stay B×H×W×C from the first convolution to the last: that is also the memory order of a
channels-last picture, so linear layers and convolutions take turns without a copy in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from vision.layers.padding import mirror_pad
from vision.layers.pooling import GlobalMean
from vision.layers.windows import (
    attend,
    merge,
    overlap_index,
    position_bias,
    split_heads,
    window_index,
    windows,
)
from vision.restoration.spec import Spec

MEAN = (0.4488, 0.4371, 0.4040)  # of DIV2K in RGB


class Dims(NamedTuple):
    """The sizes of a HAT, by the paper's names.

    Attributes:
        embed_dim: channels C of the tokens.
        depths: HABs in each RHAG.
        num_heads: of every attention.
        compress: a CAB squeezes its tokens to C / compress channels between its convolutions.
        squeeze: its channel attention goes through C / squeeze channels.
        window: side of a window in pixels.
        overlap: by how much of it the windows of keys reach out on either side, together.
        mlp_ratio: width of an MLP over C.
        features: channels of the upsampling.
        direct: whether one convolution and a PixelShuffle follow the last skip, as in SwinIR-light,
            and what they make is added to the picture enlarged (bicubic) and is nothing at first.
            Ours: the published end, five convolutions one after another, needs days to sharpen.
    """

    embed_dim: int = 180
    depths: Sequence[int] = (6,) * 6
    num_heads: int = 6
    compress: int = 3
    squeeze: int = 30
    window: int = 16
    overlap: float = 0.5
    mlp_ratio: float = 2.0
    features: int = 64
    direct: bool = False


PRESETS = {
    "HAT": Dims(),
    "HAT-S": Dims(embed_dim=144, compress=24, squeeze=24),
    "HAT-L": Dims(depths=(6,) * 12),
    # Ours, for CPUs and edge boxes: a million parameters.
    "light": Dims(64, (4,) * 4, 4, compress=8, squeeze=16, window=8, direct=True),
}


class ChannelAttention(nn.Module):
    """Every channel weighted by what all channels are on average over the picture."""

    def __init__(self, dim: int, squeeze: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            GlobalMean(),
            nn.Conv2d(dim, dim // squeeze, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(dim // squeeze, dim, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)


class CAB(nn.Module):
    """Channel attention block."""

    def __init__(self, dim: int, compress: int, squeeze: int) -> None:
        super().__init__()
        self.cab = nn.Sequential(
            nn.Conv2d(dim, dim // compress, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(dim // compress, dim, 3, padding=1),
            ChannelAttention(dim, squeeze),
        )

    def forward(self, x: Tensor) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        return self.cab(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class WindowAttention(nn.Module):
    """(S)W-MSA: self-attention within windows, with a learned bias for each relative position."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, index: Tensor, shift: int) -> Tensor:
        """B×H×W×C → the same; H and W are multiples of the window.

        With `shift`, windows lie that many pixels further down and right, and wrap around; `index`
        is the relative position of every query and key.
        """
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        q, k, v = split_heads(windows(self.qkv(x), self.window), 3, self.heads)
        bias = position_bias(self.relative_position_bias_table, index)
        x = self._attend_shifted(q, k, v, bias, shift) if shift else attend(q, k, v, bias)
        x = self.proj(merge(x))
        return x.roll((shift, shift), (1, 2)) if shift else x

    def _attend_shifted(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, shift: int) -> Tensor:
        """Only the last row and column of windows hold pixels from opposite edges, kept apart.

        A mask for every window would take H·W·window² values, which is gigabytes for a photograph.
        """
        lower = torch.zeros(self.window, dtype=torch.long, device=q.device)
        lower[-shift:] = 1
        down, right = lower[:, None].expand(-1, self.window), lower.expand(self.window, -1)

        def part(row: slice, column: slice, side: Tensor) -> Tensor:
            side = side.flatten()  # which edge each of the window's pixels comes from
            apart = (side[:, None] != side) * -100.0  # the published value
            here = (slice(None), row, column)
            return attend(q[here], k[here], v[here], bias + apart)

        most, last = slice(None, -1), slice(-1, None)
        upper_row = [part(most, most, down * 0), part(most, last, right)]
        last_row = [part(last, most, down), part(last, last, 2 * down + right)]
        return torch.cat([torch.cat(upper_row, 2), torch.cat(last_row, 2)], 1)


class HAB(nn.Module):
    """Hybrid attention block: window attention and, with a small weight, a CAB beside it."""

    def __init__(self, dims: Dims, shift: int, drop_path: float, conv_scale: float) -> None:
        super().__init__()
        dim = dims.embed_dim
        self.shift, self.conv_scale = shift, conv_scale
        self.norm1 = nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, dims.num_heads, dims.window)
        self.conv_block = CAB(dim, dims.compress, dims.squeeze)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * dims.mlp_ratio))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        normed = self.norm1(x)
        attended = self.drop_path(self.attn(normed, index, self.shift))
        x = x + attended + self.conv_scale * self.conv_block(normed)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class OCAB(nn.Module):
    """Overlapping cross-attention block: queries of a window, keys of a larger one around it."""

    def __init__(self, dims: Dims) -> None:
        super().__init__()
        dim = dims.embed_dim
        self.heads, self.window = dims.num_heads, dims.window
        self.wide = wide_window(dims)
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        positions = (self.window + self.wide - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(positions, dims.num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * dims.mlp_ratio))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        qkv = self.qkv(self.norm1(x))
        dim = x.shape[-1]
        (q,) = split_heads(windows(qkv[..., :dim], self.window), 1, self.heads)
        reach = (self.wide - self.window) // 2
        around = F.pad(qkv[..., dim:], (0, 0, reach, reach, reach, reach))
        wide = around.unfold(1, self.wide, self.window).unfold(2, self.wide, self.window)
        k, v = split_heads(wide.permute(0, 1, 2, 4, 5, 3), 2, self.heads)
        bias = position_bias(self.relative_position_bias_table, index)
        x = x + self.proj(merge(attend(q, k, v, bias)))
        return x + self.mlp(self.norm2(x))


class AttentionBlocks(nn.Module):
    """The HABs of a group and the OCAB at its end."""

    def __init__(self, dims: Dims, drop_path: Sequence[float], conv_scale: float) -> None:
        super().__init__()
        shifts = [dims.window // 2 * (i % 2) for i in range(len(drop_path))]
        self.blocks = nn.ModuleList(
            HAB(dims, shift, drop, conv_scale)
            for shift, drop in zip(shifts, drop_path, strict=True)
        )
        self.overlap_attn = OCAB(dims)

    def forward(self, x: Tensor, index: Tensor, wide_index: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, index)
        return self.overlap_attn(x, wide_index)


class RHAG(nn.Module):
    """Residual hybrid attention group."""

    def __init__(self, dims: Dims, drop_path: Sequence[float], conv_scale: float) -> None:
        super().__init__()
        self.residual_group = AttentionBlocks(dims, drop_path, conv_scale)
        self.conv = nn.Conv2d(dims.embed_dim, dims.embed_dim, 3, padding=1)

    def forward(self, x: Tensor, index: Tensor, wide_index: Tensor) -> Tensor:
        """B×H×W×C → B×H×W×C."""
        inner = self.residual_group(x, index, wide_index).permute(0, 3, 1, 2)
        return x + self.conv(inner).permute(0, 2, 3, 1)


class Upsample(nn.Sequential):
    """(conv, PixelShuffle ×2) repeated for powers of two, or once ×3.

    With `channels` there is one step to the picture itself.
    """

    def __init__(self, scale: int, features: int, channels: int | None = None) -> None:
        steps = [scale] if channels or scale == 3 else [2] * (scale.bit_length() - 1)
        layers: list[nn.Module] = []
        for step in steps:
            wide = step**2 * (channels or features)
            layers += [nn.Conv2d(features, wide, 3, padding=1), nn.PixelShuffle(step)]
        super().__init__(*layers)


class HAT(nn.Module):
    """Pictures in, larger or cleaner pictures out.

    Args:
        preset: `HAT`, `HAT-S`, `HAT-L` (all published) or `light` (ours); see `PRESETS`.
        scale: 1 (denoising, JPEG artefacts: x + conv(features), which the papers show and the
            published code lacks; ours follows SwinIR), 2, 3, 4 or 8.
        channels: of the pictures, 3 for RGB or 1 for grey.
        dims: sizes of your own, in place of a preset's.
        drop_path: stochastic depth of the last block; those before have less, linearly.
        conv_scale: weight of the CAB beside the attention.

    Raises:
        ValueError: an unknown preset, or a scale that cannot be built.
    """

    UNSAID = ("conv_scale", "drop_path")
    """Arguments that leave no trace in a checkpoint."""
    mean: Tensor

    def __init__(
        self,
        preset: str = "HAT",
        scale: int = 4,
        channels: int = 3,
        dims: Dims | None = None,
        drop_path: float = 0.1,
        conv_scale: float = 0.01,
    ) -> None:
        super().__init__()
        if preset not in PRESETS:
            raise ValueError(f"HAT preset {preset}: choose one of {', '.join(PRESETS)}")
        if scale not in (1, 2, 3, 4, 8):
            raise ValueError(f"HAT scale {scale}: choose 1, 2, 3, 4 or 8")
        if isinstance(dims, Mapping):  # so a checkpoint of ours describes them
            dims = Dims(**dims)
        self.dims = dims = dims or PRESETS[preset]
        dim, features = dims.embed_dim, dims.features
        if dim % dims.num_heads:
            raise ValueError(f"embed_dim={dim}: must divide by num_heads={dims.num_heads}")
        self.spec = Spec(scale, channels, pools_globally=True, anew=("upsample.",))
        mean = torch.tensor(MEAN if channels == 3 else (0.0,) * channels)
        self.register_buffer("mean", mean.view(-1, 1, 1), persistent=False)
        window, wide = dims.window, wide_window(dims)
        self.register_buffer("relative_position_index_SA", window_index(window))
        self.register_buffer("relative_position_index_OCA", overlap_index(window, wide))
        self.conv_first = nn.Conv2d(channels, dim, 3, padding=1)
        self.patch_embed = nn.ModuleDict({"norm": nn.LayerNorm(dim)})
        drops = iter(torch.linspace(0, drop_path, sum(dims.depths), device="cpu").tolist())
        self.layers = nn.ModuleList(
            RHAG(dims, [*islice(drops, depth)], conv_scale) for depth in dims.depths
        )
        self.norm = nn.LayerNorm(dim)
        self.conv_after_body = nn.Conv2d(dim, dim, 3, padding=1)
        if scale > 1 and dims.direct:
            self.upsample = Upsample(scale, dim, channels)
        elif scale > 1:
            self.conv_before_upsample = nn.Sequential(
                nn.Conv2d(dim, features, 3, padding=1), nn.LeakyReLU(inplace=True)
            )
            self.upsample = Upsample(scale, features)
        if scale == 1 or not dims.direct:
            self.conv_last = nn.Conv2d(features if scale > 1 else dim, channels, 3, padding=1)
        self.apply(_initialise)
        if dims.direct:
            for parameter in (self.conv_last if scale == 1 else self.upsample[0]).parameters():
                nn.init.zeros_(parameter)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """B×C×H×W in [0, 1], any size → B×C×(scale·H)×(scale·W), not clamped."""
        height, width = (side * self.spec.scale for side in images.shape[-2:])
        x = mirror_pad(images, self.dims.window) - self.mean
        shallow = self.conv_first(x.contiguous(memory_format=torch.channels_last))
        deep = shallow + self._deep(shallow)
        if self.spec.scale == 1:
            restored = x + self.conv_last(deep)
        elif self.dims.direct:
            larger = F.interpolate(x, scale_factor=self.spec.scale, mode="bicubic")
            restored = larger + self.upsample(deep)
        else:
            restored = self.conv_last(self.upsample(self.conv_before_upsample(deep)))
        return (restored + self.mean)[..., :height, :width]

    def _deep(self, shallow: Tensor) -> Tensor:
        x = self.patch_embed["norm"](shallow.permute(0, 2, 3, 1))  # B×H×W×C from here
        for layer in self.layers:
            x = layer(x, self.relative_position_index_SA, self.relative_position_index_OCA)
        return self.conv_after_body(self.norm(x).permute(0, 3, 1, 2))

    @classmethod
    def describe(cls, state: Mapping[str, Tensor]) -> dict[str, object] | None:
        """The arguments that build the net of a published checkpoint, or None if it is no HAT.

        Read from names and shapes; conv_scale leaves no trace there, and is the published 0.01.
        """
        group = "layers.0.residual_group"
        if f"{group}.blocks.0.conv_block.cab.0.weight" not in state:
            return None
        depths: list[int] = []
        while f"layers.{len(depths)}.conv.weight" in state:
            blocks = {
                key.split(".")[4]
                for key in state
                if key.startswith(f"layers.{len(depths)}.residual_group.blocks.")
            }
            depths.append(len(blocks))
        dim, channels = state["conv_first.weight"].shape[:2]
        window = int(state["relative_position_index_SA"].shape[0] ** 0.5)
        wide = int(state["relative_position_index_OCA"].shape[1] ** 0.5)
        steps = [w for k, w in state.items() if k.startswith("upsample.") and k.endswith("weight")]
        scale = 1
        for weight in steps:
            scale *= round((weight.shape[0] / weight.shape[1]) ** 0.5)
        cab = f"{group}.blocks.0.conv_block.cab"
        dims = Dims(
            embed_dim=dim,
            depths=tuple(depths),
            num_heads=state[f"{group}.overlap_attn.relative_position_bias_table"].shape[1],
            compress=dim // state[f"{cab}.0.weight"].shape[0],
            squeeze=dim // state[f"{cab}.3.attention.1.weight"].shape[0],
            window=window,
            overlap=(wide - window) / window,
            mlp_ratio=state[f"{group}.blocks.0.mlp.fc1.weight"].shape[0] / dim,
            features=state["conv_last.weight"].shape[1] if scale > 1 else 64,
        )
        return {"scale": scale, "channels": channels, "dims": dims}


def wide_window(dims: Dims) -> int:
    return int(dims.window * (1 + dims.overlap))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
