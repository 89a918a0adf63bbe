"""How far recovered people are from the true ones: points in metres, errors in millimetres."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import roma
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from data.arrays import load_npy
from data.images import show

H36M_14 = (6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10)
"""Of the 17 joints of Human3.6M those that 3DPW's protocol compares."""
LARGEST = 1 << 24
"""Bytes of a regressor; that of SMPL-X has a tenth of it."""


def point_error(
    points: Tensor, truth: Tensor, origin: Tensor | None = None, true_origin: Tensor | None = None
) -> Tensor:
    """N×P×3 points against true ones → N mean distances in mm.

    MPJPE of joints, PVE of vertices: points count from N×3 origins, such as the pelvis, if these
    are given. Hands count from the wrist, faces from the neck.

    Raises:
        ValueError: points of another number than the true ones; one origin without the other.
    """
    _check(points, truth)
    if (origin is None) != (true_origin is None):
        raise ValueError("one origin alone; give that of the points and the true one, or neither")
    if origin is not None and true_origin is not None:
        points, truth = points - origin[:, None], truth - true_origin[:, None]
    return 1000 * (points - truth).norm(dim=-1).mean(-1)


def aligned_error(points: Tensor, truth: Tensor) -> Tensor:
    """The same after the similarity that fits N×P×3 points best to the true ones (PA-…).

    Procrustes' rotation, scale and shift for each of the N. At least three points; if they all lie
    in one place, no scale helps, and it is 0.
    """
    _check(points, truth)
    points, truth = (p - p.mean(1, keepdim=True) for p in (points, truth))
    # roma keeps a constant from its first call; one of inference mode could not train later.
    with torch.inference_mode(False):
        rotation, scale = roma.rigid_vectors_registration(points, truth, compute_scaling=True)
    scale = torch.where(points.square().sum((1, 2)) == 0, 0, scale)
    return point_error(scale[:, None, None] * points @ rotation.mT, truth)


class PoseErrors(NamedTuple):
    """Of N people, each in mm; `pve` is None where meshes are of two models."""

    mpjpe: Tensor
    pa_mpjpe: Tensor
    pve: Tensor | None


def threedpw_errors(
    vertices: Tensor, truth: Tensor, regressor: Tensor, true_regressor: Tensor | None = None
) -> PoseErrors:
    """3DPW's protocol: N×V×3 vertices against true ones, by the 17×V regressor of Human3.6M.

    14 of its joints, counted from the first of the 17, the pelvis; vertices count from it too.
    Where the recovered mesh is of another model than the true one, such as SMPL-X, the regressor of
    each is given.

    Raises:
        ValueError: a regressor of another model than the vertices.
    """
    true_regressor = regressor if true_regressor is None else true_regressor
    for matrix, points in ((regressor, vertices), (true_regressor, truth)):
        if matrix.shape != (17, points.shape[1]):
            size = "×".join(map(str, matrix.shape))
            raise ValueError(
                f"a {size} regressor for {points.shape[1]} vertices; take that of the model"
            )
    joints, true_joints = regressor.to(vertices) @ vertices, true_regressor.to(truth) @ truth
    pelvis, true_pelvis = joints[:, 0], true_joints[:, 0]
    chosen = list(H36M_14)
    joints = (joints - pelvis[:, None])[:, chosen]
    true_joints = (true_joints - true_pelvis[:, None])[:, chosen]
    return PoseErrors(
        point_error(joints, true_joints),
        aligned_error(joints, true_joints),
        point_error(vertices, truth, pelvis, true_pelvis)
        if vertices.shape == truth.shape
        else None,
    )


def read_regressor(folder: Path, body: str) -> Tensor:
    """17×V of Human3.6M for a body model, from J_regressor_h36m_<body>.npy.

    Raises:
        ValueError: no such file, or something else in it.
    """
    path = folder / f"J_regressor_h36m_{body}.npy"
    if not path.is_file():
        raise ValueError(
            f"{show(path)} is not there; 3DPW's protocol needs it: take that of smpl from"
            " microsoft/MeshTransformer (J_regressor_h36m_correct.npy), that of smplx from"
            " IDEA-Research/OSX, or set model.regressors null to do without"
        )
    found = load_npy(path, LARGEST)
    if found.ndim != 2 or len(found) != 17 or found.dtype.kind != "f":
        raise ValueError(f"{show(path)}: {found.shape} {found.dtype}; give 17×V numbers")
    if not np.isfinite(found).all():
        raise ValueError(f"{show(path)}: numbers that are not finite; get it again")
    return torch.from_numpy(found).float()


def acceleration_error(joints: Tensor, truth: Tensor) -> Tensor:
    """T×J×3 joints of a track against true ones → T−2 mean differences of acceleration.

    In mm per frame²: that of joints x is x[t−1] − 2·x[t] + x[t+1] (Kanazawa et al., CVPR 2019).

    Raises:
        ValueError: fewer than three frames.
    """
    _check(joints, truth)
    if len(joints) < 3:
        raise ValueError(f"{len(joints)} frames have no acceleration; give 3 or more")
    return point_error(joints.diff(n=2, dim=0), truth.diff(n=2, dim=0))


class Matches(NamedTuple):
    """Which of the people found are which of the true ones.

    Attributes:
        pairs: (found, true) indices.
        found: people found, true or not.
        true: people there.
    """

    pairs: list[tuple[int, int]]
    found: int
    true: int


def match(pixels: np.ndarray, truth: np.ndarray, overlap: float = 0.05) -> Matches:
    """Pair N×J×2 joints in the picture with M×J×2 true ones, the nearest pair first.

    Pairs whose boxes around the joints overlap (intersection over union) by less than `overlap`
    are none.
    """
    distances = np.zeros((len(pixels), len(truth)))
    if distances.size:  # mean over joints of the distance between the two
        distances = np.mean(
            [cdist(pixels[:, j], truth[:, j]) for j in range(pixels.shape[1])], axis=0
        )
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(distances, axis=None, kind="stable"):
        one, other = divmod(int(flat), len(truth))
        taken = any(one == a or other == b for a, b in pairs)
        if not taken and _overlap(pixels[one], truth[other]) >= overlap:
            pairs.append((one, other))
    return Matches(pairs, len(pixels), len(truth))


def precision_recall_f1(matches: list[Matches]) -> tuple[float, float, float]:
    """Of all people in all pictures; each in [0, 1], and 1 where nobody is there or found."""
    right = sum(len(m.pairs) for m in matches)
    found, true = sum(m.found for m in matches), sum(m.true for m in matches)
    precision = right / found if found else float(not true)
    recall = right / true if true else float(not found)
    both = precision + recall
    return precision, recall, 2 * precision * recall / both if both else 0.0


def share_of_correct(joints: Tensor, truth: Tensor, within: float = 150.0) -> Tensor:
    """N×J×3 → N shares of joints within so many mm of the true ones (PCK; MuPoTS takes 150)."""
    _check(joints, truth)
    return ((joints - truth).norm(dim=-1) * 1000 <= within).float().mean(-1)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of the boxes around J×2 points."""
    low, high = np.maximum(one.min(0), other.min(0)), np.minimum(one.max(0), other.max(0))
    common = float(np.prod((high - low).clip(0)))
    areas = sum(float(np.prod(points.max(0) - points.min(0))) for points in (one, other))
    return common / (areas - common) if areas > common else float(common > 0)


def _check(points: Tensor, truth: Tensor) -> None:
    if points.shape != truth.shape:
        raise ValueError(f"{tuple(points.shape)} points, {tuple(truth.shape)} true ones")
