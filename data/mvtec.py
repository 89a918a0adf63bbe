"""The layout of MVTec AD (Bergmann et al., "The MVTec Anomaly Detection Dataset", CVPR 2019)."""

from __future__ import annotations

from pathlib import Path

from data.images import show
from data.inspection import (
    InspectionDataset,
    Record,
    Split,
    Transform,
    check_root,
    match_masks,
    pictures,
    subfolders,
)


class MVTec(InspectionDataset):
    """One category: train/good, test/good, test/<kind>, ground_truth/<kind>/<name>_mask.png.

    `split` "train" is train/good; "test" is every folder below test/, in sorted order. Masks are
    matched by name (`007_mask.png` or `007.png` for `007.png`), never by position. Other files
    are ignored. ValueError, naming the first file concerned, if a folder holds no picture, a
    defect picture has no mask, or a mask no picture.
    """

    def __init__(
        self, root: str | Path, split: Split, size: int, transform: Transform | None = None
    ) -> None:
        root = check_root(root, split)
        records = _train(root) if split == "train" else _test(root)
        super().__init__(records, size, transform)


def _train(root: Path) -> list[Record]:
    folder = root / "train" / "good"
    images = pictures(folder) if folder.is_dir() else []
    if not images:
        raise ValueError(f"{show(folder)} holds no picture; put the good training pictures there")
    return [Record(image, 0) for image in images]


def _test(root: Path) -> list[Record]:
    folder = root / "test"
    kinds = subfolders(folder) if folder.is_dir() else []
    found = [(kind.name, image) for kind in kinds for image in pictures(kind)]
    if not found:
        raise ValueError(
            f"{show(folder)} holds no picture; put good ones in test/good and defects in "
            "test/<kind>"
        )
    defects = ((f"{kind}/{path.stem}", path) for kind, path in found if kind != "good")
    masks = match_masks(defects, root / "ground_truth")
    return [Record(path, int(kind != "good"), kind, masks.get(path)) for kind, path in found]
