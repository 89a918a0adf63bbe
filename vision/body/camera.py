"""Pinhole cameras: x to the right, y down, z away from the camera; pixels from the upper left."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from vision.layers.precision import exact

Points = TypeVar("Points", Tensor, np.ndarray)


def intrinsics(
    height: int, width: int, fov: float | None = None, focal: float | None = None
) -> Tensor:
    """3×3 matrix K of a camera that looks at the middle of a picture, in pixels.

    Args:
        height, width: of the picture.
        fov: what the longer side sees, in degrees; 60 where neither is given (Multi-HMR's).
        focal: focal length in pixels, in place of it.

    Raises:
        ValueError: both given, or a value that no camera has.
    """
    if fov is not None and focal is not None:
        raise ValueError(f"fov={fov} and focal={focal}: give one of them")
    if focal is None:
        fov = 60.0 if fov is None else fov
        if not 0 < fov < 180:
            raise ValueError(f"fov={fov}: give degrees between 0 and 180, say 60")
        focal = max(height, width) / 2 / math.tan(math.radians(fov) / 2)
    if not (focal > 0 and math.isfinite(focal)):
        raise ValueError(f"focal={focal}: give pixels, above 0")
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def project(points: Points, camera: Points) -> Points:
    """…×N×3 points before the camera, …×3×3 K → …×N×2 pixels; tensors or arrays."""
    if isinstance(points, Tensor):
        with exact(points.device):
            seen: Any = points @ camera.mT
    else:
        seen = points @ camera.mT
    return seen[..., :2] / seen[..., 2:]


def unproject(pixels: Tensor, depth: Tensor, camera: Tensor) -> Tensor:
    """…×N×2 pixels at depths …×N, …×3×3 K → …×N×3 points: the inverse of `project`."""
    ones = torch.ones_like(pixels[..., :1])
    with exact(pixels.device):
        return torch.cat([pixels, ones], -1) @ torch.linalg.inv(camera).mT * depth[..., None]
