"""3DPW as nets are trained on it: where people are in the picture, who is left out, which body."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bodies import write_genders, write_threedpw

from data.people import FIELDS, collate_people
from data.threedpw import ThreeDPWClips, ThreeDPWPeople
from vision.body import create
from vision.body.camera import project


@pytest.fixture
def film(tmp_path: Path) -> dict[str, Any]:
    film = write_threedpw(tmp_path)
    for trans, joints in zip(film["trans"], film["jointPositions"], strict=True):
        joints -= np.tile(0.8 * trans, 24)  # near the middle, so that all are before the camera
    return save(film, tmp_path)


def save(film: dict[str, Any], root: Path, split: str = "train") -> dict[str, Any]:
    path = root / "sequenceFiles" / split / "downtown_walk_00.pkl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(film))
    return film


def test_a_joint_is_where_the_camera_puts_it(film: dict[str, Any], tmp_path: Path) -> None:
    item = ThreeDPWPeople(tmp_path, "train", 32)[1]  # frame 2
    assert item["image"].shape == (3, 32, 32)
    assert item["image"][:, :4].max() == 0  # 64×48 is now 32×24, in the middle
    assert abs(float(item["image"][:, 6:26].mean()) * 255 - 80) < 3
    assert (item["body"], item["gender"]) == ("smpl", ["male", "female"])
    assert item["track"].tolist() == [0, 1]
    view = film["cam_poses"][2]
    for person in (0, 1):
        for joint in (0, 7, 23):
            x, y, z = film["jointPositions"][person][2][3 * joint : 3 * joint + 3]
            right, down, far = view[:3, :3] @ [x, y, z] + view[:3, 3]
            pixel = (60 * right / far + 32) / 2, (60 * down / far + 24) / 2 + 4
            np.testing.assert_allclose(item["joints"][person, joint], [right, down, far], atol=1e-5)
            np.testing.assert_allclose(item["pixels"][person, joint], pixel, atol=1e-4)
    torch.testing.assert_close(item["translation"], item["joints"][:, 0])
    torch.testing.assert_close(project(item["joints"], item["camera"]), item["pixels"])
    np.testing.assert_allclose(item["shape"], np.stack(film["betas"]), atol=1e-6)


def test_boxes_are_around_the_joints_and_in_the_picture(
    film: dict[str, Any], tmp_path: Path
) -> None:
    item = ThreeDPWPeople(tmp_path, "train")[0]
    assert item["image"].shape == (3, 64, 64)  # padded, and no smaller
    low, high = item["pixels"].amin(1), item["pixels"].amax(1)
    margin = 0.1 * (high - low).amax(1, keepdim=True)
    first, last = torch.tensor([0.0, 8]), torch.tensor([64.0, 56])  # of the picture itself
    wanted = torch.cat([(low - margin).clamp(first, last), (high + margin).clamp(first, last)], 1)
    torch.testing.assert_close(item["box"], wanted)
    inside = ((item["pixels"] > first) & (item["pixels"] < last)).all(-1).float().mean(1)
    torch.testing.assert_close(item["visible"], inside)


def test_whoever_has_no_valid_camera_is_left_out(film: dict[str, Any], tmp_path: Path) -> None:
    data = ThreeDPWPeople(tmp_path, "train")
    assert [Path(item["path"]).stem[-1] for item in data] == ["0", "2", "3", "4"]
    film["campose_valid"][0][2] = False
    film["jointPositions"][1][3] -= np.tile([0, 0, -9], 24)  # behind the camera
    save(film, tmp_path)
    data = ThreeDPWPeople(tmp_path, "train", 32)
    assert [item["gender"] for item in data] == [
        ["male", "female"], ["female"], ["male"], ["male", "female"]
    ]  # fmt: skip
    assert [item["track"].tolist() for item in data] == [[0, 1], [1], [0], [0, 1]]
    batch = collate_people([data[0], data[1], data[2]])
    assert batch["owner"].tolist() == [0, 0, 1, 2]
    assert batch["gender"] == ["male", "female", "female", "male"]
    assert batch["body"] == "smpl"


def test_clips_are_of_frames_that_follow_one_another(tmp_path: Path) -> None:
    film = write_threedpw(tmp_path, frames=9)
    for joints in film["jointPositions"]:
        joints *= 0.1
    film["campose_valid"][0][3] = False
    save(film, tmp_path)
    data = ThreeDPWClips(tmp_path, "train", 32, frames=3)
    assert [Path(item["path"]).stem[-1] for item in data] == ["2", "5"]  # frame 1 is not valid
    item = data[0]
    assert item["image"].shape == (3, 3, 32, 32)
    assert item["camera"].shape == (3, 3, 3)
    assert item["owner"].tolist() == [0, 0, 1, 2, 2]
    assert item["track"].tolist() == [0, 1, 1, 0, 1]
    single = ThreeDPWPeople(tmp_path, "train", 32)
    for name in FIELDS:
        join = torch.stack if name == "camera" else torch.cat
        torch.testing.assert_close(item[name], join([single[i][name] for i in (1, 2, 3)]))
    batch = collate_people([data[0], data[1]])
    assert batch["image"].shape == (2, 3, 3, 32, 32)
    assert batch["owner"].tolist() == [0, 0, 1, 2, 2, 3, 3, 4, 4, 5, 5]


def test_splits_colours_and_what_is_not_there(film: dict[str, Any], tmp_path: Path) -> None:
    save(film, tmp_path, "validation")
    assert len(ThreeDPWPeople(tmp_path, "val")) == 4
    darker = ThreeDPWPeople(tmp_path, "train", 32, lambda images: {"images": images // 2})
    bright = ThreeDPWPeople(tmp_path, "train", 32)
    assert darker[3]["image"].mean() < 0.6 * bright[3]["image"].mean()
    with pytest.raises(ValueError, match="test holds no"):
        ThreeDPWPeople(tmp_path, "test")
    with pytest.raises(ValueError, match="split=validation, frames=1: give one of train, val"):
        ThreeDPWPeople(tmp_path, "validation")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="train has no 4 frames one after another"):
        ThreeDPWClips(tmp_path, "train", frames=4)


@pytest.mark.slow
def test_smpl_of_each_gender_has_these_joints(tmp_path: Path) -> None:
    """Pose, shape and place of an item, decoded: the joints of the file, in the camera's view."""
    write_genders(tmp_path)
    write_threedpw(tmp_path, models=tmp_path)
    item = ThreeDPWPeople(tmp_path, "train", 32)[2]
    for i, gender in enumerate(item["gender"]):
        told = (item[name][i : i + 1] for name in ("pose", "shape", "translation"))
        joints = create("smpl", tmp_path, gender)(*told).joints
        torch.testing.assert_close(joints[0], item["joints"][i], atol=1e-4, rtol=0)
