"""Rendered people: pictures beside what is true of the people in them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.images import read_rgb, show
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
}


class RenderedPeople(Dataset[dict[str, Any]]):
    """root/<split>/<name>.jpg and <name>.npz, as `python -m vision.body.people` writes them.

    An item has `image`, float32 3×H×W RGB in [0, 1], the arrays of FIELDS as float32 tensors,
    `path` and `index`. Pictures are sorted by name.

    Raises:
        ValueError: no picture, one without its .npz, or an .npz that holds something else.
    """

    def __init__(self, root: str | Path, split: Split) -> None:
        folder = Path(root) / split
        self.paths = sorted(folder.glob("*.jpg"))
        if not self.paths:
            cure = f"write some with python -m vision.body.people {show(root)}"
            raise ValueError(f"{show(folder)} holds no .jpg; {cure}")
        lone = [path for path in self.paths if not path.with_suffix(".npz").is_file()]
        if lone:
            raise ValueError(f"{show(lone[0])} has no .npz beside it; write the set again")

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        image = torch.tensor(read_rgb(path)).permute(2, 0, 1).float() / 255
        truth = read_truth(path.with_suffix(".npz"))
        return {"image": image, **truth, "path": str(path), "index": index}


def read_truth(path: Path) -> dict[str, Tensor]:
    """The arrays of FIELDS.

    Raises:
        ValueError: one is missing or of another shape, or the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in FIELDS}
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{show(path)}: no truth of rendered people ({error})") from None
    sizes: dict[str, int] = {}
    for name, shape in FIELDS.items():
        wanted = tuple(
            sizes.setdefault(side, actual) if isinstance(side, str) else side
            for side, actual in zip(shape, found[name].shape, strict=False)
        )
        if found[name].shape != wanted or len(wanted) != len(shape):
            text = "×".join(map(str, shape))
            raise ValueError(f"{show(path)}: {name} is {found[name].shape}, {text} was expected")
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in found.items()}


def collate_people(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Pictures B×3×H×W and cameras B×3×3; all their people one after the other, M in number.

    `owner`, int64 M, is the picture that each of them is in.
    """
    batch: dict[str, Any] = {
        name: torch.stack([item[name] for item in items]) for name in ("image", "camera")
    }
    for name in FIELDS:
        if name != "camera":
            batch[name] = torch.cat([item[name] for item in items])
    counts = torch.tensor([len(item["pose"]) for item in items])
    batch["owner"] = torch.arange(len(items)).repeat_interleave(counts)
    batch["path"] = [item["path"] for item in items]
    return batch
