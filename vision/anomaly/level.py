"""Long parts laid level, so that few good ones show what parts look like that lie at any angle."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage.measure import label, regionprops
from torch import Tensor

LONG = 2.0
"""From how many times as long as wide on a part has a direction that can be told; ours."""
TOUCHES = 0.05
"""How much of the border a part may touch that lies free: the tip of one may; ours."""
PIECE = 0.1
"""A part may be broken: what has this share of the largest region belongs to it too; ours."""
LEAST = 0.01
"""Share of the picture that a part has at least, and not a speck or a scratch; ours."""
CONTRAST = 10
"""Grey levels of 255 that a part stands out by at least, and not the noise of a camera; ours."""


def lie_free(images: Tensor) -> Tensor:
    """B×3×S×S RGB in [0, 1] → B bool: a long part lies free in it, on a plain ground."""
    return torch.tensor([_direction(image) is not None for image in images])


def poses(images: Tensor) -> Tensor:
    """B×3×S×S RGB in [0, 1] → B×3×3: from places of the levelled picture to those of the picture.

    The part's middle comes to that of the picture, its long axis lies along x, and what takes more
    than 95% of the side is made smaller, so that nothing of the part is cut off; of what else is
    in the picture the corners are. Places are those of `affine_grid`, (x, y, 1) from −1 to 1. Where
    no long part lies free, the identity.
    """
    found = (_direction(image) for image in images)
    made = [torch.eye(3) if pose is None else pose for pose in found]
    return torch.stack(made).to(images)


def moved(images: Tensor, places: Tensor, padding: str = "border") -> Tensor:
    """B×C×S×S as seen from `places`, B×3×3; beyond the border what lies there, or "zeros"."""
    grid = F.affine_grid(places[:, :2], list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def _direction(image: Tensor) -> Tensor | None:
    """The pose of the part of a 3×S×S picture; None if there is none that is long and free."""
    grey = (image.float().mean(0) * 255).round().byte().cpu().numpy()
    side = len(grey)
    smooth = cv2.GaussianBlur(grey, (0, 0), side / 224)
    apart = cv2.absdiff(smooth, np.full_like(smooth, np.median(_border(grey))))
    stands_out = cv2.threshold(apart, 0, 1, cv2.THRESH_OTSU)[1]
    regions = label(stands_out)
    areas = np.bincount(regions.ravel())
    areas[0] = 0  # the ground
    if areas.max() < LEAST * side**2:
        return None
    part = np.isin(regions, np.flatnonzero(areas >= PIECE * areas.max()))
    if apart[part].mean() < CONTRAST:
        return None
    (whole,) = regionprops(part.astype(np.uint8))
    if whole.axis_major_length < LONG * whole.axis_minor_length or _border(part).mean() > TOUCHES:
        return None
    turn = np.pi / 2 - whole.orientation  # of x onto the long axis, clockwise on the screen
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    places = (whole.coords[:, ::-1] + 0.5) / side * 2 - 1  # N×2, x and y
    along = places @ axes
    low, high = along.min(0), along.max(0)
    middle = axes @ (low + high) / 2
    shrink = max(1.0, 1.05 * (high - low)[0] / 2)
    pose = np.eye(3)
    pose[:2, :2], pose[:2, 2] = axes * shrink, middle
    return torch.from_numpy(pose).float()


def _border(picture: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
