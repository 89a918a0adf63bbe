"""Pictures of people who never existed: the truth is that of the picture, and the seed's alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vision.body.people import VISIBLE, Crowd, People


@pytest.fixture(scope="module")
def people() -> People:
    return People(96, 128)


@pytest.fixture(scope="module")
def drawn(people: People) -> list[tuple[np.ndarray, Crowd]]:
    return [people.picture([7, i]) for i in range(6)]


def test_the_promised_shapes(drawn: list[tuple[np.ndarray, Crowd]]) -> None:
    counts = set()
    for image, crowd in drawn:
        assert image.shape == (96, 128, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5
        count = len(crowd.pose)
        counts.add(count)
        shapes = [array.shape for array in crowd]
        assert shapes == [
            *((count, 104, 3, 3), (count, 6), (count, 3), (count, 104, 3), (count, 104, 2)),
            *((count, 4), (count,), (3, 3)),
        ]
        assert all(array.dtype == np.float32 for array in crowd)
        assert ((crowd.visible >= VISIBLE) & (crowd.visible <= 1)).all()
        left, top, right, bottom = crowd.box.T
        assert ((left >= 0) & (left < right) & (right <= 128)).all()
        assert ((top >= 0) & (top < bottom) & (bottom <= 96)).all()
    assert len(counts) > 1


def test_the_parameters_give_the_joints(
    people: People, drawn: list[tuple[np.ndarray, Crowd]]
) -> None:
    """In the camera's view, and where the camera's intrinsics put them in the picture."""
    for _, crowd in drawn:
        given = (torch.from_numpy(t) for t in (crowd.pose, crowd.shape, crowd.translation))
        joints = people.body(*given).joints.numpy()
        np.testing.assert_allclose(joints, crowd.joints, atol=1e-4)
        seen = crowd.joints @ crowd.camera.T
        np.testing.assert_allclose(seen[..., :2] / seen[..., 2:], crowd.pixels, atol=0.05)


def test_whoever_shows_whole_lies_in_the_box(drawn: list[tuple[np.ndarray, Crowd]]) -> None:
    for _, crowd in drawn:
        for pixels, box in zip(crowd.pixels[crowd.visible > 0.9], crowd.box, strict=False):
            assert (box[:2] - 8 <= pixels.max(0)).all()
            assert (pixels.min(0) <= box[2:] + 8).all()


def test_most_people_stand_upright(people: People, drawn: list[tuple[np.ndarray, Crowd]]) -> None:
    """Heads above feet in a picture whose y points down, and before the camera."""
    head, foot = people.body.joint("head"), people.body.joint("left_ankle")
    for _, crowd in drawn:
        assert (crowd.joints[:, head, 1] < crowd.joints[:, foot, 1]).all()
        assert (crowd.translation[:, 2] > 1).all()


def test_the_seed_says_everything(people: People, drawn: list[tuple[np.ndarray, Crowd]]) -> None:
    image, crowd = People(96, 128).picture([7, 3])
    np.testing.assert_array_equal(image, drawn[3][0])
    for one, other in zip(crowd, drawn[3][1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (image != drawn[2][0]).any()


def test_photographs_behind(people: People) -> None:
    photo = np.full((60, 300, 3), (10, 200, 30), np.uint8)
    image, _ = People(96, 128, most=1, backgrounds=[photo]).picture(3)
    green = (image[..., 1].astype(int) - image[..., 0] > 100).mean()
    assert 0.3 < green < 0.995


def test_knees_bend_one_way(people: People) -> None:
    knee = people.body.joint("left_knee")
    draw = np.random.default_rng(0)
    bends = np.array([people._pose(draw)[knee] for _ in range(50)])
    assert (bends[:, 0] >= 0).all()
    assert np.degrees(bends[:, 0]).max() > 60
    assert (bends[:, 1:] == 0).all()


def test_nobody_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="most=0: give 1 or more"):
        People(most=0)
