"""The rasteriser against rays: what each pixel sees, and how far it is."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st

from vision.body import Anny, raster
from vision.body.camera import intrinsics
from vision.body.raster import copied, normals, rasterise, spread

CAMERA = intrinsics(48, 64, 60).numpy().astype(np.float64)


def by_rays(vertices: np.ndarray, faces: np.ndarray, height: int, width: int) -> np.ndarray:
    """H×W depths, pixel by pixel: Möller and Trumbore's intersection, fronts of triangles alone."""
    y, x = np.mgrid[:height, :width] + 0.5
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(CAMERA).T
    depths = np.full((height, width), np.inf)
    for a, b, c in vertices[faces]:
        normal = np.cross(b - a, c - a)
        if min(a[2], b[2], c[2]) <= raster.NEAR:
            continue
        towards = rays @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            t = (a @ normal) / towards
        points = rays * t[..., None]
        inside = towards < 0  # it is seen from outside
        for p, q in ((a, b), (b, c), (c, a)):
            inside &= np.cross(q - p, points - p) @ normal >= 0
        depths = np.where(inside & (t < depths), t, depths)
    return depths


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_random_triangles_equal_rays(seed: int, count: int) -> None:
    draw = np.random.default_rng(seed)
    vertices = draw.normal((0, 0, 3), 1, (3 * count, 3))
    faces = np.arange(3 * count).reshape(-1, 3)
    seen = rasterise(vertices, faces, CAMERA, 48, 64)
    wanted = by_rays(vertices, faces, 48, 64)
    # A centre on an edge may fall to either side.
    differs = ~np.isclose(seen.depth, wanted, rtol=1e-5)
    assert differs.mean() < 0.002
    assert ((seen.face >= 0) == np.isfinite(seen.depth)).all()


def test_weights_give_the_point_back() -> None:
    draw = np.random.default_rng(0)
    vertices = draw.normal((0, 0, 4), 1, (60, 3))
    faces = np.arange(60).reshape(-1, 3)
    face, depth, weights = rasterise(vertices, faces, CAMERA, 48, 64)
    there = face >= 0
    points = (vertices[faces[face[there]]] * weights[there][..., None]).sum(1)
    y, x = np.nonzero(there)
    np.testing.assert_allclose(points[:, 2], depth[there], rtol=1e-5)
    pixels = points @ CAMERA.T
    wanted = np.stack([x, y], 1) + 0.5
    np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], wanted, atol=1e-4)
    assert (weights[~there] == 0).all()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(1)
    vertices = draw.normal((0, 0, 3), 1, (90, 3))
    faces = np.arange(90).reshape(-1, 3)
    at_once = rasterise(vertices, faces, CAMERA, 48, 64)
    monkeypatch.setattr(raster, "CHUNK", 50)
    for one, other in zip(at_once, rasterise(vertices, faces, CAMERA, 48, 64), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "vertices",
    [
        np.array([[0, 0, -2.0], [1, 0, -2], [0, 1, -2]]),  # behind the camera
        np.array([[0, 0, 2.0], [1, 0, 0], [0, 1, 2]]),  # through it
        np.array([[90, 0, 2.0], [91, 1, 2], [90, 1, 2]]),  # beside the picture
        np.zeros((3, 3)),
    ],
)
def test_what_is_not_seen(vertices: np.ndarray) -> None:
    for order in ([0, 1, 2], [0, 2, 1]):
        seen = rasterise(vertices, np.array([order]), CAMERA, 48, 64)
        assert (seen.face == -1).all()


def wall(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """A slanting plane z = 2 + x / 2 that fills the picture and more, in two triangles a cell."""
    y, x = np.mgrid[-2 : 2 : (rows + 1) * 1j, -1.8 : 3.6 : (columns + 1) * 1j]
    vertices = np.stack([x, y, 2 + x / 2], -1).reshape(-1, 3)
    a = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).reshape(-1, 1)
    below = a + columns + 1
    faces = np.concatenate([a, below, a + 1, a + 1, below, below + 1], 1).reshape(-1, 3)
    return vertices, faces


@pytest.mark.parametrize("cells", [(1, 1), (7, 11), (60, 90)])
def test_a_wall_has_no_gaps(cells: tuple[int, int]) -> None:
    """Every pixel sees it, where its ray meets the plane, however finely it is cut."""
    vertices, faces = wall(*cells)
    seen = rasterise(vertices, faces, CAMERA, 48, 64)
    assert (seen.face >= 0).all()
    x = np.arange(64) + 0.5
    ray = (x - CAMERA[0, 2]) / CAMERA[0, 0]  # x of where it is at z = 1
    np.testing.assert_allclose(seen.depth, np.tile(2 / (1 - ray / 2), (48, 1)), rtol=1e-5)
    np.testing.assert_allclose(seen.weights.sum(-1), 1, atol=1e-5)
    places = spread(seen, faces, vertices)
    np.testing.assert_allclose(places[:, 0], (ray * seen.depth).ravel(), atol=1e-5)
    assert (rasterise(vertices, faces[:, ::-1], CAMERA, 48, 64).face == -1).all()  # its back


def test_the_nearer_of_two_bodies_is_seen_whatever_their_order() -> None:
    vertices, faces = wall(7, 11)
    both = np.concatenate([vertices, 1.5 * vertices])
    for order in (both, both[::-1].reshape(2, -1, 3)[:, ::-1].reshape(-1, 3)):
        seen = rasterise(order, copied(faces, 2, len(vertices)), CAMERA, 48, 64)
        alone = rasterise(vertices, faces, CAMERA, 48, 64)
        np.testing.assert_allclose(seen.depth, alone.depth, rtol=1e-6)
        nearer = 0 if order is both else 1
        assert (seen.face // len(faces) == nearer).all()


def test_a_principal_point_aside_and_two_focal_lengths() -> None:
    """A small square two metres away, by hand: 10 pixels a metre across, 20 down."""
    camera = np.array([[20.0, 0, 7], [0, 40, 30], [0, 0, 1]])
    square = np.array([[0, 0, 2.0], [0, 1, 2], [1, 1, 2], [1, 0, 2]])
    seen = rasterise(square, np.array([[0, 1, 2], [0, 2, 3]]), camera, 60, 40)
    rows, columns = np.nonzero(seen.face >= 0)
    assert (rows.min(), rows.max()) == (30, 49)
    assert (columns.min(), columns.max()) == (7, 16)
    assert len(rows) == 200
    assert (seen.depth[seen.face >= 0] == 2).all()


def test_normals_of_a_ball_point_away_from_its_middle() -> None:
    ball = trimesh.creation.icosphere(3)
    found = normals(np.asarray(ball.vertices), np.asarray(ball.faces))
    np.testing.assert_allclose(found, ball.vertices, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    assert (normals(np.zeros((3, 3)), np.array([[0, 1, 2]])) == 0).all()  # a triangle of no area


def test_memory_is_what_the_chunks_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many large triangles behind each other: 250 bytes for each pixel tried, and the picture."""
    vertices, faces = wall(8, 12)
    many = np.concatenate([vertices * (1 + i / 10) for i in range(10)])
    monkeypatch.setattr(raster, "CHUNK", 1 << 16)
    tracemalloc.start()
    rasterise(many, copied(faces, 10, len(vertices)), intrinsics(180, 240, 60).numpy(), 180, 240)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250 * (1 << 16) + 40 * 180 * 240


def test_a_body_has_its_silhouette() -> None:
    """Whoever stands three metres away fills the pixels that its size says."""
    anny = Anny()
    still = torch.eye(3).expand(1, len(anny.parents), 3, 3).clone()
    still[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))  # it looks into the camera
    place = torch.tensor([[0.0, 0.0, 3.0]])
    vertices = anny(still, anny.neutral_shape[None], place).vertices[0].numpy()
    camera = intrinsics(256, 256, 60).numpy()
    seen = rasterise(vertices, anny.faces.numpy(), camera, 256, 256)
    rows = np.flatnonzero((seen.face >= 0).any(1))
    tall = (vertices[:, 1].max() - vertices[:, 1].min()) / 3 * camera[0, 0]
    assert abs(np.ptp(rows) - tall) < 6
    square_metres = (seen.face >= 0).sum() * (3 / camera[0, 0]) ** 2
    assert 0.4 < square_metres < 0.8
    nearest = vertices[:, 2].min()
    assert nearest - 1e-5 <= seen.depth.min() < nearest + 0.03
