"""Open a folder as whichever inspection data set it holds."""

from __future__ import annotations

from pathlib import Path

from data.folder import Folder
from data.inspection import InspectionDataset, Split, Transform
from data.mvtec import MVTec


def open_dataset(
    root: str | Path, split: Split, size: int, transform: Transform | None = None
) -> InspectionDataset:
    """Open a folder in whichever of the two layouts it has; `MVTec` if root/train/good exists.

    ValueError, naming both layouts, if the folder is missing or holds neither.
    """
    kind = MVTec if (Path(root) / "train" / "good").is_dir() else Folder
    return kind(root, split, size, transform)
