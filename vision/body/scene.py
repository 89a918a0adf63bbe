"""What is behind people who never existed, and the camera that sees them."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from data.degrade import Jpeg
from data.images import read_rgb
from vision.body.camera import intrinsics

SMALLEST = 0.6
"""Of a photograph behind people, as large a piece as fits or no less than this share of it."""

JPEG = Jpeg((30, 95))
"""What natural pictures are stored as; the range of qualities is ours."""


class View:
    """A camera above a floor, y = 0 in a world where y points up; it looks along z."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.camera = intrinsics(height, width, rng.uniform(40, 75)).numpy().astype(np.float64)
        self.high = rng.uniform(0.8, 2.2)
        down = math.radians(rng.uniform(-4, 14))
        # The camera's x is the world's −x, its y points down.
        self.turn = np.diag([-1.0, -1.0, 1.0]) @ Rotation.from_euler("X", -down).as_matrix()
        self.horizon = self.camera[1, 2] - self.camera[1, 1] * math.tan(down)
        self.width = width

    def on_floor(self, rng: np.random.Generator, between: tuple[float, float]) -> np.ndarray:
        """x and z of a place that the camera sees, so many metres away."""
        far = rng.uniform(*between)
        across = rng.uniform(0.08, 0.92) * self.width - self.camera[0, 2]
        return np.array([-across / self.camera[0, 0] * far, far])

    def before(self, points: np.ndarray) -> np.ndarray:
        """Points of the world → before the camera."""
        return (points - [0, self.high, 0]) @ self.turn.T

    def box(self, rng: np.random.Generator, place: np.ndarray) -> np.ndarray:
        """8×3 corners of a box that stands in somebody's way."""
        x, z = place[rng.integers(len(place))] * rng.uniform(0.6, 0.85)
        wide, deep, high = rng.uniform([0.1, 0.1, 0.4], [0.5, 0.4, 1.4])
        corners = np.array([(i & 1, i >> 1 & 1, i >> 2 & 1) for i in range(8)], np.float64)
        corners = (corners - [0.5, 0, 0.5]) * [2 * wide, high, 2 * deep] + [x, 0, z]
        return self.before(corners)


_SIDES = [(0, 2, 1, 3), (4, 5, 6, 7), (0, 1, 4, 5), (2, 6, 3, 7), (0, 4, 2, 6), (1, 3, 5, 7)]
CUBE = np.array([triangle for a, b, c, d in _SIDES for triangle in ((a, b, c), (b, d, c))])
"""Triangles of a box whose corner i lies at x, y, z by the bits of i."""


@functools.lru_cache(maxsize=1)  # a clip has the same behind all its frames
def photograph(path: Path, height: int, width: int) -> np.ndarray:
    """uint8 RGB, no larger than it takes for the smallest piece to fill height×width."""
    photo = read_rgb(path)
    shrink = max(height / photo.shape[0], width / photo.shape[1]) / SMALLEST
    if shrink >= 1:
        return photo
    size = (math.ceil(shrink * photo.shape[1]), math.ceil(shrink * photo.shape[0]))
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def piece_of(rng: np.random.Generator, path: Path, height: int, width: int) -> np.ndarray:
    """Float H×W×3, 0 … 255: a piece of a photograph, enlarged where it is smaller."""
    photo = photograph(path, height, width)
    share = rng.uniform(SMALLEST, 1) * min(photo.shape[0] / height, photo.shape[1] / width)
    high, wide = max(1, int(share * height)), max(1, int(share * width))
    top = int(rng.integers(photo.shape[0] - high + 1))
    left = int(rng.integers(photo.shape[1] - wide + 1))
    piece = photo[top : top + high, left : left + wide].astype(np.float64)
    return cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR)


def room(rng: np.random.Generator, horizon: float, height: int, width: int) -> np.ndarray:
    """Float H×W×3, 0 … 255: a wall, a floor that ends at the row `horizon`, and things."""
    rows = np.linspace(0, 1, height)[:, None, None]
    picture = np.tile(rng.uniform(90, 230, 3) * (1 - 0.4 * rows), (1, width, 1))
    end = int(np.clip(horizon, 0, height))
    picture[end:] = rng.uniform(40, 200, 3) * (0.6 + 0.4 * rows[end:])
    for _ in range(rng.integers(3, 12)):
        x, y = rng.uniform(0, [width, height])
        wide, high = rng.uniform(0.05, 0.4, 2) * height
        corner = (int(x + wide), int(y + high))
        cv2.rectangle(picture, (int(x), int(y)), corner, rng.uniform(20, 240, 3).tolist(), -1)
    rough = cv2.resize(rng.normal(0, 1, (height // 16, width // 16, 3)), (width, height))
    return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 4)) + 8 * rough


def filmed(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Contrast, tint and sharpness of a cheap camera: float H×W×3 RGB, 0 … 255, where it came from
    and, a tenth beyond, where it goes."""
    picture = 255 * (picture.clip(0, 255) / 255) ** rng.uniform(0.7, 1.5) * rng.uniform(0.9, 1.1, 3)
    if rng.random() < 0.6:  # of fewer pixels, enlarged
        height, width = picture.shape[:2]
        share = rng.uniform(0.3, 1)
        small = (max(1, round(share * width)), max(1, round(share * height)))
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
    return picture


def stored(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """uint8 H×W×3 as it comes out of a JPEG file."""
    return (255 * JPEG(picture, rng)).round().astype(np.uint8)
