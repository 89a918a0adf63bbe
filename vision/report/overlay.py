"""Anomaly maps as pictures: a heat image, and heat with contours over the inspected picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_ROWS = 512
"""Rows blended at a time, so that a huge picture needs no second copy of itself in floats."""


def heat(map: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An anomaly map (float H×W in [0, 1]) as uint8 H×W×3 RGB.

    The colours are Inferno: equal steps look equal, brightness alone carries the order, so it
    reads in grey and with any colour vision.
    """
    levels = np.rint(map.clip(0, 1) * 255).astype(np.uint8)
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)
    return cv2.cvtColor(coloured, cv2.COLOR_BGR2RGB, dst=coloured).astype(np.uint8, copy=False)


def overlay(
    rgb: NDArray[np.uint8], map: NDArray[np.float32], threshold: float = 0.5
) -> NDArray[np.uint8]:
    """The picture (uint8 H×W×3 RGB) with the map (float H×W in [0, 1]) over it, as RGB.

    Heat fades in around the threshold, so a good picture stays as it is; regions at or above the
    threshold are outlined. ValueError if the sizes differ.
    """
    if rgb.shape[:2] != map.shape:
        raise ValueError(f"map {map.shape} does not fit the picture {rgb.shape[:2]}; resize it")
    result = rgb.copy()
    for top in range(0, map.shape[0], _ROWS):
        rows = slice(top, top + _ROWS)
        alpha = _opacity(map[rows], threshold)[..., None]
        mixed = rgb[rows] * (1 - alpha) + heat(map[rows]) * alpha
        result[rows] = np.rint(mixed).astype(np.uint8)
    regions = (map >= threshold).astype(np.uint8)
    contours, _ = cv2.findContours(regions, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(map.shape) / 400))
    # White inside a dark rim: visible on every background.
    cv2.drawContours(result, contours, -1, (16, 16, 16), 2 * width + 1, cv2.LINE_AA)
    cv2.drawContours(result, contours, -1, (255, 255, 255), width, cv2.LINE_AA)
    return result


def _opacity(map: NDArray[np.float32], threshold: float) -> NDArray[np.float32]:
    """Smooth step from half the threshold (0) to midway between threshold and 1 (0.6)."""
    low, high = threshold / 2, (1 + threshold) / 2
    t = ((map - low) / (high - low)).clip(0, 1).astype(np.float32)
    opacity: NDArray[np.float32] = 0.6 * t * t * (3 - 2 * t)
    return opacity
