"""The layout of the under-display-camera data of Zhou et al. (CVPR 2021, arXiv 2003.04857)."""

from __future__ import annotations

import re
from pathlib import Path

from data.degrade import Display
from data.images import show
from data.inspection import Transform
from data.paired import match
from data.pairs import PairDataset, PairFiles, Split, check_root

HELD_OUT = 30
LAYOUT = "Poled/{HQ,LQ}, <split>/Poled/{HQ,LQ} or Poled/<split>/{HQ,LQ}, and the same of Toled"


class UDC(PairDataset):
    """Captures through one display and the same without it: root/Poled/{HQ,LQ}/<number>.png.

    root/<split>/Poled/{HQ,LQ} and root/Poled/<split>/{HQ,LQ} are read too, whatever the case of
    the names. Pairs are sorted by number. Where there are no split folders, the last 30 are both
    `val` and `test` and the others `train`: our choice, the published data comes in parts.
    Keywords as `PairDataset`, `scale` 1. ValueError, naming the folder or file, if one is missing
    or left over.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split,
        scale: int = 1,
        patch: int | None = None,
        transform: Transform | None = None,
        grey: bool = False,
        *,
        display: Display,
    ) -> None:
        if display not in ("poled", "toled"):
            raise ValueError(f'display "{display}" is unknown; give poled or toled')
        root = check_root(root, split, LAYOUT)
        own = _descend(root, split, display) or _descend(root, display, split)
        folder = own or _descend(root, display)
        sides = [folder and _descend(folder, name) for name in ("LQ", "HQ")]
        if folder is None or sides[0] is None or sides[1] is None:
            raise ValueError(
                f"{show(root)} holds no LQ and HQ of {display}, {split}; give a folder laid out as "
                f"{LAYOUT}"
            )
        files = sorted(match(sides[0], sides[1]), key=_number)
        if own is None:
            files = _held_out(files, split, folder)
        super().__init__(files, split, scale, patch, transform, grey)


def _descend(folder: Path, *names: str) -> Path | None:
    """The folder below, whatever the case of its names."""
    for name in names:
        inside = (path for path in sorted(folder.iterdir()) if path.is_dir())
        found = next((path for path in inside if path.name.lower() == name.lower()), None)
        if found is None:
            return None
        folder = found
    return folder


def _number(files: PairFiles) -> list[str | int]:
    """2.png before 10.png."""
    parts = re.split(r"([0-9]+)", files.target.stem)
    return [int(part) if number % 2 else part for number, part in enumerate(parts)]


def _held_out(files: list[PairFiles], split: Split, folder: Path) -> list[PairFiles]:
    if len(files) <= HELD_OUT:
        raise ValueError(
            f"{show(folder)} holds {len(files)} pairs, of which the last {HELD_OUT} would be held "
            "out; divide them into folders train, val and test"
        )
    return files[:-HELD_OUT] if split == "train" else files[-HELD_OUT:]
