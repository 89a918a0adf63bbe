"""Crops around people, and the camera that OSX imagines before each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vision.body.camera import unproject

CROP = (512, 384)
PATCH = 32  # pixels of a crop a token
MARGIN = 1.25  # of a crop around the box of a person
FOCAL = 5000 * CROP[0] / 256  # of the camera that is imagined before a crop, in its pixels

At = tuple[Tensor, Tensor]
"""N people: which picture of the batch, int64, and box, N×4 left, top, right, bottom in pixels."""


def check(images: Tensor, camera: Tensor, picture: Tensor, box: Tensor) -> None:
    """ValueError where shapes, boxes or the numbers of pictures are wrong."""
    count, people = len(images), len(picture)
    for what, found, wanted in (
        ("pictures", images.shape, (count, 3, *images.shape[2:4])),
        ("cameras", camera.shape, (count, 3, 3)),
        ("boxes", box.shape, (people, 4)),
    ):
        if found != wanted or images.ndim != 4:
            text = "B×3×H×W" if what == "pictures" else "×".join(map(str, wanted))
            raise ValueError(f"{what} of shape {tuple(found)}; give {text}")
    if not ((box[:, 2:] > box[:, :2]).all() and box.isfinite().all()):
        raise ValueError("a box without area; give left, top, right, bottom in pixels, or leave it")
    if people and not 0 <= picture.min() <= picture.max() < count:
        raise ValueError(
            f"people in pictures {sorted({*picture.tolist()})} of {count}; count from 0"
        )


def crop_of(box: Tensor) -> tuple[Tensor, Tensor]:
    """N×4 boxes → upper left corners N×2 of their crops, and N pixels of a crop for one of the
    picture: (points − corner) · scale lie in the crop.

    A crop has the shape 3:4 and 1.25 times the size of the box. Boxes are not clipped to the
    picture.
    """
    size = box[:, 2:] - box[:, :2]
    scale = CROP[0] / MARGIN / torch.maximum(size[:, 1], size[:, 0] * CROP[0] / CROP[1])
    middle = (box[:, :2] + box[:, 2:]) / 2
    return middle - box.new_tensor(CROP[::-1]) / 2 / scale[:, None], scale


def cut_out(images: Tensor, picture: Tensor, corner: Tensor, scale: Tensor) -> Tensor:
    """N×3×512×384, bilinear; outside the picture it is black.

    Pixel i of a crop shows the place corner + i / scale in pixels whose middles are whole numbers,
    as OpenCV's warpAffine has it.
    """
    sides = (torch.arange(side, device=images.device) for side in CROP)
    rows, columns = torch.meshgrid(*sides, indexing="ij")
    grid = torch.stack([columns, rows], -1) / scale[:, None, None, None] + corner[:, None, None]
    grid = (2 * grid + 1) / grid.new_tensor([*images.shape[:1:-1]]) - 1  # N×512×384×2
    crops = images.new_zeros(len(corner), 3, *CROP)
    for index in picture.unique().tolist():  # a picture is not copied for each of its people
        own = picture == index
        tall = grid[own].flatten(0, 1)[None].to(images.dtype)
        strip = F.grid_sample(images[index : index + 1], tall, align_corners=False)[0]
        crops[own] = strip.unflatten(1, (-1, CROP[0])).transpose(0, 1)
    return crops


def real_place(virtual: Tensor, camera: Tensor, corner: Tensor, scale: Tensor) -> Tensor:
    """N×3 before the imagined camera of a crop → before N×3×3 of the picture.

    The same pixel, and as far away as gives the same size.
    """
    middle = virtual.new_tensor(CROP[::-1]) / 2
    pixel = (FOCAL * virtual[:, :2] / virtual[:, 2:] + middle) / scale[:, None] + corner
    focal = (camera[:, 0, 0] * camera[:, 1, 1]).sqrt()
    far = virtual[:, 2] * focal * scale / FOCAL
    return unproject(pixel[:, None], far[:, None], camera)[:, 0]


def towards(ray: Tensor) -> Tensor:
    """N×3 with z above 0 → N×3×3, the shortest turn that takes the camera's axis there."""
    x, y, z = F.normalize(ray, dim=-1).unbind(-1)
    none = torch.zeros_like(x)
    cross = torch.stack([none, none, x, none, none, y, -x, -y, none], -1).unflatten(-1, (3, 3))
    return torch.eye(3).to(ray) + cross + cross @ cross / (1 + z)[:, None, None]
