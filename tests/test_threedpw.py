"""3DPW in its real layout: frames, clips, the camera's view, and files that are something else."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch
from bodies import Thief, write_smpl, write_threedpw

from data.threedpw import ThreeDPW
from vision.body import SMPL

CAMERA = np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]])


@pytest.fixture
def film(tmp_path: Path) -> dict[str, Any]:
    return write_threedpw(tmp_path)


def test_frames(film: dict[str, Any], tmp_path: Path) -> None:
    data = ThreeDPW(tmp_path, "train")
    assert len(data) == 5
    item = data[2]
    assert (item["sequence"], item["frame"], item["gender"]) == (
        *("downtown_walk_00", 2),
        ("male", "female"),
    )
    assert item["image"].shape == (1, 3, 48, 64)
    assert abs(float(item["image"].mean()) * 255 - 80) < 3
    assert item["pose"].shape == (1, 2, 24, 3, 3)
    wanted = torch.tensor(film["poses"][1][2]).view(24, 3).float()
    turned = roma.rotmat_to_rotvec(item["pose"][0, 1, 1:])
    torch.testing.assert_close(turned, wanted[1:], atol=1e-5, rtol=0)
    torch.testing.assert_close(item["place"][0, 1], torch.tensor(film["trans"][1][2]).float())
    assert data[1]["valid"].tolist() == [[False, False]]
    assert item["valid"].tolist() == [[True, True]]
    np.testing.assert_allclose(item["camera"], film["cam_intrinsics"])


def test_clips(film: dict[str, Any], tmp_path: Path) -> None:
    assert len(ThreeDPW(tmp_path, "train", frames=2)) == 2  # the last frame makes no clip
    data = ThreeDPW(tmp_path, "train", frames=3, stride=1)
    assert [data[i]["frame"] for i in range(len(data))] == [0, 1, 2]
    clip = data[1]
    single = ThreeDPW(tmp_path, "train")
    for name in ("image", "pose", "place", "extrinsics", "valid"):
        each = torch.cat([single[i][name] for i in (1, 2, 3)])
        torch.testing.assert_close(clip[name], each)


@pytest.mark.slow
def test_the_body_stands_where_the_world_and_the_camera_put_it(
    film: dict[str, Any], tmp_path: Path
) -> None:
    """Posed in the world and looked at, or posed in the camera's view: the same vertices."""
    path = tmp_path / "SMPL_NEUTRAL.pkl"
    write_smpl(path)
    smpl = SMPL(path)
    item = ThreeDPW(tmp_path, "train")[3]
    rotation, shift = item["extrinsics"][0, :3, :3], item["extrinsics"][0, :3, 3]
    betas = item["betas"]
    still = torch.eye(3).expand(2, 24, 3, 3)
    rest = smpl(still, betas, torch.zeros(2, 3))
    first = smpl.pelvis(betas)
    assert rest.joints[:, 0].abs().max() < 1e-6
    pelvis = (first + item["place"][0]) @ rotation.T + shift
    found = smpl(item["pose"][0], betas, pelvis).vertices
    vectors = torch.tensor(np.stack([p[3] for p in film["poses"]])).float().view(2, 24, 3)
    world = smpl(roma.rotvec_to_rotmat(vectors), betas, first + item["place"][0]).vertices
    torch.testing.assert_close(found, world @ rotation.T + shift, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"poses": Thief()}, "which is no array"),
        ({"poses": None}, "no sequence of 3DPW"),
        ({"poses": [np.zeros((5, 71))] * 2}, "no sequence of 3DPW"),
        ({"genders": ["m", "x"]}, "no sequence of 3DPW"),
        ({"genders": ["m"]}, "1 genders for 2 people"),
        ({"trans": [np.zeros((4, 3))] * 2}, r"place is \(2, 4, 3\), \(2, 5, 3\) was expected"),
        ({"cam_intrinsics": np.zeros((2, 2))}, r"camera is \(2, 2\)"),
        ({"sequence": "../../etc"}, "is no name of a folder"),
        ({"sequence": ""}, "'' is no name of a folder"),
        ({"sequence": "."}, "'.' is no name of a folder"),
        ({"sequence": ".."}, r"'\.\.' is no name of a folder"),
        ({"jointPositions": [np.zeros((5, 71))] * 2}, "no sequence of 3DPW"),
        ({"jointPositions": [np.zeros((4, 72))] * 2}, r"joints is \(2, 4, 24, 3\)"),
        ({"jointPositions": [np.full((5, 72), np.nan)] * 2}, "joints has numbers that are not fin"),
        ({"betas": [[10**400] * 10] * 2}, "no sequence of 3DPW .OverflowError"),
        ({"poses": [np.full((5, 72), np.nan)] * 2}, "pose has numbers that are not finite"),
        ({"trans": [np.full((5, 3), np.inf)] * 2}, "place has numbers that are not finite"),
        ({"betas": [np.full(10, np.nan)] * 2}, "betas has numbers that are not finite"),
        ({"cam_poses": np.full((5, 4, 4), np.nan)}, "extrinsics has numbers that are not finite"),
        ({"cam_intrinsics": np.full((3, 3), np.inf)}, "intrinsics have numbers that are not fin"),
        (
            {"cam_intrinsics": np.zeros((3, 3))},
            r"intrinsics end in the row .* give \[\[fx, 0, cx\]",
        ),
        ({"cam_intrinsics": CAMERA.T}, r"intrinsics end in the row \[32.0, 24.0, 1.0\], not in"),
        ({"cam_intrinsics": CAMERA * [[-1], [1], [1]]}, "focal lengths -60 and 60, which are not"),
        ({"cam_intrinsics": CAMERA / [[64], [48], [1]]}, "which no camera has in pixels"),
        ({"cam_poses": np.tile(1.1 * np.eye(4), (5, 1, 1))}, "cameras that are no rotations"),
        ({"cam_poses": np.tile(-np.eye(4), (5, 1, 1))}, "cameras that are no rotations"),
    ],
)
def test_other_files(
    change: dict[str, Any],
    message: str,
    film: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sequenceFiles" / "train" / "downtown_walk_00.pkl"
    path.write_bytes(pickle.dumps(film | change))
    with pytest.raises(ValueError, match=message) as caught:
        ThreeDPW(tmp_path, "train")
    assert str(path) in str(caught.value)
    assert not (tmp_path / "stolen").exists()


def test_a_camera_that_is_not_known_may_bend(film: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "sequenceFiles" / "train" / "downtown_walk_00.pkl"
    film["cam_poses"][1] = 0  # campose_valid says no
    path.write_bytes(pickle.dumps(film))
    assert len(ThreeDPW(tmp_path, "train")) == 5
    film["campose_valid"][1] = np.ones(5, bool)
    path.write_bytes(pickle.dumps(film))
    with pytest.raises(ValueError, match="cameras that are no rotations"):
        ThreeDPW(tmp_path, "train")


def test_other_layouts(film: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test holds no .pkl; give a folder laid out as"):
        ThreeDPW(tmp_path, "test")
    with pytest.raises(ValueError, match="frames=0"):
        ThreeDPW(tmp_path, "train", frames=0)
    (tmp_path / "imageFiles" / "downtown_walk_00" / "image_00002.jpg").unlink()
    with pytest.raises(ValueError, match=r"image_00002.jpg"):
        ThreeDPW(tmp_path, "train")[2]
