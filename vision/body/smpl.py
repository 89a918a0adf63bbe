"""SMPL-X and SMPL, for those who have the models' files.

Pavlakos et al., "Expressive Body Capture" (CVPR 2019); Loper et al., "SMPL" (SIGGRAPH Asia 2015).
Both pose a mesh in the same way: shapes and corrections for the pose move the vertices, joints are
regressed, and every vertex follows its joints. The package smplx computes the same; ours needs
neither it, whose licence is non-commercial, nor to unpickle what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from torch import Tensor

from data.arrays import load_npz
from data.images import show
from data.pickles import load_arrays
from vision.body.model import Body, BodyModel, Rest

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

    BY_VERTEX = ("template",)
    SHAPES = ("shapes", "corrections")

    template: Tensor
    shapes: Tensor
    corrections: Tensor
    heads: Tensor
    head_shapes: Tensor

    def __init__(
        self, data: Mapping[str, np.ndarray], joints: tuple[str, ...], shapes: Tensor
    ) -> None:
        template, regressor = (_tensor(data[name]) for name in ("v_template", "J_regressor"))
        arrays = {
            "template": template,
            "shapes": shapes.permute(2, 0, 1).flatten(1).contiguous(),  # S×3V
            "corrections": _tensor(data["posedirs"]).flatten(0, 1).T.contiguous(),  # 9(J−1)×3V
            # What the regressor says of every shape, so that joints need no vertices.
            "heads": regressor @ template,
            "head_shapes": torch.einsum("jv,vcs->sjc", regressor, shapes).flatten(1),  # S×3J
            "weights": _tensor(data["weights"]),
            "faces": torch.from_numpy(data["f"].astype(np.int64)),
            "neutral_shape": torch.zeros(shapes.shape[2]),
        }
        # The first joint's parent is 2³² − 1 in some files.
        super().__init__(joints, [-1, *data["kintree_table"][0, 1:].astype(int).tolist()], arrays)

    def _at_rest(self, shape: Tensor) -> Rest:
        shaped = self.template + (shape @ self.shapes).unflatten(1, (-1, 3))
        return Rest(shaped, self.heads + (shape @ self.head_shapes).unflatten(1, (-1, 3)))

    def _decode(self, pose: Tensor, shape: Tensor, translation: Tensor | None) -> Body:
        rest = self._at_rest(shape)
        bent = (pose - self.still(len(pose)))[:, 1:].flatten(1)
        corrected = rest.vertices + (bent @ self.corrections).unflatten(1, (-1, 3))
        return self._posed(pose, rest._replace(vertices=corrected), translation)


class SMPLX(SMPLFamily):
    """10,475 vertices, 55 joints; a shape is `betas` body shapes and then `expressions`.

    Hands lie flat where nothing turns. `hand_means` (2×15×3×3, left and right) are the relaxed
    hands that published nets count from.

    Raises:
        ValueError: a file that is no SMPL-X model.
    """

    hand_means: Tensor

    def __init__(self, path: Path, betas: int = 10, expressions: int = 10) -> None:
        data = _read(path, SMPLX_SIZES, "SMPLX_NEUTRAL.npz")
        shapes = _tensor(data["shapedirs"])
        expression = 300 if shapes.shape[2] > 300 else shapes.shape[2] // 2
        _enough(path, betas, expression, "betas")
        _enough(path, expressions, shapes.shape[2] - expression, "expressions")
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
        data = _read(path, SMPL_SIZES, "SMPL_NEUTRAL.pkl")
        shapes = _tensor(data["shapedirs"])
        _enough(path, betas, shapes.shape[2], "betas")
        super().__init__(data, SMPL_JOINTS, shapes[..., :betas])
        self.shape_names = tuple(f"beta{i}" for i in range(betas))


Sizes = Mapping[str, tuple[int | None, ...]]


def _sizes(vertices: int, faces: int, joints: int) -> dict[str, tuple[int | None, ...]]:
    return {
        "v_template": (vertices, 3),
        "f": (faces, 3),
        "shapedirs": (vertices, 3, None),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
        "weights": (vertices, joints),
    }


SMPL_SIZES = _sizes(6890, 13776, 24)
SMPLX_SIZES = {**_sizes(10475, 20908, 55), "hands_meanl": (45,), "hands_meanr": (45,)}
"""Of the arrays that a file must have; None is any number."""

LARGEST = 1 << 29
"""Bytes of these arrays together; those of SMPL-X with all its shapes have half of it."""


def _read(path: Path, sizes: Sizes, right: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz or .pkl that have these sizes; others in it are not looked at.

    Raises:
        ValueError: one is missing, of another size, or has numbers that no model has; says to take
            the file that is `right`.
    """
    found: dict[str, Any] = (
        load_arrays(path) if path.suffix == ".pkl" else load_npz(path, sizes, LARGEST)
    )
    missing = [name for name in sizes if name not in found]
    if missing:
        raise ValueError(f"{show(path)}: no body model, {', '.join(missing)} missing")
    for name, size in sizes.items():
        wrong = _wrong(found[name], size)
        if wrong:
            raise ValueError(f"{show(path)}: {name} {wrong}; give {right}")
    faces, parents = found["f"], found["kintree_table"][0, 1:]
    if faces.min() < 0 or faces.max() >= len(found["v_template"]):
        raise ValueError(f"{show(path)}: f names vertices that are not there; give {right}")
    if (parents < 0).any() or (parents > np.arange(len(parents))).any():
        raise ValueError(f"{show(path)}: kintree_table has parents after children; give {right}")
    return {name: found[name] for name in sizes}


def _wrong(array: Any, size: tuple[int | None, ...]) -> str:
    """What is wrong with what should be an array of this size; nothing, most often."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iuf":
        return "is no array of numbers"
    if len(array.shape) != len(size) or any(
        wanted not in (None, found) for wanted, found in zip(size, array.shape, strict=True)
    ):
        wanted_size = ", ".join("any" if n is None else str(n) for n in size)
        return f"{array.shape}, ({wanted_size}) was expected"
    return "" if np.isfinite(array).all() else "has numbers that are not finite"


def _enough(path: Path, wanted: int, there: int, what: str) -> None:
    if not 0 <= wanted <= there:
        raise ValueError(f"{show(path)}: {there} {what}, {wanted} are wanted; ask for fewer")


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))
