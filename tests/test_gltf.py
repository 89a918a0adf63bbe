"""The animated file of a video, read by the specification of glTF 2.0 and not by what wrote it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch
import trimesh
from bodies import SMPL_PARENTS, SMPL_SIZES, SMPLX_PARENTS, SMPLX_SIZES, arrays
from scipy.spatial.transform import Rotation, Slerp

from vision.body import SMPL, SMPLX, Anny, BodyModel
from vision.report.gltf import write_animation

SLOW = pytest.mark.slow
RATE = 25.0
FRAMES = np.arange(10)
SEEN = {0: FRAMES, 3: np.array([2, 3, 6, 7])}
"""Frames of two tracks: one that is always there, one that comes, is lost, comes back and goes."""
TYPES = {5121: np.uint8, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
SHAPES = {"SCALAR": (), "VEC3": (3,), "VEC4": (4,), "MAT4": (4, 4)}
Tracks = dict[int, dict[str, np.ndarray]]


@pytest.fixture(scope="module", params=["anny", "smplx", pytest.param("smpl", marks=SLOW)])
def body(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> BodyModel:
    """Without corrections for the pose, which a skin cannot hold."""
    if request.param == "anny":
        return Anny()
    smplx = request.param == "smplx"
    data = arrays(SMPLX_SIZES, SMPLX_PARENTS) if smplx else arrays(SMPL_SIZES, SMPL_PARENTS)
    path = tmp_path_factory.mktemp("body_models") / "model.npz"
    np.savez(path, **data | {"posedirs": np.zeros_like(data["posedirs"])})
    return SMPLX(path) if smplx else SMPL(path)


@pytest.fixture(scope="module")
def tracks(body: BodyModel) -> Tracks:
    draw = torch.Generator().manual_seed(0)
    found = {}
    for number, frames in SEEN.items():
        count = len(frames)
        turns = 0.5 * torch.randn(count, len(body.parents), 3, generator=draw)
        turns[:, 0, 0] += np.pi  # upright in the camera's view
        turns[:, 5] = torch.tensor([0.1, 0.2, 0.3])  # a joint that never moves
        shape = body.neutral_shape + 0.2 * torch.randn(len(body.neutral_shape), generator=draw)
        place = torch.tensor([0.5 * number, 0.3, 4.0]) + torch.randn(count, 3, generator=draw)
        found[number] = {
            "frames": frames,
            "pose": roma.rotvec_to_rotmat(turns).numpy(),
            "shape": shape.expand(count, -1).numpy(),
            "translation": place.numpy(),
        }
    return found


@pytest.fixture(scope="module")
def written(
    body: BodyModel, tracks: Tracks, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, File]:
    path = tmp_path_factory.mktemp("gltf") / "walk.glb"
    write_animation(path, body, tracks, FRAMES, RATE)
    return path, File(path)


class File:
    """A GLB file: its document, its buffer, and what its nodes and skins are at a time."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        assert struct.unpack("<4sII", content[:12]) == (b"glTF", 2, len(content))
        size, kind = struct.unpack("<I4s", content[12:20])
        assert (size % 4, kind) == (0, b"JSON")
        self.scene: dict[str, Any] = json.loads(content[20 : 20 + size])
        length, kind = struct.unpack("<I4s", content[20 + size : 28 + size])
        self.buffer = content[28 + size :]
        assert (length, length % 4, kind) == (len(self.buffer), 0, b"BIN\0")

    def array(self, accessor: int) -> np.ndarray:
        about = self.scene["accessors"][accessor]
        view = self.scene["bufferViews"][about["bufferView"]]
        data = self.buffer[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]
        shape = (about["count"], *SHAPES[about["type"]])
        values = np.frombuffer(data, TYPES[about["componentType"]]).reshape(shape)
        return values.swapaxes(1, 2) if about["type"] == "MAT4" else values

    def moved(self, time: float) -> list[dict[str, Any]]:
        """The nodes as the animation has them then."""
        nodes = [dict(node) for node in self.scene["nodes"]]
        (film,) = self.scene["animations"]
        for channel in film["channels"]:
            sampler = film["samplers"][channel["sampler"]]
            times, values = self.array(sampler["input"]), self.array(sampler["output"])
            at = np.clip(time, times[0], times[-1])
            if sampler["interpolation"] == "STEP":
                value = values[np.searchsorted(times, at, "right") - 1]
            elif channel["target"]["path"] == "rotation" and len(times) > 1:
                value = Slerp(times, Rotation.from_quat(values))(at).as_quat()
            else:
                value = np.array([np.interp(at, times, column) for column in values.T])
            nodes[channel["target"]["node"]][channel["target"]["path"]] = value
        return nodes

    def whole(self, time: float) -> dict[int, np.ndarray]:
        """4×4 of each node then, from its own axes into the scene's."""
        nodes = self.moved(time)
        found: dict[int, np.ndarray] = {}

        def walk(node: int, above: np.ndarray) -> None:
            found[node] = above @ matrix(nodes[node])
            for child in nodes[node].get("children", []):
                walk(child, found[node])

        for root in self.scene["scenes"][0]["nodes"]:
            walk(root, np.eye(4))
        return found

    def surfaces(self, time: float) -> dict[str, np.ndarray]:
        """V×3 of each mesh then, by the skin that its node names."""
        whole = self.whole(time)
        found = {}
        for node in self.scene["nodes"]:
            if "mesh" in node:
                skin = self.scene["skins"][node["skin"]]
                moves = np.stack([whole[joint] for joint in skin["joints"]])
                moves = moves @ self.array(skin["inverseBindMatrices"])
                ((part),) = self.scene["meshes"][node["mesh"]]["primitives"]
                points = self.array(part["attributes"]["POSITION"])
                weights = self.weights(part["attributes"], len(moves))
                own = (weights @ moves[:, :3].reshape(-1, 12)).reshape(-1, 3, 4)
                found[node["name"]] = (own[..., :3] @ points[..., None])[..., 0] + own[..., 3]
        return found

    def weights(self, attributes: dict[str, int], joints: int) -> np.ndarray:
        """V×J of all sets."""
        count = sum(name.startswith("JOINTS_") for name in attributes)
        vertices = self.scene["accessors"][attributes["POSITION"]]["count"]
        whole = np.zeros((vertices, joints))
        for i in range(count):
            own, weights = (self.array(attributes[f"{what}_{i}"]) for what in ("JOINTS", "WEIGHTS"))
            for joint, weight in zip(own.T, weights.T, strict=True):
                whole[np.arange(vertices), joint] += weight
        return whole


def matrix(node: dict[str, Any]) -> np.ndarray:
    """4×4 of translation, rotation and scale."""
    found = np.eye(4)
    turn = Rotation.from_quat(node.get("rotation", [0, 0, 0, 1])).as_matrix()
    found[:3, :3] = turn * node.get("scale", [1, 1, 1])
    found[:3, 3] = node.get("translation", [0, 0, 0])
    return found


def test_people_move_as_they_are_decoded(
    body: BodyModel, tracks: Tracks, written: tuple[Path, File]
) -> None:
    for number, own in tracks.items():
        given = (torch.tensor(own[name]) for name in ("pose", "shape", "translation"))
        wanted = body(*given).vertices.numpy() * [1, -1, -1]
        for frame, vertices in zip(own["frames"], wanted, strict=True):
            found = written[1].surfaces(frame / RATE)[f"person-{number}"]
            np.testing.assert_allclose(found, vertices, atol=1e-4)


def test_whoever_is_not_there_is_hidden(written: tuple[Path, File]) -> None:
    """A skin counts as hidden where all of its joints have scale 0."""
    file = written[1]
    for time in (*FRAMES / RATE, *(FRAMES + 0.99) / RATE):
        whole = file.whole(time)
        for number, skin in zip(SEEN, file.scene["skins"], strict=True):
            scales = np.linalg.det([whole[joint][:3, :3] for joint in skin["joints"]])
            there = int(time * RATE + 1e-6) in SEEN[number]
            np.testing.assert_allclose(scales, there, atol=1e-5)
    assert np.ptp(file.surfaces(0)["person-3"], axis=0).max() < 1e-6


def test_the_file_keeps_the_rules(body: BodyModel, written: tuple[Path, File]) -> None:
    file = written[1]
    scene = file.scene
    assert scene["asset"]["version"] == "2.0"
    assert len(file.buffer) - 3 <= scene["buffers"][0]["byteLength"] <= len(file.buffer)
    end = 0
    for view in scene["bufferViews"]:
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] >= end
        end = view["byteOffset"] + view["byteLength"]
    assert end <= scene["buffers"][0]["byteLength"]
    for i, accessor in enumerate(scene["accessors"]):
        rows = file.array(i).reshape(accessor["count"], -1)
        assert np.isfinite(rows).all()
        if "min" in accessor:
            np.testing.assert_array_equal(np.float32(accessor["min"]), rows.min(0))
            np.testing.assert_array_equal(np.float32(accessor["max"]), rows.max(0))
    children = [child for node in scene["nodes"] for child in node.get("children", [])]
    assert sorted([*children, *scene["scenes"][0]["nodes"]]) == [*range(len(scene["nodes"]))]
    for skin in scene["skins"]:
        names = [scene["nodes"][joint]["name"] for joint in skin["joints"]]
        assert names == list(body.joint_names)
        np.testing.assert_array_equal(
            file.array(skin["inverseBindMatrices"])[:, 3], [[0, 0, 0, 1]] * len(names)
        )


def test_meshes_keep_the_rules(body: BodyModel, written: tuple[Path, File]) -> None:
    file = written[1]
    for mesh in file.scene["meshes"]:
        (part,) = mesh["primitives"]
        attributes = part["attributes"]
        about = {name: file.scene["accessors"][i] for name, i in attributes.items()}
        assert {"min", "max"} < about["POSITION"].keys()
        lengths = np.linalg.norm(file.array(attributes["NORMAL"]), axis=1)
        np.testing.assert_allclose(lengths, 1, atol=1e-5)
        assert file.scene["accessors"][part["indices"]]["componentType"] in (5123, 5125)
        np.testing.assert_array_equal(file.array(part["indices"]).reshape(-1, 3), body.faces)
        for name in about:
            if name.startswith("JOINTS_"):
                other = name.replace("JOINTS", "WEIGHTS")
                joints, weights = file.array(attributes[name]), file.array(attributes[other])
                assert about[name]["componentType"] in (5121, 5123)
                assert about[other]["componentType"] == 5126
                assert (joints[weights == 0] == 0).all()
                assert (weights >= 0).all()
        whole = file.weights(attributes, len(body.parents))
        np.testing.assert_allclose(whole.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(whole, body.weights, atol=2e-4)


def test_the_animation_keeps_the_rules(body: BodyModel, written: tuple[Path, File]) -> None:
    file = written[1]
    (film,) = file.scene["animations"]
    targets = [(c["target"]["node"], c["target"]["path"]) for c in film["channels"]]
    assert len(set(targets)) == len(targets)
    # All joints but one turn, both people walk, one of them is hidden at times.
    assert len(targets) == 2 * (len(body.parents) - 1) + 2 + 1
    for channel in film["channels"]:
        sampler = film["samplers"][channel["sampler"]]
        about = file.scene["accessors"][sampler["input"]]
        times, values = file.array(sampler["input"]), file.array(sampler["output"])
        assert (about["type"], about["componentType"]) == ("SCALAR", 5126)
        assert {"min", "max"} < about.keys()
        assert times[0] >= 0
        assert (np.diff(times) > 0).all()
        assert times[-1] <= np.float32(FRAMES[-1] / RATE)
        assert len(values) == len(times)
        if channel["target"]["path"] == "rotation":
            np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-6)


def test_another_reader_reads_it(written: tuple[Path, File]) -> None:
    scene = trimesh.load_scene(written[0])
    assert sorted(scene.geometry) == ["person-0", "person-3"]


def test_one_frame_of_somebody_who_rests(tmp_path: Path) -> None:
    body = Anny()
    one = {
        "frames": np.array([4]),
        "pose": body.still(1).numpy(),
        "shape": body.neutral_shape[None].numpy(),
        "translation": np.array([[0, 0, 3.0]], np.float32),
    }
    write_animation(tmp_path / "a.glb", body, {0: one}, np.array([4]), RATE)
    found = File(tmp_path / "a.glb").surfaces(0)["person-0"]
    given = (torch.tensor(one[name]) for name in ("pose", "shape", "translation"))
    np.testing.assert_allclose(
        found, body(*given).vertices[0] * torch.tensor([1, -1, -1]), atol=1e-5
    )
