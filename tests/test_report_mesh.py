"""Pictures of meshes and GLB files: whoever is there shows, in place, and comes back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from vision.body.camera import intrinsics
from vision.report.mesh import colour_of, overlay, seen_from, write_glb

CAMERA = intrinsics(60, 80, 60).numpy()


def ball(x: float, y: float, z: float, radius: float = 0.3) -> np.ndarray:
    return trimesh.creation.icosphere(2, radius).vertices + np.array([x, y, z])


FACES = np.asarray(trimesh.creation.icosphere(2).faces)
GREY = np.full((60, 80, 3), 128, np.uint8)


def middle(image: np.ndarray) -> np.ndarray:
    """x and y of what was drawn over GREY."""
    rows, columns = np.nonzero((image != 128).any(-1))
    return np.array([columns.mean(), rows.mean()]) + 0.5


def test_people_are_drawn_where_they_are() -> None:
    image = overlay(GREY, [ball(0.4, -0.2, 3)], FACES, CAMERA)
    wanted = CAMERA @ [0.4, -0.2, 3]
    assert np.abs(middle(image) - wanted[:2] / wanted[2]).max() < 1
    assert (GREY == 128).all()


def test_the_nearer_one_hides_the_other() -> None:
    near, far = ball(0, 0, 2), ball(0, 0, 3)
    both = overlay(GREY, [near, far], FACES, CAMERA)
    swapped = overlay(GREY, [far, near], FACES, CAMERA, numbers=[1, 0])
    np.testing.assert_array_equal(both, swapped)
    np.testing.assert_array_equal(both, overlay(GREY, [near], FACES, CAMERA))


def test_nobody() -> None:
    np.testing.assert_array_equal(overlay(GREY, [], FACES, CAMERA), GREY)
    assert (seen_from("top", [], FACES, 20, 30) == 255).all()


def test_from_the_side_and_from_above() -> None:
    """Two in a row behind each other: apart to the right from the side, upwards from the top."""
    people = [ball(0, 0, 2), ball(0, 0, 4)]
    side = (seen_from("side", people, FACES, 60, 120) != 255).any(-1)
    top = (seen_from("top", people, FACES, 120, 60) != 255).any(-1)
    columns, rows = side.any(0), top.any(1)
    for found in (columns, rows):
        assert (np.diff(found.astype(int)) == 1).sum() == 2  # two things, a gap between them
    # The nearer one is red (number 0): on the left from the side, below from above.
    red = seen_from("side", people, FACES, 60, 120)[:, :60].reshape(-1, 3).min(0)
    assert red[0] > red[1]
    low = seen_from("top", people, FACES, 120, 60)[60:].reshape(-1, 3).min(0)
    assert low[0] > low[1]


def test_glb_comes_back(tmp_path: Path) -> None:
    people = [ball(0.4, -0.2, 3), ball(-0.5, 0.1, 4)]
    write_glb(tmp_path / "a.glb", people, FACES, numbers=[3, 7])
    scene = trimesh.load_scene(tmp_path / "a.glb")
    assert sorted(scene.geometry) == ["person-3", "person-7"]
    for name, wanted in zip(("person-3", "person-7"), people, strict=True):
        mesh = scene.geometry[name]
        centre = mesh.bounds.mean(0)
        np.testing.assert_allclose(centre, wanted.mean(0) * [1, -1, -1], atol=1e-3)
        assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.3**3, rel=0.1)  # faces look outwards
        assert len(mesh.vertices) == len(people[0])


def test_glb_of_a_number_twice(tmp_path: Path) -> None:
    people = [ball(x, 0, 3) for x in (-1, 0, 1)]
    write_glb(tmp_path / "a.glb", people, FACES, numbers=[3, 3, 3])
    scene = trimesh.load_scene(tmp_path / "a.glb")
    assert sorted(scene.geometry) == ["person-3", "person-3-2", "person-3-3"]
    assert set(scene.graph.nodes_geometry) == set(scene.geometry)
    for name, wanted in zip(sorted(scene.geometry), people, strict=True):
        x = scene.geometry[name].bounds.mean(0)[0]
        assert x == pytest.approx(wanted[:, 0].mean(), abs=1e-6)


def test_glb_of_nobody(tmp_path: Path) -> None:
    """One chunk, of JSON, with a scene without nodes, as glTF 2.0 has it."""
    write_glb(tmp_path / "a.glb", [], FACES)
    content = (tmp_path / "a.glb").read_bytes()
    assert struct.unpack("<4sII", content[:12]) == (b"glTF", 2, len(content))
    size, kind = struct.unpack("<I4s", content[12:20])
    assert (size, kind) == (len(content) - 20, b"JSON")
    assert size % 4 == 0
    scene = json.loads(content[20:])
    assert scene["asset"]["version"] == "2.0"
    assert scene["scenes"][scene["scene"]] == {}
    assert not trimesh.load_scene(tmp_path / "a.glb").geometry


def test_half_a_glb_never_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.glb"
    write_glb(path, [ball(0, 0, 3)], FACES)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:20])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        write_glb(path, [ball(0, 0, 4)], FACES)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_colours_differ() -> None:
    colours = np.array([colour_of(i) for i in range(12)])
    apart = np.linalg.norm(colours[:, None] - colours, axis=-1) + np.eye(12)
    assert apart.min() > 0.05
