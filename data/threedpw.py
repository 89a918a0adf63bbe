"""3DPW: people outdoors, with poses from inertial sensors (von Marcard et al., ECCV 2018).

    root/sequenceFiles/{train,validation,test}/<sequence>.pkl
    root/imageFiles/<sequence>/image_00000.jpg …

The sequences are pickles of Python 2, read by `data.pickles`. `ThreeDPW` gives frames as they are
and what SMPL takes; `ThreeDPWPeople` and `ThreeDPWClips` give what `data.people` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import Dataset

from data.cameras import check_intrinsics
from data.images import read_rgb, show, to_square
from data.pairs import Split as Part
from data.people import FIELDS
from data.pickles import load_arrays

Split = Literal["train", "validation", "test"]
LAYOUT = "sequenceFiles/<split>/<sequence>.pkl beside imageFiles/<sequence>/image_00000.jpg"
SPLITS: dict[Part, Split] = {"train": "train", "val": "validation", "test": "test"}
MARGIN = 0.1
"""Of the longer side of the box around somebody's joints, for flesh beyond them; ours. About 15 cm
of who stands: heads and hands end that far from their joints."""
NEAR = 0.05
"""Metres before the camera from which on a joint has a place in the picture."""


@dataclass(frozen=True)
class Sequence3DPW:
    """One film: N frames, P people (one or two).

    Attributes:
        name: of the folder with its frames.
        pose: P×N×24×3 rotation vectors of SMPL, in the world.
        betas: P×10 shapes of SMPL.
        place: P×N×3 SMPL's translation, in metres, in the world.
        joints: P×N×24×3 SMPL's joints, in metres, in the world.
        genders: P times `male` or `female`.
        extrinsics: N×4×4, world → camera.
        valid: P×N, whether the camera is known well enough to be judged by.
        camera: 3×3 intrinsics in pixels.
    """

    name: str
    pose: np.ndarray
    betas: np.ndarray
    place: np.ndarray
    joints: np.ndarray
    genders: tuple[str, ...]
    extrinsics: np.ndarray
    valid: np.ndarray
    camera: np.ndarray

    def paths(self, root: Path, rows: slice) -> list[Path]:
        """Where the pictures of these frames are, below 3DPW's folder."""
        folder = root / "imageFiles" / self.name
        return [folder / f"image_{row:05d}.jpg" for row in range(rows.start, rows.stop)]

    def pose_seen(self, rows: slice) -> np.ndarray:
        """T×P×24×3×3 rotations, the first of them in the camera's view."""
        vectors = self.pose[:, rows].swapaxes(0, 1)  # T×P×24×3
        pose = Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(*vectors.shape, 3)
        pose[:, :, 0] = self.extrinsics[rows, None, :3, :3] @ pose[:, :, 0]
        return pose

    def joints_seen(self, rows: slice) -> np.ndarray:
        """T×P×24×3 in the camera's view."""
        view = self.extrinsics[rows, None]  # T×1×4×4
        turned = self.joints[:, rows].swapaxes(0, 1) @ view[..., :3, :3].swapaxes(-1, -2)
        return turned + view[..., None, :3, 3]


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
        if frames < 1 or (stride or 1) < 1:
            raise ValueError(f"frames={frames}, stride={stride}: give 1 or more")
        self.frames = frames
        self.sequences = read_sequences(self.root, split)
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
        clip = np.s_[first : first + self.frames]
        return {
            "image": _stacked([read_rgb(path) for path in film.paths(self.root, clip)]),
            "pose": _float(film.pose_seen(clip)),
            "betas": _float(film.betas),
            "gender": film.genders,
            "place": _float(film.place[:, clip].swapaxes(0, 1)),
            "extrinsics": _float(film.extrinsics[clip]),
            "valid": torch.tensor(film.valid[:, clip].T),
            "camera": _float(film.camera),
            "sequence": film.name,
            "frame": first,
        }


class ThreeDPWClips(Dataset[dict[str, Any]]):
    """Clips of 3DPW with what is true of the people in them, as of `data.people.RenderedClips`.

    The numbers are SMPL's, and an item's `body` says so; `gender` has a name for each person.
    Joints are those of the file; `translation` is the first of them, the pelvis. `visible` is the
    share of joints in the picture, `box` is around them and within it. Whose camera is not valid in
    a frame, or who is not wholly before it, is left out there; clips are made of frames one after
    another in each of which somebody is left.

    Pictures are padded to squares and resized, pixels and cameras with them.

    Args:
        root: folder laid out as above.
        split: train, val (3DPW's validation) or test.
        size: side of the pictures; by default the longer one of the film's, which in 3DPW is the
            same in all films.
        transform: called as `transform(images=…)["images"]`, changes colours only.
        frames: of an item.

    Raises:
        ValueError: another layout, a sequence that is damaged or not whole, or no such clip.
    """

    def __init__(
        self,
        root: str | Path,
        split: Part,
        size: int | None = None,
        transform: Any = None,
        frames: int = 8,
    ) -> None:
        self.root, self.size, self.transform, self.frames = Path(root), size, transform, frames
        if frames < 1 or split not in SPLITS:
            raise ValueError(
                f"split={split}, frames={frames}: give one of {', '.join(SPLITS)}, and 1 or more"
            )
        self.films = read_sequences(self.root, SPLITS[split])
        self.seen = [
            film.valid & (film.joints_seen(np.s_[:])[..., 2] > NEAR).all(-1).T
            for film in self.films
        ]
        self.items = [
            (number, first)
            for number, seen in enumerate(self.seen)
            for first in _runs(np.asarray(seen.any(0)), frames)
        ]
        if not self.items:
            raise ValueError(
                f"{show(self.root)}: {SPLITS[split]} has no {frames} frames one after another in"
                " which somebody is seen by a camera that is valid; give fewer frames, or all files"
            )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        number, first = self.items[index]
        film, rows = self.films[number], np.s_[first : first + self.frames]
        paths = film.paths(self.root, rows)
        pictures = [read_rgb(path) for path in paths]
        squares, moves = zip(
            *(to_square(p, self.size or max(p.shape[:2])) for p in pictures), strict=True
        )
        if self.transform is not None:
            squares = self.transform(images=np.stack(squares))["images"]
        # Who is there: M frames and people, frame by frame.
        frame, who = np.nonzero(self.seen[number][:, rows].T)
        joints = film.joints_seen(rows)[frame, who]  # M×24×3
        shapes = np.array([picture.shape[1::-1] for picture in pictures])[frame]  # M×2
        pixels, box, visible = _in_picture(joints, film.camera, shapes)
        move = np.stack(moves)[frame]  # M×3×3
        scale, shift = move[:, :1, 0], move[:, :2, 2]  # M×1, M×2
        truth = {
            "pose": film.pose_seen(rows)[frame, who],
            "shape": film.betas[who],
            "translation": joints[:, 0],
            "joints": joints,
            "pixels": pixels * scale[:, None] + shift[:, None],
            "box": box * scale + np.tile(shift, 2),
            "visible": visible,
            "camera": np.stack(moves) @ film.camera,
            "track": who,
        }
        assert truth.keys() == FIELDS.keys()
        return {
            "image": _stacked(squares),
            **{name: _float(array) for name, array in truth.items()},
            "owner": torch.from_numpy(frame),
            "body": "smpl",
            "gender": [film.genders[i] for i in who],
            "path": str(paths[0]),
            "index": index,
        }


class ThreeDPWPeople(ThreeDPWClips):
    """Frames of 3DPW with what is true of the people in them, as `data.people.RenderedPeople`.

    Args:
        root, split, size, transform: as of `ThreeDPWClips`.
    """

    def __init__(
        self, root: str | Path, split: Part, size: int | None = None, transform: Any = None
    ) -> None:
        super().__init__(root, split, size, transform, frames=1)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = super().__getitem__(index)
        return {**item, "image": item["image"][0], "camera": item["camera"][0]}


def _runs(seen: np.ndarray, frames: int) -> list[int]:
    """First rows of N that follow one another in lots of `frames`, all of them seen."""
    firsts, row = [], 0
    while row + frames <= len(seen):
        gaps = np.flatnonzero(~seen[row : row + frames])
        if len(gaps):
            row += gaps[-1] + 1
        else:
            firsts.append(row)
            row += frames
    return firsts


def _in_picture(
    joints: np.ndarray, camera: np.ndarray, shapes: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """M×J×3 joints seen in pictures of M×2 width and height: pixels M×J×2, box M×4, visible M."""
    flat = joints @ camera.T
    pixels = flat[..., :2] / flat[..., 2:]
    inside = ((pixels > 0) & (pixels < shapes[:, None])).all(-1)
    low, high = pixels.min(1), pixels.max(1)
    margin = MARGIN * (high - low).max(1, keepdims=True)
    box = np.concatenate([low - margin, high + margin], 1)
    return pixels, box.clip(0, np.tile(shapes, 2)), inside.mean(1)


def read_sequences(root: Path, split: Split) -> list[Sequence3DPW]:
    """All of a split, by name.

    Raises:
        ValueError: none, or as `read_sequence`.
    """
    folder = root / "sequenceFiles" / split
    paths = sorted(folder.glob("*.pkl"))
    if split not in get_args(Split) or not paths:
        raise ValueError(f"{show(folder)} holds no .pkl; give a folder laid out as {LAYOUT}")
    return [read_sequence(path) for path in paths]


def read_sequence(path: Path) -> Sequence3DPW:
    """A sequence's file.

    Raises:
        ValueError: it holds something else, lists of different lengths, numbers that are not
            finite, intrinsics that no camera has, or cameras that do not turn but bend.
    """
    data = load_arrays(path)
    try:
        poses, joints = (
            [np.asarray(p, np.float64) for p in data[name]] for name in ("poses", "jointPositions")
        )
        film = Sequence3DPW(
            name=str(data["sequence"]),
            pose=np.stack([p.reshape(len(p), 24, 3) for p in poses]),
            betas=np.stack([np.asarray(b, np.float64)[:10] for b in data["betas"]]),
            place=np.stack([np.asarray(t, np.float64) for t in data["trans"]]),
            joints=np.stack([j.reshape(len(j), 24, 3) for j in joints]),
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
        "joints": (people, count, 24, 3),
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
    for name in ("pose", "betas", "place", "joints", "extrinsics"):
        if not np.isfinite(getattr(film, name)).all():
            raise ValueError(f"{show(path)}: {name} has numbers that are not finite; get it again")
    check_intrinsics(film.camera, show(path))
    turns = film.extrinsics[film.valid.any(0), :3, :3]
    bent = not np.allclose(turns @ turns.swapaxes(1, 2), np.eye(3), atol=1e-3)
    if bent or (np.linalg.det(turns) < 0).any():
        raise ValueError(f"{show(path)}: cameras that are no rotations; get it again")
    if Path(film.name).name != film.name or film.name in ("", ".."):
        raise ValueError(f"{show(path)}: '{show(film.name)}' is no name of a folder; get it again")
    return film


def _stacked(pictures: Sequence[np.ndarray]) -> Tensor:
    """uint8 H×W×3 each → float T×3×H×W in [0, 1]."""
    return torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255


def _float(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
