"""3DPW: people outdoors, with poses from inertial sensors (von Marcard et al., ECCV 2018).

    root/sequenceFiles/{train,validation,test}/<sequence>.pkl
    root/imageFiles/<sequence>/image_00000.jpg …

The sequences are pickles of Python 2, read by `data.pickles`. Poses and places come in the camera's
view; where a body's pelvis is in it needs the body model, so what that takes is handed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import Dataset

from data.images import read_rgb, show
from data.pickles import load_arrays

Split = Literal["train", "validation", "test"]
LAYOUT = "sequenceFiles/<split>/<sequence>.pkl beside imageFiles/<sequence>/image_00000.jpg"


@dataclass(frozen=True)
class Sequence3DPW:
    """One film: N frames, P people (one or two).

    Attributes:
        name: of the folder with its frames.
        pose: P×N×24×3 rotation vectors of SMPL, in the world.
        betas: P×10 shapes of SMPL.
        place: P×N×3 SMPL's translation, in metres, in the world.
        genders: P times `male` or `female`.
        extrinsics: N×4×4, world → camera.
        valid: P×N, whether the camera is known well enough to be judged by.
        camera: 3×3 intrinsics in pixels.
    """

    name: str
    pose: np.ndarray
    betas: np.ndarray
    place: np.ndarray
    genders: tuple[str, ...]
    extrinsics: np.ndarray
    valid: np.ndarray
    camera: np.ndarray


class ThreeDPW(Dataset[dict[str, Any]]):
    """Frames of 3DPW, or clips of some frames one after another.

    An item has, for T frames (1 unless `frames` says more) and P people:
        `image` float32 T×3×H×W RGB in [0, 1];
        `pose` T×P×24×3×3 rotations, the first of them in the camera's view;
        `betas` P×10; `gender`, P names;
        `place` T×P×3 and `extrinsics` T×4×4: the pelvis lies at R·(J₀ + place) + t, with J₀ where
        the model's pelvis is for these betas;
        `valid` T×P, bool; `camera` 3×3; `sequence`; `frame`, the first one's number.

    Args:
        root: folder laid out as above.
        split: train, validation or test.
        frames: of an item.
        stride: from one item's first frame to the next one's; `frames` by default.

    Raises:
        ValueError: another layout, or a sequence that is damaged or not whole.
    """

    def __init__(
        self, root: str | Path, split: Split, frames: int = 1, stride: int | None = None
    ) -> None:
        self.root = Path(root)
        folder = self.root / "sequenceFiles" / split
        paths = sorted(folder.glob("*.pkl"))
        if split not in get_args(Split) or not paths:
            raise ValueError(f"{show(folder)} holds no .pkl; give a folder laid out as {LAYOUT}")
        if frames < 1 or (stride or 1) < 1:
            raise ValueError(f"frames={frames}, stride={stride}: give 1 or more")
        self.frames = frames
        self.sequences = [read_sequence(path) for path in paths]
        self.items = [
            (number, first)
            for number, sequence in enumerate(self.sequences)
            for first in range(0, len(sequence.extrinsics) - frames + 1, stride or frames)
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, first = self.items[index]
        film = self.sequences[number]
        rows = range(first, first + self.frames)
        clip = np.s_[first : first + self.frames]
        folder = self.root / "imageFiles" / film.name
        images = [read_rgb(folder / f"image_{row:05d}.jpg") for row in rows]
        vectors = film.pose[:, clip].swapaxes(0, 1)  # T×P×24×3
        pose = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix()
        pose = pose.reshape(*vectors.shape, 3)
        extrinsics = film.extrinsics[clip]
        pose[:, :, 0] = extrinsics[:, None, :3, :3] @ pose[:, :, 0]
        return {
            "image": torch.tensor(np.stack(images)).permute(0, 3, 1, 2).float() / 255,
            "pose": _float(pose),
            "betas": _float(film.betas),
            "gender": film.genders,
            "place": _float(film.place[:, clip].swapaxes(0, 1)),
            "extrinsics": _float(extrinsics),
            "valid": torch.tensor(film.valid[:, clip].T),
            "camera": _float(film.camera),
            "sequence": film.name,
            "frame": first,
        }


def read_sequence(path: Path) -> Sequence3DPW:
    """A sequence's file.

    Raises:
        ValueError: it holds something else, lists of different lengths, numbers that are not
            finite, or cameras that do not turn but bend.
    """
    data = load_arrays(path)
    try:
        poses = [np.asarray(p, np.float64) for p in data["poses"]]
        film = Sequence3DPW(
            name=str(data["sequence"]),
            pose=np.stack([p.reshape(len(p), 24, 3) for p in poses]),
            betas=np.stack([np.asarray(b, np.float64)[:10] for b in data["betas"]]),
            place=np.stack([np.asarray(t, np.float64) for t in data["trans"]]),
            genders=tuple({"m": "male", "f": "female"}[str(g)[0]] for g in data["genders"]),
            extrinsics=np.asarray(data["cam_poses"], np.float64),
            valid=np.stack([np.asarray(v).astype(bool) for v in data["campose_valid"]]),
            camera=np.asarray(data["cam_intrinsics"], np.float64),
        )
    except (KeyError, ValueError, TypeError, IndexError, OverflowError) as error:
        raise ValueError(f"{show(path)}: no sequence of 3DPW ({error!r}); get it again") from None
    people, count = film.pose.shape[:2]
    wanted = {
        "betas": (people, 10),
        "place": (people, count, 3),
        "extrinsics": (count, 4, 4),
        "valid": (people, count),
        "camera": (3, 3),
    }
    for name, shape in wanted.items():
        found = getattr(film, name).shape
        if found != shape:
            raise ValueError(f"{show(path)}: {name} is {found}, {shape} was expected")
    if len(film.genders) != people:
        raise ValueError(f"{show(path)}: {len(film.genders)} genders for {people} people")
    for name in ("pose", "betas", "place", "extrinsics", "camera"):
        if not np.isfinite(getattr(film, name)).all():
            raise ValueError(f"{show(path)}: {name} has numbers that are not finite; get it again")
    turns = film.extrinsics[film.valid.any(0), :3, :3]
    bent = not np.allclose(turns @ turns.swapaxes(1, 2), np.eye(3), atol=1e-3)
    if bent or (np.linalg.det(turns) < 0).any():
        raise ValueError(f"{show(path)}: cameras that are no rotations; get it again")
    if Path(film.name).name != film.name or film.name in ("", ".."):
        raise ValueError(f"{show(path)}: '{show(film.name)}' is no name of a folder; get it again")
    return film


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
