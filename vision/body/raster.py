"""Which triangle each pixel sees, and how far it is: on any machine, without a display."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vision.body.camera import project

NEAR = 0.05
"""Metres before the camera within which nothing is drawn."""
CHUNK = 1 << 20
"""Pixels that are tried at once: bounds the memory, about 250 bytes for each."""


class Seen(NamedTuple):
    """What a camera sees of triangles.

    Attributes:
        face: H×W int32, the triangle of each pixel, −1 where there is none.
        depth: H×W float32, along the camera's axis, infinite where there is none.
        weights: H×W×3 float32, how near the pixel's point is to each corner of its triangle; they
            sum to 1, and are 0 where there is none.
    """

    face: np.ndarray
    depth: np.ndarray
    weights: np.ndarray


def rasterise(
    vertices: np.ndarray, faces: np.ndarray, camera: np.ndarray, height: int, width: int
) -> Seen:
    """Triangles → pixels, by a depth buffer.

    Args:
        vertices: V×3 before the camera (x right, y down, z away), in metres.
        faces: F×3 indices of them, counter-clockwise seen from outside; the backs of triangles and
            triangles that reach nearer than 5 cm are not drawn.
        camera: 3×3 intrinsics in pixels; a pixel's centre lies at its half.
        height, width: of the picture.
    """
    points = vertices.astype(np.float64)
    depth = points[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = project(points, camera)
    found = Seen(
        np.full(height * width, -1, np.int32),
        np.full(height * width, np.inf, np.float32),
        np.zeros((height * width, 3), np.float32),
    )
    drawn, first, size = _boxes(pixels, depth, faces, height, width)
    ends = np.cumsum(size.prod(1))
    start = 0
    while start < len(drawn):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHUNK, "right")))
        part = slice(start, stop)
        _draw(found, pixels, depth, faces, drawn[part], first[part], size[part], width)
        start = stop
    face, distance, weights = found
    return Seen(
        face.reshape(height, width),
        distance.reshape(height, width),
        weights.reshape(height, width, 3),
    )


def spread(seen: Seen, faces: np.ndarray, values: np.ndarray) -> np.ndarray:
    """V×C values of vertices → P×C, of the pixels that see a triangle, in the order of a mask."""
    there = seen.face >= 0
    return (values[faces[seen.face[there]]] * seen.weights[there][..., None]).sum(1)


def copied(faces: np.ndarray, times: int, vertices: int) -> np.ndarray:
    """F×3 of a mesh of so many vertices → those of `times` such meshes one after the other."""
    return np.concatenate([faces + i * vertices for i in range(times)])


def normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """V×3 unit normals, outwards: of the triangles around, by their areas."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    normals = np.zeros_like(vertices)
    for i in range(3):
        for axis in range(3):
            normals[:, axis] += np.bincount(faces[:, i], across[:, axis], len(vertices))
    return normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)


def _boxes(
    pixels: np.ndarray, depth: np.ndarray, faces: np.ndarray, height: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Indices of the triangles to draw, and the first pixel and size (x, y) of each one's box."""
    ahead = np.flatnonzero((depth[faces] > NEAR).all(1))
    corners = pixels[faces[ahead]]  # F×3×2
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    front = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0] < 0  # counter-clockwise, as y points down
    ahead, corners = ahead[front], corners[front]
    # Pixels whose centres lie within the box of the corners.
    limits = np.array([width, height])
    first = np.ceil(corners.min(1) - 0.5).clip(0, limits).astype(np.int64)
    stop = (np.floor(corners.max(1) - 0.5) + 1).clip(0, limits).astype(np.int64)
    size = stop - first
    there = (size > 0).all(1)
    return ahead[there], first[there], size[there]


def _draw(
    found: Seen,
    pixels: np.ndarray,
    depth: np.ndarray,
    faces: np.ndarray,
    drawn: np.ndarray,
    first: np.ndarray,
    size: np.ndarray,
    width: int,
) -> None:
    """Try every pixel of the boxes of these triangles, and keep the nearest triangle of each."""
    counts = size.prod(1)
    owner = np.repeat(np.arange(len(drawn)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    x = first[owner, 0] + place % size[owner, 0]
    y = first[owner, 1] + place // size[owner, 0]
    corners = pixels[faces[drawn]]  # F×3×2
    a, b, c = (corners[owner, i] for i in range(3))
    centre = np.stack([x, y], 1) + 0.5
    areas = np.stack([_area(b, c, centre), _area(c, a, centre), _area(a, b, centre)], 1)
    inside = (areas <= 0).all(1)
    owner, areas, pixel = owner[inside], areas[inside], (y * width + x)[inside]
    # On the screen it is 1/z that is linear, not z.
    shares = areas / areas.sum(1, keepdims=True) / depth[faces[drawn[owner]]]
    distance = 1 / shares.sum(1)
    nearest = np.lexsort((distance, pixel))
    pixel, distance = pixel[nearest], distance[nearest]
    new = np.ones(len(pixel), bool)
    new[1:] = pixel[1:] != pixel[:-1]
    new &= distance < found.depth[pixel]
    chosen = nearest[new]
    pixel, distance = pixel[new], distance[new]
    found.depth[pixel] = distance
    found.face[pixel] = drawn[owner[chosen]]
    found.weights[pixel] = shares[chosen] * distance[:, None]


def _area(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Twice the signed area of triangles, below 0 if counter-clockwise on the screen."""
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
