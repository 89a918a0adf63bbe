"""Meshes of people as pictures and as GLB, on any machine, without a display."""

from __future__ import annotations

import colorsys
import json
import os
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from numpy.typing import NDArray

from vision.body.raster import copied, normals, rasterise, spread

U8 = NDArray[np.uint8]
OPACITY = 0.85
FAR = 40
"""From how many times their size people are looked at from the side and from above."""


def colour_of(number: int) -> np.ndarray:
    """RGB in [0, 1] of a person or a track; neighbours in number differ."""
    return np.array(colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.45, 0.95))


def overlay(
    image: U8,
    people: Sequence[np.ndarray],
    faces: np.ndarray,
    camera: np.ndarray,
    numbers: Sequence[int] | None = None,
) -> U8:
    """People drawn over the picture that they were found in.

    Args:
        image: H×W×3 RGB.
        people: V×3 vertices of each, in the camera's view, in metres.
        faces: F×3, the same for all.
        camera: 3×3 intrinsics.
        numbers: of the people, which say their colours; their order by default.
    """
    if not len(people):
        return image.copy()
    vertices, triangles, colours = _together(people, faces, numbers)
    towards = -vertices / np.linalg.norm(vertices, axis=1, keepdims=True).clip(1e-9)
    lit = colours * _shade(vertices, triangles, towards)
    seen = rasterise(vertices, triangles, camera, *image.shape[:2])
    drawn = image.astype(np.float64)
    there = seen.face >= 0
    drawn[there] += OPACITY * (255 * spread(seen, triangles, lit) - drawn[there])
    return drawn.round().clip(0, 255).astype(np.uint8)


def seen_from(
    side: str,
    people: Sequence[np.ndarray],
    faces: np.ndarray,
    height: int,
    width: int,
    numbers: Sequence[int] | None = None,
) -> U8:
    """People on white, H×W×3: from the `side`, right of the picture, or from the `top`.

    From so far that sizes hardly depend on the distance. From the side whoever is nearer to the
    camera is on the left, from above at the bottom.
    """
    picture = np.full((height, width, 3), 255, np.uint8)
    if not len(people):
        return picture
    turn = {"side": [[0, 0, 1], [0, 1, 0], [-1, 0, 0]], "top": [[1, 0, 0], [0, 0, -1], [0, 1, 0]]}
    turned = [points @ np.array(turn[side], float).T for points in people]
    points = np.concatenate(turned)
    low, high = points.min(0), points.max(0)
    size = max((high - low).max(), 1e-6)
    moved = [p - (low + high) / 2 + [0, 0, FAR * size] for p in turned]
    focal = (
        0.9
        * FAR
        * min(width / max(high[0] - low[0], 1e-6), height / max(high[1] - low[1], 1e-6))
        * size
    )
    camera = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return overlay(picture, moved, faces, camera, numbers)


def write_glb(
    path: Path,
    people: Sequence[np.ndarray],
    faces: np.ndarray,
    numbers: Sequence[int] | None = None,
) -> None:
    """All people of a picture as one scene, a mesh for each; y up, the camera at the origin.

    glTF's axes: x to the right, y up, the camera looks along −z; metres. A mesh bears its number;
    the second one of a number `person-3-2`. Nobody is a scene with nothing in it.
    """
    scene = trimesh.Scene()
    seen: Counter[int] = Counter()
    for i, vertices in enumerate(people):
        number = i if numbers is None else numbers[i]
        seen[number] += 1
        name = f"person-{number}" + (f"-{seen[number]}" if seen[number] > 1 else "")
        mesh = trimesh.Trimesh(vertices * [1, -1, -1], faces, process=False)
        shade = (255 * colour_of(number)).round().astype(np.uint8)
        material = trimesh.visual.material.PBRMaterial(
            baseColorFactor=[*shade, 255], metallicFactor=0.0, roughnessFactor=0.8
        )
        mesh.visual = trimesh.visual.TextureVisuals(material=material)
        scene.add_geometry(mesh, node_name=name, geom_name=name)
    # trimesh does not write a scene with nothing in it.
    empty = packed({"asset": {"version": "2.0"}, "scene": 0, "scenes": [{}]})
    write_whole(path, scene.export(file_type="glb") if len(people) else empty)


def write_whole(path: Path, content: bytes) -> None:
    """A file with this content, or what was there before."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def packed(scene: Mapping[str, Any], numbers: bytes = b"") -> bytes:
    """A glTF scene as the bytes of a GLB file; `numbers` are its buffer, if it has one."""
    text = json.dumps(scene, ensure_ascii=False, separators=(",", ":")).encode()
    chunks = b""
    for kind, content, filler in ((b"JSON", text, b" "), (b"BIN\0", numbers, b"\0")):
        if content:
            content += filler * (-len(content) % 4)
            chunks += struct.pack("<I4s", len(content), kind) + content
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def _together(
    people: Sequence[np.ndarray], faces: np.ndarray, numbers: Sequence[int] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One mesh of them all: vertices, triangles, and a colour for every vertex."""
    count = len(people[0])
    triangles = copied(faces, len(people), count)
    colours = [colour_of(i) for i in (range(len(people)) if numbers is None else numbers)]
    return np.concatenate(people).astype(float), triangles, np.repeat(colours, count, axis=0)


def _shade(vertices: np.ndarray, triangles: np.ndarray, towards: np.ndarray) -> np.ndarray:
    """V×1 brightness: a lamp at the camera, another one above it."""
    facing = normals(vertices, triangles)
    lamp = (facing * towards).sum(1).clip(0, 1)
    above = (facing @ [0, -1, 0]).clip(0, 1)
    return (0.25 + 0.6 * lamp + 0.15 * above)[:, None]
