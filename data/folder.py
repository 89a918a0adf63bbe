"""A plain folder of pictures of good parts, with whatever else the user happens to have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.images import show
from data.inspection import (
    LAYOUTS,
    InspectionDataset,
    Record,
    Split,
    Transform,
    check_root,
    match_masks,
    pictures,
)


class Folder(InspectionDataset):
    """Good pictures, and optionally bad ones and masks, without a fixed layout.

    - `good`: the folder of good pictures, subfolders included; by default root/good, or root
      itself (then without subfolders).
    - `bad`: folders of bad pictures, by default root/bad if it exists. The kind of a defect is
      the subfolder it lies in ("scratch" for bad/scratch/007.png), or the folder's own name.
    - `masks`: by default root/masks if it exists; mirrors each bad folder, so bad/scratch/007.png
      has masks/scratch/007.png or masks/scratch/007_mask.png. With several bad folders the
      folder's name comes first: masks/<bad folder>/scratch/007.png. If there are masks, every
      bad picture needs one.
    - root/test_good, if it exists: good pictures kept for testing.

    Names are taken relative to root. `split` "train" is the good pictures; "test" is test_good
    and then the bad ones. Pictures are sorted by path. ValueError, naming the folder or file, if
    one is missing or empty, if a picture would be in both training and test, or if there is
    nothing to test on.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split,
        size: int,
        transform: Transform | None = None,
        good: str | None = None,
        bad: Sequence[str] | None = None,
        masks: str | None = None,
    ) -> None:
        root = check_root(root, split)
        train = _good(root, good)
        if split == "train":
            records = [Record(image, 0) for image in train]
        else:
            records = _test(root, bad, masks)
            _check_apart(train, records)
        super().__init__(records, size, transform)


def _good(root: Path, good: str | None) -> list[Path]:
    if good is None:
        folder = root / "good" if (root / "good").is_dir() else root
    else:
        folder = _existing(root, good)
    images = pictures(folder, recursive=not folder.samefile(root))
    if not images:
        raise ValueError(f"{show(folder)} holds no picture; give a folder laid out as {LAYOUTS}")
    return images


def _test(root: Path, bad: Sequence[str] | None, masks: str | None) -> list[Record]:
    good = [Record(image, 0) for image in _optional(root / "test_good")]
    if bad is None:
        bad = ["bad"] if (root / "bad").is_dir() else []
    folders = [_existing(root, name) for name in bad]
    found = [entry for folder in folders for entry in _bad(folder, prefix=len(folders) > 1)]
    if not good and not found:
        raise ValueError(
            f"{show(root)}: nothing to test on; put bad pictures in bad/<kind>/ or good ones in "
            "test_good/"
        )
    folder = _existing(root, masks) if masks is not None else root / "masks"
    matched: dict[Path, Path] = {}
    if folder.is_dir():
        matched = match_masks(((key, image) for key, _, image in found), folder)
    return good + [Record(image, 1, kind, matched.get(image)) for _, kind, image in found]


def _bad(folder: Path, prefix: bool) -> Iterator[tuple[str, str, Path]]:
    """Key for the mask, kind and path of each bad picture of one folder."""
    images = pictures(folder, recursive=True)
    if not images:
        raise ValueError(f"{show(folder)} holds no picture; put bad pictures there or remove it")
    for image in images:
        relative = image.relative_to(folder)
        kind = relative.parent.as_posix() if len(relative.parts) > 1 else folder.name
        key = relative.with_suffix("").as_posix()
        yield (f"{folder.name}/{key}" if prefix else key), kind, image


def _existing(root: Path, name: str) -> Path:
    folder = root / name
    if not folder.is_dir():
        raise ValueError(f"{show(folder)} is not a folder; correct the name or create it")
    return folder


def _optional(folder: Path) -> list[Path]:
    return pictures(folder, recursive=True) if folder.is_dir() else []


def _check_apart(train: list[Path], test: list[Record]) -> None:
    """No file, not even through a link, may be trained on and tested on."""
    seen = {image.resolve() for image in train}
    for record in test:
        if record.image.resolve() in seen:
            raise ValueError(
                f"{show(record.image)} is also a training picture, so testing on it proves "
                "nothing; keep the folders of good, test_good and bad pictures apart"
            )
