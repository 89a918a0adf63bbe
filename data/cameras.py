"""Cameras that strangers hand in: what their intrinsics must be to mean pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SHORTEST = 8
"""Pixels of a focal length: 64 of them, the fewest we draw, would see 152°. A camera that counts in
widths of its picture, not in pixels, has 0.2 to 5."""
LONGEST = 1_000_000
"""Pixels: 8,000 of them would see half a degree. No number of a camera is larger."""
ROUGH = 1e-6
"""What rounding leaves where there should be 0 or 1."""


def check_intrinsics(camera: NDArray[Any], name: str) -> None:
    """Of a pinhole camera, 3×3 in pixels of its picture, from the upper left corner.

    A skew, K[0, 1], is let pass: some calibrations find one.

    Args:
        camera: K.
        name: what the message calls it, such as the file that it is from.

    Raises:
        ValueError: another shape, numbers that are not finite, a matrix transposed or mirrored, or
            one that counts in other things than pixels.
    """
    wrong = _wrong(camera)
    if wrong:
        cure = "give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels from the upper left corner"
        raise ValueError(f"{name}: intrinsics {wrong}; {cure}")


def _wrong(camera: NDArray[Any]) -> str:
    """What is wrong with it; nothing, most often."""
    if camera.shape != (3, 3) or camera.dtype.kind not in "iuf":
        return f"are {camera.shape} {camera.dtype}, not 3×3 numbers"
    (fx, _, cx), (turned, fy, cy), last = camera.tolist()
    if not np.isfinite(camera).all():
        return "have numbers that are not finite"
    if abs(np.subtract(last, (0, 0, 1))).max() > ROUGH:
        return f"end in the row {last}, not in 0, 0, 1"
    if abs(turned) > ROUGH:
        return f"have {turned:g} below the first focal length, not 0"
    if min(fx, fy) <= 0:
        return f"have the focal lengths {fx:g} and {fy:g}, which are not above 0"
    if min(fx, fy) < SHORTEST:
        return f"have the focal lengths {fx:g} and {fy:g}, which no camera has in pixels"
    if max(abs(cx), abs(cy)) < 1:  # the middle, where one counts from it, or in widths
        return f"look at the pixel ({cx:g}, {cy:g}), the corner of the picture"
    if abs(camera).max() > LONGEST:
        return f"have {abs(camera).max():g}, which no camera has in pixels"
    return ""
