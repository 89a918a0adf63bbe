"""What the task, the scorer and the engine ask of any net that inspects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Recovery(NamedTuple):
    """What a net that recovers pictures is trained on: B×3×H×W each, float in [0, 1]."""

    recovered: Tensor
    image: Tensor


class Detector(nn.Module):
    """Base of the nets that inspect: pictures in, raw anomaly maps out.

    A subclass sets `size` and gives `maps`; one that learns by gradient gives `recover`; one that
    keeps a memory of good pictures gives `remember`.

    Attributes:
        size: side in pixels of the square pictures it is given; maps are scored at this size.
    """

    size: int = 256

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """B×3×S×S RGB in [0, 1] → named B×1×S×S maps ≥ 0; larger is more suspicious."""
        raise NotImplementedError(f"{type(self).__name__} gives no maps")

    def recover(self, images: Tensor) -> Recovery:
        """One training step's forward pass; only for nets that learn by gradient."""
        raise NotImplementedError(f"{type(self).__name__} does not learn by gradient")

    def remember(self, batches: Iterable[Tensor]) -> None:
        """See all good pictures once, after training. Default: nothing to remember."""

    @property
    def learns(self) -> bool:
        """Whether the net has parameters to train."""
        return any(p.requires_grad for p in self.parameters())

    @property
    def remembers(self) -> bool:
        """Whether the net must see the good pictures once after training."""
        return any(True for _ in self.memories())

    def memories(self) -> Iterator[nn.Module]:
        from vision.anomaly.memory import FeatureMemory

        return (m for m in self.modules() if isinstance(m, FeatureMemory))

    def enlarge(self, maps: Tensor) -> Tensor:
        """B×1×h×w map on the grid of tokens → B×1×size×size."""
        return F.interpolate(maps, (self.size, self.size), mode="bilinear", align_corners=False)
