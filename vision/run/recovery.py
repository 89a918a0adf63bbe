"""The people that were recovered from a picture, as arrays, in files and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vision.report.mesh import overlay, seen_from

U8 = NDArray[np.uint8]
MOST_SIDE = 1600
"""Pixels: overlays are not drawn larger than this."""


@dataclass(frozen=True)
class Recovery:
    """N people of a picture, in the camera's view, in metres and in pixels of the picture.

    Attributes:
        score: N in [0, 1], highest first.
        pose: N×J×3×3 rotations against the parent joint, by `body.joint_names`; the first turns
            the whole body.
        shape: N×S, by `body.shape_names`.
        translation: N×3, the pelvis.
        vertices: N×V×3 float32; `body.faces` are their triangles.
        joints: N×J×3 float32.
        pixels: N×J×2, the joints in the picture.
        camera: 3×3 intrinsics.
        numbers: N, which track each belongs to; in a single picture 0 … N−1.
    """

    score: np.ndarray
    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray
    vertices: np.ndarray
    joints: np.ndarray
    pixels: np.ndarray
    camera: np.ndarray
    numbers: np.ndarray

    def person(self, i: int) -> dict[str, np.ndarray]:
        """The arrays of one of them, for an .npz."""
        own = ("pose", "shape", "translation", "vertices", "joints", "pixels")
        arrays = {name: getattr(self, name)[i] for name in own}
        return {"score": self.score[i], **arrays, "camera": self.camera}


def save_npz(path: Path, **arrays: Any) -> None:
    """Whole or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def views(image: U8, result: Recovery, faces: np.ndarray) -> U8:
    """The people over the picture, beside it from the side, and below that from above."""
    camera = result.camera
    longer = max(image.shape[:2])
    if longer > MOST_SIDE:
        scale = MOST_SIDE / longer
        size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        camera = camera * [[scale], [scale], [1]]
    numbers = [int(n) for n in result.numbers]
    people = [*result.vertices]
    drawn = overlay(image, people, faces, camera, numbers)
    height, width = image.shape[:2]
    half = height // 2
    wide = max(1, min(width, height) // 2)
    beside = [
        seen_from("side", people, faces, half, wide, numbers),
        seen_from("top", people, faces, height - half, wide, numbers),
    ]
    return np.hstack([drawn, np.vstack(beside)])
