"""SMPL-X and SMPL, for those who have the models' files.

Pavlakos et al., "Expressive Body Capture" (CVPR 2019); Loper et al., "SMPL" (SIGGRAPH Asia 2015).
Both pose a mesh in the same way: shapes and corrections for the pose move the vertices, joints are
regressed, and every vertex follows its joints. The package smplx computes the same; ours needs
neither it, whose licence is non-commercial, nor to unpickle what it reads.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor

from data.images import show
from data.pickles import load_arrays
from vision.body.model import Body, BodyModel

# fmt: off
BODY = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2",
    "left_ankle", "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar",
    "right_collar", "head", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow",
    "left_wrist", "right_wrist",
)
# fmt: on
FINGERS = ("index", "middle", "pinky", "ring", "thumb")
HANDS = tuple(
    f"{side}_{finger}{i}" for side in ("left", "right") for finger in FINGERS for i in (1, 2, 3)
)
SMPLX_JOINTS = (*BODY, "jaw", "left_eye_smplhf", "right_eye_smplhf", *HANDS)
SMPL_JOINTS = (*BODY, "left_hand", "right_hand")


class SMPLFamily(BodyModel):
    """Template, shapes, pose corrections, regressor and weights, by the names of the files."""

    template: Tensor
    shapes: Tensor
    corrections: Tensor
    regressor: Tensor

    def __init__(self, data: Mapping[str, Any], joints: tuple[str, ...], shapes: Tensor) -> None:
        parents = np.asarray(data["kintree_table"])[0].astype(np.int64)
        arrays = {
            "template": _tensor(data["v_template"]),
            "shapes": shapes.permute(2, 0, 1).flatten(1).contiguous(),  # S×3V
            "corrections": _tensor(data["posedirs"]).flatten(0, 1).T.contiguous(),  # 9(J−1)×3V
            "regressor": _tensor(data["J_regressor"]),
            "weights": _tensor(data["weights"]),
            "faces": torch.from_numpy(np.asarray(data["f"]).astype(np.int64)),
            "neutral_shape": torch.zeros(shapes.shape[2]),
        }
        super().__init__(joints, [-1, *parents[1:].tolist()], arrays)

    def pelvis(self, shape: Tensor) -> Tensor:
        return (self.regressor[:1] @ self._shaped(shape))[:, 0]

    def _shaped(self, shape: Tensor) -> Tensor:
        return self.template + (shape @ self.shapes).unflatten(1, (-1, 3))

    def forward(self, pose: Tensor, shape: Tensor, translation: Tensor | None = None) -> Body:
        shaped = self._shaped(shape)
        heads = self.regressor @ shaped  # B×J×3
        bent = (pose - self.still(len(pose)))[:, 1:].flatten(1)
        rest = shaped + (bent @ self.corrections).unflatten(1, (-1, 3))
        return self._posed(pose, rest, heads, translation)


class SMPLX(SMPLFamily):
    """10,475 vertices, 55 joints; a shape is `betas` body shapes and then `expressions`.

    Hands lie flat where nothing turns. `hand_means` (2×15×3×3, left and right) are the relaxed
    hands that published nets count from.

    Raises:
        ValueError: a file that is no SMPL-X model.
    """

    hand_means: Tensor

    def __init__(self, path: Path, betas: int = 10, expressions: int = 10) -> None:
        data = _read(path, SMPLX_KEYS)
        shapes = _tensor(data["shapedirs"])
        expression = 300 if shapes.shape[2] > 300 else shapes.shape[2] // 2
        if shapes.shape[:2] != (10475, 3) or expression < betas:
            raise ValueError(
                f"{show(path)}: shapedirs {tuple(shapes.shape)}; give SMPLX_NEUTRAL.npz"
            )
        chosen = [shapes[..., :betas], shapes[..., expression : expression + expressions]]
        super().__init__(data, SMPLX_JOINTS, torch.cat(chosen, -1))
        names = [f"beta{i}" for i in range(betas)]
        self.shape_names = (*names, *(f"expression{i}" for i in range(expressions)))
        means = [_tensor(data[key]).view(15, 3) for key in ("hands_meanl", "hands_meanr")]
        self.register_buffer("hand_means", roma.rotvec_to_rotmat(torch.stack(means)), False)


class SMPL(SMPLFamily):
    """6,890 vertices, 24 joints; a shape is `betas` body shapes.

    Raises:
        ValueError: a file that is no SMPL model.
    """

    def __init__(self, path: Path, betas: int = 10) -> None:
        data = _read(path, SMPL_KEYS)
        shapes = _tensor(data["shapedirs"])
        if shapes.shape[:2] != (6890, 3) or shapes.shape[2] < betas:
            raise ValueError(
                f"{show(path)}: shapedirs {tuple(shapes.shape)}; give SMPL_NEUTRAL.pkl"
            )
        super().__init__(data, SMPL_JOINTS, shapes[..., :betas])
        self.shape_names = tuple(f"beta{i}" for i in range(betas))


SMPL_KEYS = ("v_template", "f", "shapedirs", "posedirs", "J_regressor", "kintree_table", "weights")
SMPLX_KEYS = (*SMPL_KEYS, "hands_meanl", "hands_meanr")


def _read(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """These arrays of an .npz or .pkl; others in it are not looked at."""
    if path.suffix == ".pkl":
        return _taken(path, keys, load_arrays(path))
    try:
        with np.load(path, allow_pickle=False) as data:
            return _taken(path, keys, data)
    except (EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{show(path)}: not a whole .npz file ({error}); get it again") from None


def _taken(path: Path, keys: tuple[str, ...], data: Mapping[str, Any]) -> dict[str, Any]:
    missing = [key for key in keys if key not in data]
    if missing:
        raise ValueError(f"{show(path)}: no body model, {', '.join(missing)} missing")
    return {key: data[key] for key in keys}


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.asarray(array, np.float32))
