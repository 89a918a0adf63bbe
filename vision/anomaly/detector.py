"""What the task, the scorer and the engine ask of any net that inspects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Recovery(NamedTuple):
    """What a net that recovers pictures is trained on: B×3×H×W each.

    `image` lies in [0, 1]; `recovered` is meant to and is not clamped.
    """

    recovered: Tensor
    image: Tensor


class Detector(nn.Module):
    """Base of the nets that inspect: pictures in, raw anomaly maps out.

    A subclass sets `size` and gives `maps`; one that learns by gradient gives `recover`; one that
    keeps a memory of good pictures gives `remember`.

    Attributes:
        size: side in pixels of the maps.
        input_size: side in pixels that pictures should have when they come in; the net resizes
            them to what its parts need, so any larger picture gives nothing more.
        map_names: the names of the maps it gives.
    """

    size: int
    input_size: int
    map_names: tuple[str, ...]

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """B×3×H×W RGB in [0, 1] → named B×1×size×size maps ≥ 0; larger is more suspicious."""
        raise NotImplementedError(f"{type(self).__name__} gives no maps")

    def recover(self, images: Tensor) -> Recovery:
        """One training step's forward pass; only for nets that learn by gradient."""
        raise NotImplementedError(f"{type(self).__name__} does not learn by gradient")

    def remember(self, batches: Iterable[Tensor]) -> None:
        """See all good pictures once, after training. Default: nothing to remember."""

    def remember_few(self, batches: Iterable[Tensor]) -> list[dict[str, Tensor]]:
        """`remember`, and the maps of good pictures that are left out of what is remembered then.

        Returns:
            Four or more times named maps, 1×1×size×size each.
        """
        raise ValueError(
            f"{type(self).__name__} cannot leave out pictures one by one; give 40 or more, or set"
            " data.leave_out false"
        )

    @property
    def learns(self) -> bool:
        """Whether the net has parameters to train."""
        return any(p.requires_grad for p in self.parameters())

    def region(self, images: Tensor) -> Tensor:
        """B×3×H×W → B×1×H×W in {0, 1}: what the net takes for the part. Default: everything."""
        return torch.ones_like(images[:, :1])

    def enlarge(self, maps: Tensor) -> Tensor:
        """B×1×h×w map on the grid of tokens → B×1×size×size."""
        return F.interpolate(maps, (self.size, self.size), mode="bilinear", align_corners=False)
