"""Any net that restores, on pictures of any size: in tiles that fit into memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from vision.layers.pooling import Passes, shared_pooling
from vision.run.memory import out_of_memory

Net = Callable[[Tensor], Tensor]
OVERLAP = 32
"""Pixels that neighbouring tiles share. The quarter next to its edge a tile gives away, since
the net saw too little around it; in the middle half one fades into the other."""
STEP = 16
"""Sides of tiles are multiples of it where they may be, so that no net fills up its windows."""
SMALLEST = 64
"""Side of the smallest tile that is tried when memory runs out."""


class Tiler:
    """Restores a picture whole if it is small enough, else tile by tile.

    Tiles are of one size and evenly placed, so none is a narrow rest; they overlap, and fade
    linearly into each other, so no seam is seen. Where memory runs out the tile in hand is cut into
    smaller ones, which later tiles then have too; what is done stays. Beyond the output itself,
    memory does not grow with the picture.

    Args:
        net: B×C×h×w in [0, 1] → B×C×(scale·h)×(scale·w).
        scale: of the net.
        tile: longest side of a tile in pixels of the input; 0 takes pictures whole while they fit.
        device: where the net runs; the picture and its restoration stay on the CPU.
        pools: a net that pools over the whole picture, to have all tiles of a picture share what
            they pool (`vision.layers.pooling`), for twice the time; None lets each pool its own.

    Attributes:
        used: how many tiles the last picture took.
    """

    def __init__(
        self, net: Net, scale: int, tile: int, device: torch.device, pools: nn.Module | None = None
    ) -> None:
        if tile and tile < SMALLEST:
            raise ValueError(f"a tile of {tile} pixels is too small; give {SMALLEST} or more, or 0")
        self.net, self.scale, self.tile, self.device = net, scale, tile, device
        self.pools, self.used = pools, 0
        self._passes: Passes | None = None

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """C×H×W float in [0, 1] → C×(scale·H)×(scale·W) float32, not clamped."""
        with shared_pooling(self.pools) if self.pools else nullcontext() as self._passes:
            self.used = 0
            restored = self._restored(image)
            if self._passes is None or self.used == 1:
                return restored
            del restored  # its tiles pooled each for itself; now they know of each other
            self._passes.settle()
            self.used = 0
            return self._restored(image)

    def _restored(self, image: Tensor, share: float = 1.0) -> Tensor:
        """`share` is the share of the pixels that no neighbouring tile counts as its own."""
        found = []
        if self._passes:
            self._passes.share(share)
            found = self._passes.found()
        height, width = image.shape[-2:]
        if not self.tile or max(height, width) <= self.tile:
            try:
                whole = self.net(image[None].to(self.device))[0].float().cpu()
            except (MemoryError, RuntimeError) as error:
                side = max(height, width)
                if not out_of_memory(error) or side <= SMALLEST:
                    raise
                self.tile = max(-(-side // 2), SMALLEST)
                if self._passes:
                    self._passes.back(found)
            else:
                self.used += 1
                return whole
            # Only here, after the handler: while it ran, the failed pass held its memory.
        return self._in_tiles(image, share)

    def _in_tiles(self, image: Tensor, share: float) -> Tensor:
        restored: Tensor | None = None
        rows, columns = (places(side, self.tile) for side in image.shape[-2:])
        s = self.scale
        for top, vertical in rows:
            for left, horizontal in columns:
                part = image[:, top : top + len(vertical), left : left + len(horizontal)]
                own = float(vertical.mean() * horizontal.mean())
                done = self._restored(part, share * own)
                down = vertical.repeat_interleave(s)[:, None]
                done *= down * horizontal.repeat_interleave(s)
                if restored is None:
                    sides = (side * s for side in image.shape[-2:])
                    restored = done.new_zeros(len(done), *sides)
                y, x = top * s, left * s
                restored[:, y : y + done.shape[1], x : x + done.shape[2]] += done
        assert restored is not None
        return restored


def places(side: int, tile: int, overlap: int = OVERLAP) -> list[tuple[int, Tensor]]:
    """Where tiles of at most `tile` pixels begin along a side, and the weight of each pixel.

    Weights fall linearly towards a neighbour, to zero near the edge, and add up to one everywhere.
    """
    if side <= tile:
        return [(0, torch.ones(side))]
    overlap = min(overlap, tile // 2)
    count = -(-(side - overlap) // (tile - overlap))
    # No larger than that many tiles need, lest they overlap further: up to half the time.
    needed = -(-(side + (count - 1) * overlap) // count)
    tile = min(tile, -(-needed // STEP) * STEP)
    starts = [round(i * (side - tile) / (count - 1)) for i in range(count)]
    margin = overlap // 4
    ramp = ((torch.arange(tile) + 0.5 - margin) / (overlap - 2 * margin)).clamp(0, 1)
    weights = []
    for i in range(count):
        rising = ramp if i else torch.ones(tile)
        falling = ramp.flip(0) if i < count - 1 else torch.ones(tile)
        weights.append(rising * falling)
    total = torch.zeros(side)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + tile] += weight
    return [
        (start, weight / total[start : start + tile])
        for start, weight in zip(starts, weights, strict=True)
    ]
