"""DWFormer, the dynamic well-former for pictures taken through a display.

Zhou et al., "Modular Degradation Simulation and Restoration for Under-Display Camera" (ACCV 2022,
arXiv 2209.11455). A U-shaped net of convolutional blocks with a transformer's plan: what mixes
pixels is a depthwise convolution and an aggregated channel attention (ACA) in place of
self-attention.

    conv → stage → down → stage → down → stage → (up, fuse → stage) × 2 → conv, + input

Names of modules are those of the released checkpoints, so these load as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from vision.layers.padding import mirror_pad
from vision.layers.pooling import GlobalPool, log_area
from vision.restoration.spec import Spec


class AggregatedChannelAttention(GlobalPool):
    """ACA: pixels are pooled by learned weights into one vector, which weighs the channels.

    Args:
        dim: channels.
        released: the weights of the released code, whose softmax runs over an axis of one value:
            every pixel weighs 1, so the vector is a sum and grows with the picture. The paper's
            figure, and our default, is a softmax over the pixels.
    """

    def __init__(self, dim: int, released: bool) -> None:
        super().__init__()
        self.released = released
        self.pwconv = nn.Conv2d(dim, 1, 1)
        self.mlp = nn.Sequential(
            nn.Linear(dim, dim, bias=False),
            nn.ReLU(),
            nn.Linear(dim, dim, bias=False),
            nn.Sigmoid(),
        )

    def pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.released:
            # `pwconv` takes no part: a softmax over one value is 1 whatever it says.
            return x.mean((-2, -1), keepdim=True), log_area(x)
        logits = self.pwconv(x).flatten(2)  # B×1×N
        mean = x.flatten(2) @ logits.softmax(-1).transpose(1, 2)  # B×C×1
        return mean[..., None], logits.logsumexp(-1, keepdim=True)[..., None]

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        mean, weight = self.pooled(x)
        vector = (mean * weight.exp() if self.released else mean).flatten(1)  # B×C
        return x * self.mlp(vector)[..., None, None]


class Block(nn.Module):
    """Between pixels (`inter`), then within them (`intra`), each with a skip."""

    def __init__(self, dim: int, mlp_ratio: int, released: bool) -> None:
        super().__init__()
        self.inter = nn.Sequential(
            nn.BatchNorm2d(dim),
            nn.Conv2d(dim, dim, 1),
            nn.Conv2d(dim, dim, 5, padding=2, groups=dim, padding_mode="reflect"),
            nn.ReLU(),
            AggregatedChannelAttention(dim, released),
            nn.Conv2d(dim, dim, 1),
        )
        self.intra = nn.Sequential(
            nn.BatchNorm2d(dim),
            nn.Conv2d(dim, mlp_ratio * dim, 1),
            nn.ReLU(),
            nn.Conv2d(mlp_ratio * dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """B×C×H×W → B×C×H×W."""
        x = x + self.inter(x)
        return x + self.intra(x)


class Stage(nn.Module):
    def __init__(self, dim: int, mlp_ratio: int, depth: int, released: bool) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block(dim, mlp_ratio, released) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class DWFormer(nn.Module):
    """Pictures in, cleaner pictures of the same size out.

    Args:
        dims: channels of the five stages; the last two mirror the first two.
        depths: their blocks.
        mlp_ratios: width of their 1×1 convolutions over the channels.
        channels: of the pictures.
        released: ACA as the released code computes it, for its checkpoints; see
            `AggregatedChannelAttention`.

    Raises:
        ValueError: dims that are no mirror image, or lists of other lengths.
    """

    UNSAID = ("released",)
    """Arguments that leave no trace in a checkpoint."""

    def __init__(
        self,
        dims: Sequence[int] = (24, 48, 96, 48, 24),
        depths: Sequence[int] = (8, 8, 8, 6, 6),
        mlp_ratios: Sequence[int] = (2, 4, 4, 2, 2),
        channels: int = 3,
        released: bool = False,
    ) -> None:
        super().__init__()
        if not len(dims) == len(depths) == len(mlp_ratios) == 5 or [*dims] != [*reversed(dims)]:
            raise ValueError(
                f"DWFormer of dims {[*dims]}, depths {[*depths]}, mlp_ratios {[*mlp_ratios]}: give"
                " five of each, the dims alike from both ends"
            )
        self.spec = Spec(1, channels, pools_globally=True, sums_globally=released)
        stages = [
            Stage(dim, ratio, depth, released)
            for dim, ratio, depth in zip(dims, mlp_ratios, depths, strict=True)
        ]
        self.block1, self.block2, self.block3, self.block4, self.block5 = stages
        self.downproj1 = nn.Conv2d(channels, dims[0], 3, padding=1)
        self.downproj2 = nn.Conv2d(dims[0], dims[1], 2, stride=2)
        self.downproj3 = nn.Conv2d(dims[1], dims[2], 2, stride=2)
        self.upproj4, self.fuse1 = _up(dims[2], dims[3]), _fuse(dims[3])
        self.upproj5, self.fuse2 = _up(dims[3], dims[4]), _fuse(dims[4])
        self.out = nn.Conv2d(dims[4], channels, 3, padding=1, padding_mode="reflect")
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """B×C×H×W in [0, 1], any size → B×C×H×W, not clamped."""
        height, width = images.shape[-2:]
        # Three pixels a side at the coarsest level: its 5×5 convolutions mirror two of them.
        image = mirror_pad(images, 4, least=12).contiguous(memory_format=torch.channels_last)
        first = self.block1(self.downproj1(image))
        second = self.block2(self.downproj2(first))
        x = self.block3(self.downproj3(second))
        x = self.block4(self.fuse1(torch.cat([self.upproj4(x), second], 1)))
        x = self.block5(self.fuse2(torch.cat([self.upproj5(x), first], 1)))
        return (image + self.out(x))[..., :height, :width]

    @classmethod
    def describe(cls, state: Mapping[str, Tensor]) -> dict[str, object] | None:
        """The arguments that build the net of a released checkpoint, or None if it is no DWFormer.

        A checkpoint does not say how its ACA was computed; what is published under these names is
        the released code's.
        """
        if "block1.blocks.0.inter.4.pwconv.weight" not in state:
            return None
        first = [f"block{stage}.blocks.0.intra.1.weight" for stage in range(1, 6)]
        widths = [state[key].shape[:2] for key in first]
        return {
            "dims": [dim for _, dim in widths],
            "mlp_ratios": [wide // dim for wide, dim in widths],
            "depths": [
                len({key.split(".")[2] for key in state if key.startswith(f"block{s}.blocks.")})
                for s in range(1, 6)
            ],
            "channels": state["out.bias"].shape[0],
            "released": True,
        }


def _up(dim: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, 4 * wanted, 1), nn.PixelShuffle(2))


def _fuse(dim: int) -> nn.Sequential:
    """Of what comes up and what was kept, joined."""
    return nn.Sequential(nn.Conv2d(2 * dim, dim, 3, padding=1, padding_mode="reflect"), nn.ReLU())
