"""Degradations that make the input of a restoration from a clean picture."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def bicubic(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """MATLAB's `imresize(image, scale)` of uint8 H×W or H×W×C, bit for bit.

    Keys' cubic with a = −0.5, widened by 1/scale to average where the picture shrinks; edges
    mirrored, edge pixels included; rows first, then columns, rounded to uint8 after each. All
    published super-resolution figures start from pictures made like this, and OpenCV, Pillow and
    torch differ from it in kernel, edges or rounding.

    Raises:
        ValueError: another dtype, or a scale that leaves no pixel.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"bicubic: {image.dtype} {image.shape}; give uint8 H×W or H×W×C")
    if scale <= 0:
        raise ValueError(f"bicubic: scale {scale} leaves no pixel; give one above 0")
    rows = _resample(image, scale)
    return _resample(rows.swapaxes(0, 1), scale).swapaxes(0, 1)


def _resample(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Along the first axis."""
    side = image.shape[0]
    shrink = min(scale, 1.0)
    centre = (np.arange(math.ceil(side * scale - 1e-9)) + 0.5) / scale - 0.5
    first = np.floor(centre - 2 / shrink).astype(int)
    taps = first[:, None] + np.arange(math.ceil(4 / shrink) + 2)  # N×T positions in the input
    weights = shrink * _cubic(shrink * (centre[:, None] - taps))
    weights /= weights.sum(1, keepdims=True)
    folded = taps % (2 * side)
    mirrored = np.minimum(folded, 2 * side - 1 - folded)
    total = np.zeros((len(centre), *image.shape[1:]))
    for tap, weight in zip(mirrored.T, weights.T, strict=True):
        total += image[tap] * weight.reshape(-1, *[1] * (image.ndim - 1))
    return np.floor(total.clip(0, 255) + 0.5).astype(np.uint8)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys (1981), a = −0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
