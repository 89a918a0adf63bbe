"""What the engine has to know of a net that restores, without knowing its name."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """Raw facts about a net.

    Attributes:
        scale: sides of the output over sides of the input.
        channels: of the pictures it takes, 3 for RGB or 1 for grey.
        pools_globally: whether it pools over the whole picture, so that tiles differ from the
            whole.
        regions: whether it is called with a region map beside the pictures.
        sums_globally: whether what it pools is a sum over the pixels, so that a tile alone is far
            from the whole; the tiles of a picture then always share it.
        anew: how the names of those tensors begin that it learns anew when it starts from weights
            that lack them or have others, say of another scale.
    """

    scale: int
    channels: int
    pools_globally: bool
    regions: bool = False
    sums_globally: bool = False
    anew: tuple[str, ...] = ()
