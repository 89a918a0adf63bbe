"""Rendered people: pictures beside what is true of the people in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.arrays import load_npz
from data.cameras import check_intrinsics
from data.images import read_rgb, show, to_square
from data.pairs import Split

FIELDS = {
    # What stands in the .npz beside a picture of N people, in the camera's view, in metres and
    # pixels; J joints and S numbers of a shape are those of the body.
    "pose": ("N", "J", 3, 3),
    "shape": ("N", "S"),
    "translation": ("N", 3),
    "joints": ("N", "J", 3),
    "pixels": ("N", "J", 2),
    "box": ("N", 4),
    "visible": ("N",),
    "camera": (3, 3),
    "track": ("N",),
}
MOST = 1000
"""More people than a picture has."""
LARGEST = 1 << 26
"""Bytes of an .npz unpacked; MOST people have a tenth of it."""


class RenderedPeople(Dataset[dict[str, Any]]):
    """root/<split>/<name>.jpg and <name>.npz, as `python -m vision.body.people` writes them.

    An item has `image`, float32 3×S×S RGB in [0, 1], the arrays of FIELDS as float32 tensors,
    `owner`, N zeros, `body`, the model that the numbers are of, `path` and `index`. Pictures are
    sorted by name. They are padded to squares and resized where they are of another size than S,
    and pixels and cameras with them.

    Args:
        root: the folder.
        split: train, val or test.
        size: S.
        transform: called as `transform(image=…)["image"]`, changes colours only.

    Raises:
        ValueError: no picture, one without its .npz, or an .npz that holds something else.
    """

    def __init__(
        self, root: str | Path, split: Split, size: int | None = None, transform: Any = None
    ) -> None:
        self.size, self.transform = size, transform
        folder = Path(root) / split
        self.paths = sorted(folder.glob("*.jpg"))
        if not self.paths:
            cure = f"write some with python -m vision.body.people {show(root)}"
            raise ValueError(f"{show(folder)} holds no .jpg; {cure}")
        _check(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        image, truth = read_person(path, self.size)
        if self.transform is not None:
            image = self.transform(image=image)["image"]
        owner = torch.zeros(len(truth["pose"]), dtype=torch.long)
        about = {"owner": owner, "body": "anny", "path": str(path), "index": index}
        return {"image": _chw(image), **truth, **about}


class RenderedClips(Dataset[dict[str, Any]]):
    """root/<split>/<clip>/<0000>.jpg and .npz, as the same with `--frames` writes them.

    An item is `frames` pictures one after another: `image` T×3×S×S, `camera` T×3×3, and of all the
    people in them the arrays of FIELDS, one after another; `owner` is the frame of each, `track`
    the same number for one person in all frames. A longer clip gives several items.

    Args:
        root, split, size, transform: as of `RenderedPeople`; all frames change colours alike.
        frames: of an item.

    Raises:
        ValueError: no clip of so many frames; otherwise as `RenderedPeople`.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split,
        size: int | None = None,
        transform: Any = None,
        frames: int = 8,
    ) -> None:
        self.size, self.transform = size, transform
        folder = Path(root) / split
        self.clips: list[list[Path]] = []
        for clip in sorted(path for path in folder.glob("*") if path.is_dir()):
            paths = sorted(clip.glob("*.jpg"))
            starts = range(0, len(paths) - frames + 1, frames)
            self.clips += [paths[start : start + frames] for start in starts]
        if not self.clips:
            cure = f"write some with python -m vision.body.people {show(root)} --frames {frames}"
            raise ValueError(f"{show(folder)} holds no clip of {frames} frames; {cure}")
        _check([path for clip in self.clips for path in clip])

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> dict[str, Any]:
        images, truths = zip(*(read_person(p, self.size) for p in self.clips[index]), strict=True)
        if self.transform is not None:
            images = self.transform(images=np.stack(images))["images"]
        item: dict[str, Any] = {"image": torch.stack([_chw(image) for image in images])}
        for name in FIELDS:
            join = torch.stack if name == "camera" else torch.cat
            item[name] = join([truth[name] for truth in truths])
        counts = torch.tensor([len(truth["pose"]) for truth in truths])
        item["owner"] = torch.arange(len(truths)).repeat_interleave(counts)
        return {**item, "body": "anny", "path": str(self.clips[index][0]), "index": index}


def _check(paths: Sequence[Path]) -> None:
    lone = [path for path in paths if not path.with_suffix(".npz").is_file()]
    if lone:
        raise ValueError(f"{show(lone[0])} has no .npz beside it; write the set again")


def _chw(image: np.ndarray) -> Tensor:
    return torch.tensor(image).permute(2, 0, 1).float() / 255


def read_person(path: Path, size: int | None) -> tuple[np.ndarray, dict[str, Tensor]]:
    """A picture, uint8 S×S×3, and what is true of it."""
    image, truth = read_rgb(path), read_truth(path.with_suffix(".npz"))
    if size is None or image.shape[:2] == (size, size):
        return image, truth
    image, moved = to_square(image, size)
    move = torch.from_numpy(moved).float()  # pixels of the one → pixels of the other
    truth["camera"] = move @ truth["camera"]
    truth["pixels"] = truth["pixels"] * move[0, 0] + move[:2, 2]
    truth["box"] = truth["box"] * move[0, 0] + move[:2, 2].repeat(2)
    return image, truth


def read_truth(path: Path) -> dict[str, Tensor]:
    """The arrays of FIELDS.

    Raises:
        ValueError: one is missing, of another shape or not finite, a camera that cannot be, or the
            file is damaged.
    """
    arrays = load_npz(path, FIELDS, LARGEST)
    missing = ", ".join(name for name in FIELDS if name not in arrays)
    if missing:
        raise ValueError(
            f"{show(path)}: no truth of rendered people, {missing} missing; write the set again"
        )
    found = {name: array.astype(np.float32) for name, array in arrays.items()}
    sizes: dict[str, int] = {}
    for name, shape in FIELDS.items():
        wanted = tuple(
            sizes.setdefault(side, actual) if isinstance(side, str) else side
            for side, actual in zip(shape, found[name].shape, strict=False)
        )
        if found[name].shape != wanted or len(wanted) != len(shape):
            text = "×".join(map(str, shape))
            raise ValueError(f"{show(path)}: {name} is {found[name].shape}, {text} was expected")
        if not np.isfinite(found[name]).all():
            raise ValueError(f"{show(path)}: {name} is not finite; write the set again")
    check_intrinsics(found["camera"], show(path))
    return {name: torch.from_numpy(array) for name, array in found.items()}


def collate_people(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pictures B×3×S×S and cameras B×3×3, or clips B×T×3×S×S and B·T×3×3.

    All their people one after the other, M in number: `owner`, int64 M, is the picture that each of
    them is in, counting the frames of one clip after another's; tracks of clips are set apart.
    `body` is the model that the numbers are of; `gender`, where it is known, has a name for each.
    """
    batch: dict[str, Any] = {"image": torch.stack([item["image"] for item in items])}
    frames = items[0]["image"].shape[0] if items[0]["image"].dim() == 4 else 1
    batch["camera"] = torch.cat([item["camera"].view(-1, 3, 3) for item in items])
    for name in FIELDS:
        if name not in ("camera", "track"):
            batch[name] = torch.cat([item[name] for item in items])
    for name, step in (("owner", frames), ("track", MOST)):
        batch[name] = torch.cat([item[name].long() + i * step for i, item in enumerate(items)])
    batch["body"] = items[0]["body"]
    if "gender" in items[0]:
        batch["gender"] = [gender for item in items for gender in item["gender"]]
    batch["path"] = [item["path"] for item in items]
    return batch
