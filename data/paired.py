"""Pairs in folders, and pairs made from clean pictures."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator

from data.degrade import F32, U8, Degradation
from data.images import show
from data.inspection import Transform, pictures
from data.pairs import (
    SPLITS,
    Box,
    PairDataset,
    PairFiles,
    Split,
    check_root,
    enlarge,
    unit,
)

NAMES = (("input", "target"), ("LQ", "HQ"), ("LR", "HR"))
HELD_OUT = 40
"""Of a folder without splits one picture of so many is not learned from."""
LAYOUT = "<split>/input + <split>/target, or LQ + HQ, or LR + HR, with optional <split>/regions"


class Paired(PairDataset):
    """Folders of pairs: root/<split>/input and root/<split>/target, or LQ and HQ, or LR and HR.

    Subfolders are included; pairs are matched by name (see `match`) and sorted by it. With
    root/<split>/regions every pair has a region map, of the size of the target. Keywords as
    `PairDataset`. ValueError, naming the folder or file, if one is missing or left over.
    """

    def __init__(
        self,
        root: str | Path,
        split: Split,
        scale: int = 1,
        patch: int | None = None,
        transform: Transform | None = None,
        grey: bool = False,
    ) -> None:
        folder = check_root(root, split, LAYOUT) / split
        names = next((n for n in NAMES if any((folder / name).is_dir() for name in n)), None)
        if names is None:
            raise ValueError(f"{show(folder)} holds no pairs; give a folder laid out as {LAYOUT}")
        inputs, targets = (folder / name for name in names)
        for side in (inputs, targets):
            if not side.is_dir():
                raise ValueError(f"{show(side)} is not a folder; create it, or correct its name")
        regions = folder / "regions"
        files = match(inputs, targets, regions if regions.is_dir() else None)
        super().__init__(files, split, scale, patch, transform, grey)


class Degraded(PairDataset):
    """Clean pictures in root/<split>, or in root if it has no splits, and inputs made from them.

    Subfolders are included; pictures are sorted by path. Without splits every `HELD_OUT`th picture,
    the first among them, is kept for val and test, and not learned from. Targets are read at 8
    bits, which the degradation takes, and lose the rows and columns at the end that make no
    multiple of `scale`, which is that of the degradation. A crop in training is degraded with the
    margin around it that makes it the same as in the whole picture. With `enlarge_small` pictures
    smaller than a patch are enlarged to one, which large collections need; otherwise they are
    errors. Keywords as `PairDataset`. ValueError, naming the folder, if it holds no picture, or
    without splits a single one to learn from.
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
        degradation: Degradation,
        enlarge_small: bool = False,
    ) -> None:
        root = check_root(root, split, "<split>/<name>.png, or <name>.png without splits")
        folder = root / split if any((root / name).is_dir() for name in SPLITS) else root
        found = pictures(folder, recursive=True) if folder.is_dir() else []
        if not found:
            raise ValueError(f"{show(folder)} holds no picture; put clean pictures there")
        if folder == root:
            learned = [path for i, path in enumerate(found) if i % HELD_OUT]
            found = learned if split == "train" else found[::HELD_OUT]
            if not found:
                raise ValueError(f"{show(folder)} holds one picture, which is held out; add more")
        if degradation.scale != scale:
            raise ValueError(
                f"scale {scale} is not that of {type(degradation).__name__}, {degradation.scale}; "
                f"give scale={degradation.scale}, or another degradation"
            )
        super().__init__(
            [PairFiles(path, path) for path in found], split, scale, patch, transform, grey
        )
        self.degradation, self.enlarge_small = degradation, enlarge_small

    def _read(self, files: PairFiles, rng: Generator) -> tuple[F32, F32, None]:
        clean = np.asarray(self._pixels(files.target, eight=True), np.uint8)
        if self.enlarge_small and self.patch is not None and self.split == "train":
            clean = at_least(clean, self.patch * self.scale)
        height, width = (side // self.scale for side in clean.shape[:2])
        if min(height, width) < 1:
            raise ValueError(
                f"{show(files.target)} is {clean.shape[1]}×{clean.shape[0]}, less than one pixel "
                f"at scale {self.scale}; take the picture out"
            )
        clean = clean[: height * self.scale, : width * self.scale]
        box = self._box(height, width, files.target, rng)
        return self._degrade(clean, box, rng), unit(clean[enlarge(box, self.scale)]), None

    def _degrade(self, clean: U8, box: Box, rng: Generator) -> F32:
        """The box of the input, made from that part of the clean picture and its margin."""
        scale, margin = self.scale, self.degradation.margin
        step = math.lcm(scale, self.degradation.grid)
        starts = [max(0, part.start * scale - margin) // step * step for part in box]
        stops = [(part.stop + -(-margin // scale)) * scale for part in box]
        part = clean[starts[0] : stops[0], starts[1] : stops[1]]
        degraded = self.degradation(part, rng)
        wanted = (part.shape[0] // scale, part.shape[1] // scale, part.shape[2])
        if degraded.dtype != np.float32 or degraded.shape != wanted:
            raise ValueError(
                f"{type(self.degradation).__name__} returned {degraded.dtype} {degraded.shape}; "
                f"it must return float32 {wanted}"
            )
        rows, columns = (
            slice(side.start - start // scale, side.stop - start // scale)
            for side, start in zip(box, starts, strict=True)
        )
        return degraded[rows, columns]


def at_least(image: U8, side: int) -> U8:
    """H×W×C, enlarged by cubic interpolation if a side is shorter."""
    height, width = image.shape[:2]
    grow = side / min(height, width)
    if grow <= 1:
        return image
    size = (max(side, round(width * grow)), max(side, round(height * grow)))
    large = cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_CUBIC)
    return np.asarray(large, np.uint8).reshape(size[1], size[0], -1)


def match(inputs: Path, targets: Path, regions: Path | None = None) -> list[PairFiles]:
    """Pair the pictures of two folders, and region maps, by name: sorted by target.

    A name is the path in the folder without suffix. Where the input has no target of its name, the
    x2, x4… that some data sets put at its end is left out. Region maps have the target's name and
    end in .png or .nii.gz. ValueError, naming the first file and counting the rest, if one is left
    over or two claim the same name.
    """
    wanted = _by_name(targets, pictures(targets, recursive=True), "targets")
    found: dict[str, Path] = {}
    for name, path in _by_name(inputs, pictures(inputs, recursive=True), "inputs").items():
        _claim(found, name if name in wanted else re.sub(r"_?[xX]\d$", "", name), path, "inputs")
    maps: dict[str, Path] = {}
    if regions is not None:
        files = [*pictures(regions, recursive=True), *sorted(regions.rglob("*.nii.gz"))]
        maps = _by_name(regions, files, "region maps")
    if not found and not wanted:
        raise ValueError(f"{show(inputs)} holds no picture; put the inputs there")
    _paired("input", found, wanted, f"target; add one of its name to {show(targets)}")
    _paired("target", wanted, found, f"input; add one of its name to {show(inputs)}")
    if regions is not None:
        _paired("region map", maps, wanted, "picture; add the pair of its name")
        _paired("target", wanted, maps, f"region map; add <name>.nii.gz to {show(regions)}")
    return [PairFiles(found[name], wanted[name], maps.get(name)) for name in sorted(wanted)]


def _by_name(folder: Path, paths: Iterable[Path], what: str) -> dict[str, Path]:
    names: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        _claim(names, re.sub(r"\.(nii\.gz|[^./]+)$", "", name), path, what)
    return names


def _claim(names: dict[str, Path], name: str, path: Path, what: str) -> None:
    if name in names:
        raise ValueError(
            f'{show(names[name])} and {show(path)}: two {what} for the name "{name}"; rename one'
        )
    names[name] = path


def _paired(what: str, these: dict[str, Path], those: dict[str, Path], lacking: str) -> None:
    left = [path for name, path in these.items() if name not in those]
    if left:
        more = f" (and {len(left) - 1} more)" if len(left) > 1 else ""
        raise ValueError(f"{what} {show(left[0])}{more} has no {lacking}, or take it out")
