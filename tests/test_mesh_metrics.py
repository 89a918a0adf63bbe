"""Metrics of recovered people: cases worked out by hand, and what alignment may not change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import roma
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from skimage.transform import SimilarityTransform

from vision.metrics.mesh import (
    acceleration_error,
    aligned_error,
    match,
    point_error,
    precision_recall_f1,
    read_regressor,
    share_of_correct,
    threedpw_errors,
)

REGRESSORS = Path(__file__).parents[2] / "shared" / "datasets" / "regressors"


def test_by_hand() -> None:
    truth = torch.zeros(1, 2, 3)
    points = torch.tensor([[[0.003, 0.004, 0], [0, 0, 0.015]]])
    assert point_error(points, truth).tolist() == pytest.approx([10.0])  # of 5 and 15 mm
    origin = torch.tensor([[0.003, 0.004, 0]])
    away = torch.tensor([[-0.003, -0.004, 0.015]]).norm() * 1000
    moved = point_error(points, truth, origin, torch.zeros(1, 3))
    assert moved.tolist() == pytest.approx([float(away) / 2])


@given(st.integers(0, 2**31))
@settings(deadline=None)
def test_alignment_undoes_a_similarity(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randn(3, 14, 3, generator=draw).double()
    turn = roma.rotvec_to_rotmat(torch.randn(3, 3, generator=draw).double())
    shift, scale = torch.randn(3, 1, 3, generator=draw).double(), 0.3 + seed % 7
    moved = scale * truth @ turn.mT + shift
    torch.testing.assert_close(
        aligned_error(moved, truth), torch.zeros(3).double(), atol=1e-6, rtol=0
    )
    noisy = truth + 0.1 * torch.randn(3, 14, 3, generator=draw).double()
    for one, true, error in zip(
        noisy.numpy(), truth.numpy(), aligned_error(noisy, truth), strict=True
    ):
        fitted = SimilarityTransform.from_estimate(one, true)(one)  # Umeyama's
        wanted = 1000 * np.linalg.norm(fitted - true, axis=1).mean()
        assert float(error) == pytest.approx(wanted)
    torch.testing.assert_close(
        aligned_error(scale * noisy @ turn.mT + shift, truth), aligned_error(noisy, truth)
    )


def test_alignment_does_not_mirror() -> None:
    truth = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]])
    assert aligned_error(truth * torch.tensor([-1.0, 1, 1]), truth) > 100


def test_alignment_of_what_fell_into_one_point() -> None:
    """No scale helps: all points lie in the middle of the true ones. Others are as they were."""
    draw = torch.Generator().manual_seed(0)
    truth = torch.randn(3, 14, 3, generator=draw)
    points = truth + 0.1 * torch.randn(3, 14, 3, generator=draw)
    before = aligned_error(points, truth)
    points[1] = torch.tensor([0.1, -0.7, 3.3])
    wanted = 1000 * (truth[1] - truth[1].mean(0)).norm(dim=-1).mean()
    found = aligned_error(points, truth)
    torch.testing.assert_close(found, torch.stack([before[0], wanted, before[2]]))
    points[1] = 0
    torch.testing.assert_close(aligned_error(points, truth)[1], wanted)
    points[1, 3] = float("nan")
    assert aligned_error(points, truth).isnan().tolist() == [False, True, False]


def umeyama(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """P×3 points moved, turned and scaled onto the true ones (Umeyama 1991, equations 34 to 42)."""
    middle, true_middle = points.mean(0), truth.mean(0)
    covariance = (truth - true_middle).T @ (points - middle) / len(points)
    u, d, v = np.linalg.svd(covariance)
    sign = np.array([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(v))])
    rotation = u * sign @ v
    scale = (d * sign).sum() / ((points - middle) ** 2).sum(1).mean()
    return scale * (points - middle) @ rotation.T + true_middle


@pytest.mark.parametrize("model", ["smpl", "smplx"])
def test_the_protocol_of_3dpw_by_numpy(model: str) -> None:
    """With the published regressors, and alignment by hand."""
    path = REGRESSORS / f"J_regressor_h36m_{model}.npy"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    regressor = np.load(path)
    draw = np.random.default_rng(0)
    truth = draw.normal((0, 0, 4), 0.4, (2, regressor.shape[1], 3))
    vertices = truth @ Rotation.from_rotvec([0.2, 0.4, -0.1]).as_matrix() * 1.1
    vertices += draw.normal(0, 0.3, vertices.shape)
    chosen = [i for i in range(17) if i not in (0, 7, 9)]  # pelvis, spine and nose count not
    # The regressor takes the precision of the vertices.
    found = threedpw_errors(
        *(torch.from_numpy(v) for v in (vertices, truth)), torch.from_numpy(regressor).float()
    )
    for i, (one, true) in enumerate(zip(vertices, truth, strict=True)):
        joints, true_joints = (regressor.astype(np.float32) @ points for points in (one, true))
        shift, true_shift = joints[0], true_joints[0]
        joints, true_joints = joints[chosen], true_joints[chosen]
        fitted = umeyama(joints, true_joints)
        for error, (a, b) in zip(
            found,
            [
                (joints - shift, true_joints - true_shift),
                (fitted, true_joints),
                (one - shift, true - true_shift),
            ],
            strict=True,
        ):
            wanted = 1000 * np.linalg.norm(a - b, axis=1).mean()
            assert float(error[i]) == pytest.approx(wanted, rel=1e-6)


def test_one_origin_alone() -> None:
    points, origin = torch.zeros(1, 2, 3), torch.zeros(1, 3)
    for origins in ((origin, None), (None, origin)):
        with pytest.raises(ValueError, match="one origin alone"):
            point_error(points, points, *origins)


def test_the_protocol_of_3dpw() -> None:
    """A regressor that picks 17 vertices, of which the first is the pelvis."""
    draw = torch.Generator().manual_seed(0)
    regressor = torch.eye(17, 30)
    truth = torch.randn(2, 30, 3, generator=draw)
    same = threedpw_errors(truth + 5, truth, regressor)  # the pelvis takes the place away
    for errors in same:
        torch.testing.assert_close(errors, torch.zeros(2), atol=2e-3, rtol=0)
    moved = truth.clone()
    moved[:, 6, 0] += 0.14  # one of the 14 joints by 140 mm
    moved[:, 9, 0] += 9  # the nose counts not
    found = threedpw_errors(moved, truth, regressor)
    torch.testing.assert_close(found.mpjpe, torch.full((2,), 10.0))
    torch.testing.assert_close(found.pve, torch.full((2,), (140 + 9000) / 30))
    with pytest.raises(ValueError, match="a 17×29 regressor for 30 vertices"):
        threedpw_errors(truth, truth, regressor[:, :29])


def test_acceleration_by_hand() -> None:
    still = torch.zeros(4, 1, 3)
    jump = still.clone()
    jump[2, 0, 0] = 0.001  # accelerations 1, −2 mm per frame²
    assert acceleration_error(jump, still).tolist() == pytest.approx([1.0, 2.0])
    steady = torch.arange(4.0).view(4, 1, 1).expand(4, 1, 3)
    torch.testing.assert_close(acceleration_error(steady, still), torch.zeros(2))
    with pytest.raises(ValueError, match="2 frames have no acceleration"):
        acceleration_error(still[:2], still[:2])


def square(x: float, y: float, side: float = 10) -> np.ndarray:
    return np.array([[x, y], [x + side, y], [x, y + side], [x + side, y + side]], float)


def test_the_nearest_are_matched_first() -> None:
    truth = np.stack([square(0, 0), square(100, 0)])
    found = np.stack([square(101, 0), square(4, 0), square(1, 0), square(300, 300)])
    matches = match(found, truth)
    assert sorted(matches.pairs) == [(0, 1), (2, 0)]
    precision, recall, f1 = precision_recall_f1([matches])
    assert (precision, recall) == (0.5, 1.0)
    assert f1 == pytest.approx(2 / 3)


def test_matches_go_by_all_joints() -> None:
    """The first joint of each lies on the other's, the rest on its own."""
    truth = np.stack([square(0, 0), square(6, 0)])
    found = truth.copy()
    found[:, 0] = truth[::-1, 0]
    assert sorted(match(found, truth).pairs) == [(0, 0), (1, 1)]


def test_boxes_that_hardly_overlap_are_no_match() -> None:
    assert match(square(9.6, 0)[None], square(0, 0)[None]).pairs == []  # 4 of 196
    assert match(square(9, 0)[None], square(0, 0)[None]).pairs == [(0, 0)]  # 10 of 190


def test_nobody() -> None:
    none, one = np.zeros((0, 4, 2)), square(0, 0)[None]
    assert precision_recall_f1([]) == (1, 1, 1)
    assert precision_recall_f1([match(none, none)]) == (1, 1, 1)
    assert precision_recall_f1([match(none, one)]) == (0, 0, 0)
    assert precision_recall_f1([match(one, none)]) == (0, 0, 0)
    assert precision_recall_f1([match(one, one), match(none, one)])[:2] == (1, 0.5)


def test_share_of_correct_by_hand() -> None:
    truth = torch.zeros(1, 4, 3)
    joints = truth.clone()
    joints[0, :, 0] = torch.tensor([0.1, 0.149, 0.151, 1.0])
    assert share_of_correct(joints, truth).tolist() == [0.5]


def test_points_of_another_number() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) points, \(1, 3, 3\) true ones"):
        point_error(torch.zeros(1, 2, 3), torch.zeros(1, 3, 3))


def test_a_regressor_that_is_no_regressor_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "J_regressor_h36m_smpl.npy"
    np.save(path, np.zeros((17, 200_000)))
    with pytest.raises(ValueError, match="27,200,000 bytes, of which there may be 0 to 16,777,216"):
        read_regressor(tmp_path, "smpl")
    np.save(path, np.full((17, 9), 1 / 9))
    torch.testing.assert_close(read_regressor(tmp_path, "smpl"), torch.full((17, 9), 1 / 9))
