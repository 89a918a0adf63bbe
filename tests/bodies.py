"""Files in the layouts of what is gated: SMPL-X's and SMPL's models at random, a film of 3DPW."""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch
from scipy.spatial.transform import Rotation

from data.images import write_jpeg
from vision.body import create

BODY_PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]
SMPL_PARENTS = [*BODY_PARENTS, 20, 21]
SMPLX_PARENTS = [*BODY_PARENTS, 15, 15, 15]
for wrist, first in ((20, 25), (21, 40)):
    SMPLX_PARENTS += [wrist if i % 3 == 0 else first + i - 1 for i in range(15)]


def sizes(vertices: int, faces: int, joints: int, shapes: int) -> dict[str, tuple[int, ...]]:
    """Of what both models have."""
    return {
        "v_template": (vertices, 3),
        "f": (faces, 3),
        "shapedirs": (vertices, 3, shapes),
        "posedirs": (vertices, 3, 9 * (joints - 1)),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
        "weights": (vertices, joints),
    }


SMPL_SIZES = sizes(6890, 13776, 24, 10)
SMPLX_SIZES = {
    **sizes(10475, 20908, 55, 400),
    "hands_meanl": (45,),
    "hands_meanr": (45,),
    "hands_componentsl": (45, 45),
    "hands_componentsr": (45, 45),
    "lmk_faces_idx": (51,),
    "lmk_bary_coords": (51, 3),
    "dynamic_lmk_faces_idx": (79, 17),
    "dynamic_lmk_bary_coords": (79, 17, 3),
}


def arrays(
    sizes: dict[str, tuple[int, ...]], parents: list[int], seed: int = 0
) -> dict[str, np.ndarray]:
    """Random ones that make a body: weights and regressors sum to 1."""
    draw = np.random.default_rng(seed)
    vertices = sizes["v_template"][0]
    found = {}
    for name, size in sizes.items():
        if name == "f" or name.endswith("idx"):
            found[name] = draw.integers(0, vertices if name == "f" else sizes["f"][0], size)
        elif name == "kintree_table":
            found[name] = np.array([parents, range(len(parents))], np.int64)
        elif name in ("weights", "J_regressor"):
            rare = draw.random(size, np.float32) ** 40
            found[name] = rare / rare.sum(-1, keepdims=True)
        else:
            scale = {"v_template": 0.5, "posedirs": 0.002, "shapedirs": 0.02}.get(name, 0.1)
            found[name] = scale * draw.standard_normal(size, np.float32)
    return found


class Python2(pickle._Pickler):
    """Writes strings and bytes as Python 2 writes its strings, and names as they were then."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self.dispatch = {**pickle._Pickler.dispatch, str: Python2.string, bytes: Python2.string}

    def string(self, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        if self.proto:
            self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        else:
            self.write(pickle.STRING + repr(data)[1:].encode() + b"\n")
        self.memoize(text)


def python2(data: Any, protocol: int = 2) -> bytes:
    """A pickle of Python 2 and the NumPy and SciPy of its time."""
    file = io.BytesIO()
    Python2(file, protocol).dump(data)
    written = file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")
    return written.replace(b"cscipy.sparse._csc\n", b"cscipy.sparse.csc\n")


class Thief:
    """Its pickle touches a file called stolen, if whoever reads it lets it."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("stolen"),))


def write_smplx(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays(SMPLX_SIZES, SMPLX_PARENTS))


def write_smpl(path: Path, extra: Sequence[str] = (), seed: int = 0) -> None:
    """As a pickle of Python 2, or as .npz; `extra` names get an empty array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = arrays(SMPL_SIZES, SMPL_PARENTS, seed) | {name: np.zeros(45) for name in extra}
    if path.suffix == ".npz":
        np.savez(path, **data)
    else:
        path.write_bytes(pickle.dumps(data, protocol=2))


def write_genders(folder: Path) -> None:
    """SMPL's three files, which differ."""
    for seed, gender in enumerate(("NEUTRAL", "FEMALE", "MALE")):
        write_smpl(folder / "smpl" / f"SMPL_{gender}.pkl", seed=seed)


def write_regressors(folder: Path) -> None:
    """Human3.6M's for SMPL and SMPL-X, at random."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for name, vertices in (("smpl", 6890), ("smplx", 10475)):
        matrix = draw.random((17, vertices)) ** 40
        np.save(folder / f"J_regressor_h36m_{name}.npy", matrix / matrix.sum(1, keepdims=True))


def write_gated(root: Path) -> None:
    """What 3DPW's recipes take beside it: body_models/ and regressors/."""
    write_genders(root / "body_models")
    write_smplx(root / "body_models" / "smplx" / "SMPLX_NEUTRAL.npz")
    write_regressors(root / "regressors")


def write_threedpw(
    root: Path,
    split: str = "train",
    name: str = "downtown_walk_00",
    people: int = 2,
    frames: int = 5,
    models: Path | None = None,
) -> dict[str, Any]:
    """One film with the keys and shapes of 3DPW's pickles and small frames; what is in it.

    Joints are those of SMPL by the files in `models`, or else anywhere near the body's place.
    """
    draw = np.random.default_rng(0)
    extrinsics = np.tile(np.eye(4), (frames, 1, 1))
    for i, pose in enumerate(extrinsics):
        pose[:3, :3] = Rotation.from_rotvec([3.0, 0.02 * i, 0.1]).as_matrix()
        pose[:3, 3] = [0.1 * i, 1, 4]
    film: dict[str, Any] = {
        "sequence": name,
        "betas": [draw.normal(0, 1, 10) for _ in range(people)],
        "poses": [draw.normal(0, 0.3, (frames, 72)) for _ in range(people)],
        "trans": [draw.normal(0, 1, (frames, 3)) for _ in range(people)],
        "genders": ["m", "f"][:people],
        "poses2d": [draw.normal(0, 100, (frames, 3, 18)) for _ in range(people)],
        "img_frame_ids": np.arange(frames) * 2,
        "cam_poses": extrinsics,
        "campose_valid": [np.arange(frames) != 1 for _ in range(people)],
        "cam_intrinsics": np.array([[60.0, 0, 32], [0, 60, 24], [0, 0, 1]]),
    }
    film["jointPositions"] = [
        np.tile(trans, (1, 24)) + draw.normal(0, 0.2, (frames, 72)) for trans in film["trans"]
    ]
    if models is not None:
        film["jointPositions"] = [joints_in_world(models, film, i) for i in range(people)]
    pickled = root / "sequenceFiles" / split / f"{name}.pkl"
    pickled.parent.mkdir(parents=True, exist_ok=True)
    pickled.write_bytes(python2(film))
    folder = root / "imageFiles" / name
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(frames):
        write_jpeg(folder / f"image_{i:05d}.jpg", np.full((48, 64, 3), min(40 * i, 255), np.uint8))
    return film


def joints_in_world(models: Path, film: dict[str, Any], person: int) -> np.ndarray:
    """N×72 by SMPL's formula, in the world: the model's own place of the pelvis, plus `trans`."""
    gender = {"m": "male", "f": "female"}[film["genders"][person]]
    smpl = create("smpl", models, gender)
    vectors = torch.tensor(film["poses"][person]).float().unflatten(1, (24, 3))
    shape = torch.tensor(film["betas"][person]).float().expand(len(vectors), -1)
    place = smpl.pelvis(shape) + torch.tensor(film["trans"][person]).float()
    joints = smpl(roma.rotvec_to_rotmat(vectors), shape, place).joints
    return joints.flatten(1).double().numpy()
