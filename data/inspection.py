"""What every inspection data set shares: records, samples, batches, and matching masks by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.images import SUFFIXES, read_mask, read_rgb, resize, show

Split = Literal["train", "test"]
Transform = Callable[..., dict[str, Any]]

LAYOUTS = (
    "train/good + test/<kind> + ground_truth/<kind> (MVTec AD), or good pictures in the folder "
    "itself or in good/, with optional test_good/, bad/ and masks/"
)


@dataclass(frozen=True)
class Record:
    """One picture of a data set: `label` 0 good, 1 defect; `defect` is "good" or the kind."""

    image: Path
    label: int
    defect: str = "good"
    mask: Path | None = None


class Sample(TypedDict):
    """What a data set returns for one picture.

    `image` float32 3×S×S RGB in [0, 1]; `mask` uint8 H×W in {0, 1} at the picture's own
    resolution, zeros for a good picture, None for a defect whose place nobody marked (zeros would
    count its pixels as good); `label` 0 or 1; `defect` "good" or the kind; `path`; `index`.
    """

    image: Tensor
    mask: Tensor | None
    label: int
    defect: str
    path: str
    index: int


class InspectionDataset(Dataset[Sample]):
    """Pictures and masks of a list of records.

    Pictures are squashed to size×size by `data.images.resize`; masks are never resampled.
    `transform` is called as albumentations are: `transform(image=uint8 S×S×3)["image"]`, after
    the resize, and must return uint8 of the same shape. Damaged files raise `ImageError`, a mask
    of another size than its picture ValueError, both when the sample is asked for.
    """

    def __init__(
        self, records: Sequence[Record], size: int, transform: Transform | None = None
    ) -> None:
        if size < 1:
            raise ValueError(f"size {size} is not a picture size; give the side in pixels, say 256")
        self.records = tuple(records)
        self.size = size
        self.transform = transform

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        rgb = read_rgb(record.image)
        mask = _mask(record, rgb)
        image = resize(rgb, self.size)
        if self.transform is not None:
            image = self.transform(image=image)["image"]
            if image.dtype != np.uint8 or image.shape != (self.size, self.size, 3):
                raise ValueError(
                    f"the transform returned {image.dtype} {tuple(image.shape)}; it must return "
                    f"uint8 ({self.size}, {self.size}, 3), so leave normalising to the network"
                )
        return Sample(
            image=torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255,
            mask=None if mask is None else torch.from_numpy(mask),
            label=record.label,
            defect=record.defect,
            path=str(record.image),
            index=index % len(self),
        )


def _mask(record: Record, rgb: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    if record.label == 0:
        return np.zeros(rgb.shape[:2], np.uint8)
    if record.mask is None:
        return None
    mask = read_mask(record.mask)
    if mask.shape != rgb.shape[:2]:
        sizes = [f"{width}×{height}" for height, width in (mask.shape, rgb.shape[:2])]
        raise ValueError(
            f"{show(record.mask)} is {sizes[0]} but its picture {show(record.image)} is "
            f"{sizes[1]}; draw the mask at the size of the picture"
        )
    return mask


def collate(samples: Sequence[Sample]) -> dict[str, Any]:
    """A batch: image B×3×S×S float32, label B int64, every other field a list of length B."""
    batch: dict[str, Any] = {key: [sample[key] for sample in samples] for key in samples[0]}  # type: ignore[literal-required]
    batch["image"] = torch.stack(batch["image"])
    batch["label"] = torch.tensor(batch["label"], dtype=torch.int64)
    return batch


def check_root(root: str | Path, split: str) -> Path:
    """The folder as a Path; ValueError if it is missing, not a folder, or the split unknown."""
    if split not in ("train", "test"):
        raise ValueError(f'split "{split}" does not exist; ask for "train" or "test"')
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise ValueError(f"{show(root)} {what}; give a folder laid out as {LAYOUTS}")
    return root


def pictures(folder: Path, recursive: bool = False) -> list[Path]:
    """The pictures in a folder, by suffix, sorted by path; hidden files are left out.

    A link whose target is gone is kept: reading it then says so, instead of a data set that
    shrinks unseen.
    """
    found = folder.rglob("*") if recursive else folder.glob("*")
    return sorted(
        path
        for path in found
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not path.is_dir()
    )


def subfolders(folder: Path) -> list[Path]:
    """The folders directly inside a folder, sorted; hidden ones are left out."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def match_masks(images: Iterable[tuple[str, Path]], folder: Path) -> dict[Path, Path]:
    """Pair pictures with masks by name: image → mask.

    `images` gives each picture with its key, its path relative to its data set without suffix
    ("scratch/007"); the mask is `folder/<key>_mask.*` or `folder/<key>.*`. ValueError, naming the
    first file and counting the rest, if a picture has no mask, a mask no picture, or two files
    claim the same name.
    """
    masks: dict[str, Path] = {}
    for path in pictures(folder, recursive=True) if folder.is_dir() else []:
        key = path.relative_to(folder).with_suffix("").as_posix().removesuffix("_mask")
        _claim(masks, key, path, "masks")
    keys: dict[str, Path] = {}
    for key, path in images:
        _claim(keys, key, path, "pictures")
    _none_missing(
        [path for key, path in keys.items() if key not in masks],
        "defect picture",
        f"has no mask; add {show(folder)}/<kind>/<name>_mask.png, or take the picture out",
    )
    _none_missing(
        [path for key, path in masks.items() if key not in keys],
        "mask",
        "has no picture; add the picture of the same name, or take the mask out",
    )
    return {path: masks[key] for key, path in keys.items()}


def _claim(names: dict[str, Path], key: str, path: Path, what: str) -> None:
    if key in names:
        raise ValueError(
            f'{show(names[key])} and {show(path)}: two {what} for the name "{key}"; rename one'
        )
    names[key] = path


def _none_missing(paths: list[Path], what: str, wrong: str) -> None:
    if paths:
        more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
        raise ValueError(f"{what} {show(paths[0])}{more} {wrong}")
