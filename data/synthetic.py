"""Factory parts that never existed: photographs of good and bad ones, with exact masks.

A bad part is the same part of `data.parts` rendered twice, without and with its defect, so the
mask is the difference.
`python -m data.synthetic OUT --part flange` writes a data set in the MVTec AD layout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from data.defects import MIN_SIDE, SMALLEST, U8, paint, settle
from data.images import show, write_png
from data.parts import PARTS

_ROLES = {"train": 0, "good": 1, "bad": 2}


def make_good(part: str, seed: int, role: str, index: int, size: int = 256) -> U8:
    """Good picture number `index` of a role ("train" or "good"): uint8 size×size×3 RGB."""
    rng = np.random.default_rng([seed, _ROLES[role], index])
    return PARTS[part].draw(rng).render(size)[0]


def make_bad(part: str, seed: int, index: int, size: int = 256) -> tuple[U8, U8, str]:
    """Bad picture number `index`: uint8 size×size×3 RGB, its mask {0, 1}, the kind of defect.

    Kinds take turns. A mask is where the picture visibly differs from the same part without the
    defect; for a changed shape, gaps under 1/20 of the side are closed, as a person would outline
    a missing thread and not each of the places where it was on top.
    """
    kinds = PARTS[part].shaped + PARTS[part].painted
    kind = kinds[index % len(kinds)]
    rng = np.random.default_rng([seed, _ROLES["bad"], index])
    sound = PARTS[part].draw(rng)
    good, region = sound.render(size)
    for _ in range(20):
        if kind in sound.painted:
            bad = np.where(region[..., None], paint(good, rng, kind, region)[0], good)
        else:
            bad = sound.spoil(kind, rng).render(size)[0]
        bad, mask = settle(good, bad)
        if mask.mean() >= 4 * SMALLEST:  # a person must see it
            return bad, (mask if kind in sound.painted else _outline(mask)), kind
    raise AssertionError(f"{part} {index}: no visible {kind}")


def _outline(mask: U8) -> U8:
    side = len(mask) // 20 | 1
    gap = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, gap), np.uint8)


def write_mvtec(
    root: str | Path,
    *,
    part: str = "flange",
    seed: int = 0,
    train: int = 60,
    good: int = 20,
    bad: int = 30,
    size: int = 256,
) -> Path:
    """Write a data set in the MVTec AD layout (PNG; masks 0 and 255); returns its folder.

    Picture i of a role depends on part, seed, size and i alone, not on how many there are. The
    folder appears complete or, if the run is broken off, stays empty. ValueError if it is not
    empty, the part is unknown, or a number is too small.
    """
    root = Path(root)
    counts = {"train": train, "good": good, "bad": bad}
    _check(root, part, seed, counts, size)
    root.mkdir(parents=True, exist_ok=True)
    total = sum(counts.values())
    quick = total * (size / 256) ** 2 < 80  # under about two seconds: no bar
    bar = track(
        _files(part, seed, counts, size),
        f"making {part} pictures",
        total,
        disable=quick,
        console=Console(stderr=True),
    )
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=root) as partial:
        for files in bar:
            for name, array in files.items():
                path = Path(partial) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_png(path, array)
        for folder in Path(partial).iterdir():
            folder.rename(root / folder.name)
    return root


def _files(part: str, seed: int, counts: dict[str, int], size: int) -> Iterator[dict[str, U8]]:
    """The files of each picture: name relative to the root, and content."""
    for role, folder in (("train", "train/good"), ("good", "test/good")):
        for index in range(counts[role]):
            yield {f"{folder}/{index:03d}.png": make_good(part, seed, role, index, size)}
    kinds = len(PARTS[part].shaped + PARTS[part].painted)
    for index in range(counts["bad"]):
        bad, mask, kind = make_bad(part, seed, index, size)
        name = f"{kind}/{index // kinds:03d}"
        yield {f"test/{name}.png": bad, f"ground_truth/{name}_mask.png": mask * np.uint8(255)}


def _check(root: Path, part: str, seed: int, counts: dict[str, int], size: int) -> None:
    if part not in PARTS:
        raise ValueError(f'part "{part}" does not exist; choose from {", ".join(PARTS)}')
    if size < MIN_SIDE:
        raise ValueError(f"size {size} is too small to show a part; {MIN_SIDE} pixels at least")
    for name, number in (*counts.items(), ("seed", seed)):
        if number < (name == "train"):
            raise ValueError(f"{name} {number} is too small; give {int(name == 'train')} or more")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        what = "is not empty" if root.is_dir() else "is a file"
        raise ValueError(f"{show(root)} {what}; name a new folder, or remove this one first")


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m data.synthetic`: 0 when done, 2 when the call is wrong, 1 if the disk fails."""
    parser = argparse.ArgumentParser(
        "python -m data.synthetic",
        description="Write pictures of generated factory parts, good and bad, with masks, in the "
        "MVTec AD layout. The same seed gives the same pictures.",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write; must be new or empty")
    parser.add_argument("--part", default="flange", help=" or ".join(PARTS))
    parser.add_argument("--seed", type=int, default=0, help="0 or more")
    parser.add_argument("--train", type=int, default=60, help="good pictures to train on")
    parser.add_argument("--good", type=int, default=20, help="good pictures to test on")
    parser.add_argument("--bad", type=int, default=30, help="pictures with a defect")
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    options = vars(parser.parse_args(arguments))
    try:
        print(write_mvtec(options.pop("out"), **options))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
