"""CT slices that never existed: with the noise of a low dose, and without.

`python -m data.phantoms OUT --train 400` writes pairs of grey 16-bit PNG that `data.paired.Paired`
reads. A slice through a trunk is drawn in Hounsfield units (fat, muscle, spine, ribs, and organs
with vessels and lesions of about the contrasts of an abdomen in the portal phase), photons are
counted along parallel rays (Poisson), and what the counts are wrong by is projected back by the
ramp filter. So the noise has the streaks and the grain of CT, which white noise has not; the
picture itself does not pass through the scanner and stays exact. Ours throughout: a stand-in for
patients' scans, which may not be shipped, and no likeness of any one scanner.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from data.begun import begin
from data.images import write_png
from data.pairs import SPLITS

F32 = NDArray[np.float32]

WINDOW = (-160.0, 240.0)
"""Hounsfield units that are black and white, as abdomens are read."""
WATER = 0.02
"""Attenuation of water a millimetre, at about 70 keV."""
FIELD = 380.0
"""Millimetres across the picture."""
PHOTONS = 2.5e5
"""Counted by a detector where nothing is in the way; noise is about 40 HU at 256 pixels a side."""
LEAST_SIDE = 64


class Organ(NamedTuple):
    """Where it lies, half its size, in half axes of the trunk; Hounsfield units, their spread."""

    across: float
    down: float
    wide: float
    high: float
    value: float
    spread: float


ORGANS = (
    Organ(-0.42, -0.15, 0.42, 0.46, 110, 12),  # liver
    Organ(0.58, 0.05, 0.20, 0.28, 120, 12),  # spleen
    Organ(0.28, -0.35, 0.28, 0.22, 35, 15),  # stomach
    Organ(-0.36, 0.42, 0.15, 0.17, 165, 20),  # kidneys
    Organ(0.36, 0.42, 0.15, 0.17, 165, 20),
    Organ(0.02, -0.02, 0.24, 0.10, 95, 10),  # pancreas
    Organ(-0.08, 0.30, 0.07, 0.08, 125, 10),  # vena cava
    Organ(0.08, 0.28, 0.07, 0.07, 160, 15),  # aorta
)


def phantom(rng: Generator, size: int = 256) -> F32:
    """A slice: float32 size×size in Hounsfield units."""
    down, across = np.mgrid[:size, :size].astype(np.float32) / (size / 2) - 1 + 1 / size
    wide, high = rng.uniform(0.72, 0.9), rng.uniform(0.52, 0.68)
    across, down = across - rng.normal(0, 0.02), down - rng.normal(0, 0.02)
    across, down = _bent(across, down, rng, 0.03, over=2)
    x, y = across / wide, down / high
    slice_ = np.full((size, size), -1000, np.float32)
    fat = rng.uniform(0.06, 0.16)
    _paint(slice_, _inside(x, y, 0, 0, 1, 1), rng.normal(-100, 8))
    _paint(slice_, _inside(x, y, 0, 0, 1 - fat, 1 - fat), rng.normal(55, 6))
    _paint(slice_, _inside(x, y, 0, -0.05, 0.9 - fat, 0.84 - fat), rng.normal(-95, 8))
    for organ in ORGANS:
        if rng.random() < 0.9:
            _organ(slice_, x, y, rng, organ)
    _bowel(slice_, x, y, rng)
    _bones(slice_, x, y, 0.95 - fat, rng)
    grain = _smooth(rng, size, size / 24)  # no tissue is all alike
    return np.where(slice_ > -500, slice_ + 4 * grain, slice_).astype(np.float32)


def _organ(slice_: F32, x: F32, y: F32, rng: Generator, organ: Organ) -> None:
    """An organ about where it belongs, with vessels in it and lesions."""
    cx, cy = organ.across + rng.normal(0, 0.04), organ.down + rng.normal(0, 0.04)
    rx, ry = organ.wide * rng.uniform(0.8, 1.15), organ.high * rng.uniform(0.8, 1.15)
    bent = _bent(x, y, rng, 0.06)
    own = _inside(*bent, cx, cy, rx, ry)
    value = rng.normal(organ.value, organ.spread)
    _paint(slice_, own, value)
    if rx * ry < 0.02:
        return
    for _ in range(rng.integers(3, 12)):  # vessels, brighter; lesions, of any contrast
        far, angle = rng.uniform(0, 0.85) ** 0.5, rng.uniform(0, 2 * np.pi)
        ix, iy = cx + far * rx * np.cos(angle), cy + far * ry * np.sin(angle)
        vessel = rng.random() < 0.7
        radius = rng.uniform(0.012, 0.03) if vessel else rng.uniform(0.02, 0.09)
        other = rng.uniform(30, 60) if vessel else rng.choice([-1, 1]) * rng.uniform(10, 60)
        spot = _inside(*bent, ix, iy, radius, radius * rng.uniform(0.7, 1.8))
        _paint(slice_, np.minimum(spot, own), value + other)


def _bowel(slice_: F32, x: F32, y: F32, rng: Generator) -> None:
    """Loops with a wall, and gas or contrast in them."""
    for _ in range(rng.integers(2, 9)):
        cx, cy = rng.uniform(-0.6, 0.6), rng.uniform(-0.65, 0.15)
        radius = rng.uniform(0.05, 0.12)
        bent = _bent(x, y, rng, 0.05)
        _paint(slice_, _inside(*bent, cx, cy, radius, radius), rng.normal(60, 10))
        filled = rng.choice([-900.0, 20.0, 250.0], p=[0.25, 0.6, 0.15])
        _paint(slice_, _inside(*bent, cx, cy, 0.7 * radius, 0.7 * radius), filled)


def _bones(slice_: F32, x: F32, y: F32, rim: float, rng: Generator) -> None:
    """A vertebra with its canal, and ribs along the wall."""
    for hard, reach in ((700, 1.0), (rng.normal(250, 40), 0.8)):
        _paint(slice_, _inside(x, y, 0, 0.52, 0.15 * reach, 0.15 * reach), hard)
    _paint(slice_, _inside(x, y, 0, 0.76, 0.05, 0.12), 500)
    _paint(slice_, _inside(x, y, 0, 0.69, 0.07, 0.06), 40)
    for angle in np.linspace(0, 2 * np.pi, rng.integers(6, 15), endpoint=False):
        turned = angle + rng.normal(0, 0.1)
        if abs(np.sin(turned) - 1) < 0.1:
            continue  # the spine is there
        cx, cy = 0.96 * rim * np.cos(turned), 0.96 * rim * np.sin(turned)
        for hard, reach in ((650, 1.0), (250, 0.55)):
            _paint(slice_, _inside(x, y, cx, cy, 0.06 * reach, 0.035 * reach), hard)


def _inside(x: F32, y: F32, cx: float, cy: float, rx: float, ry: float) -> F32:
    """How much of each pixel an ellipse covers, 0 to 1."""
    radius = np.hypot((x - cx) / rx, (y - cy) / ry)
    pixel = 2 / len(x) / min(rx, ry)  # nearly: x and y count in half axes of the trunk
    return np.clip((1 - radius) / pixel + 0.5, 0, 1).astype(np.float32)


def _paint(slice_: F32, cover: F32, value: float) -> None:
    slice_ += cover * (value - slice_)


def _bent(x: F32, y: F32, rng: Generator, by: float, over: float = 6) -> tuple[F32, F32]:
    """Coordinates of a picture whose outlines are no ellipses any more.

    They move by so much, which changes over one part in `over` of the picture.
    """
    moved = (_smooth(rng, len(x), len(x) / over) for _ in range(2))
    across, down = (by * m for m in moved)
    return x + across, y + down


def _smooth(rng: Generator, size: int, sigma: float) -> F32:
    """Noise of a standard deviation of 1 that is drawn anew every third of `sigma` pixels."""
    few = max(4, round(3 * size / sigma))
    coarse = rng.standard_normal((few, few)).astype(np.float32)
    fine: Any = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return fine / max(float(fine.std()), 1e-6)


def low_dose(slice_: F32, rng: Generator, photons: float = PHOTONS) -> F32:
    """Hounsfield units → the same as of a scan with so many photons a ray, not clipped.

    Only the error of the rays is projected back: filtered back-projection is linear.
    """
    from skimage.transform import iradon, radon

    size = len(slice_)
    angles = np.linspace(0, 180, size * 3 // 4, endpoint=False)
    thick = WATER * FIELD / size
    paths = radon(np.maximum(1 + slice_ / 1000, 0) * thick, angles, circle=False)
    counted = rng.poisson(photons * np.exp(-np.maximum(paths, 0)))
    wrong = -np.log(np.maximum(counted, 1) / photons) - paths  # a ray that nothing came through: 1
    error = iradon(wrong, angles, output_size=size, circle=False, filter_name="ramp")
    return np.asarray(slice_ + 1000 * error / thick, np.float32)


def seen(slice_: F32) -> NDArray[np.uint16]:
    """Hounsfield units through the window: uint16 H×W."""
    low, high = WINDOW
    return np.rint((slice_ - low).clip(0, high - low) * (65535 / (high - low))).astype(np.uint16)


def write(root: str | Path, counts: dict[str, int], seed: int = 0, size: int = 256) -> None:
    """Write <split>/input and <split>/target. What is there stays; slice i depends on seed, size,
    split and i alone.

    Raises:
        ValueError: a number too small, or a set that was begun with other options.
    """
    if size < LEAST_SIDE:
        raise ValueError(f"size {size} is too small to show a slice; give {LEAST_SIDE} or more")
    if seed < 0:
        raise ValueError(f"seed {seed}: give 0 or more")
    if wrong := [f"{split} {count}" for split, count in counts.items() if count < 0]:
        raise ValueError(f"{', '.join(wrong)}: give 0 or more")
    begin(Path(root), {"seed": seed, "size": size})
    todo = [
        (split, i)
        for split, count in counts.items()
        for i in range(count)
        if not _named(root, split, "target", i).exists()
    ]
    for split, i in track(
        todo, "drawing slices", console=Console(stderr=True), disable=len(todo) < 2
    ):
        rng = np.random.default_rng([seed, size, SPLITS.index(split), i])
        clean = phantom(rng, size)
        for side, shown in (("input", low_dose(clean, rng)), ("target", clean)):
            target = _named(root, split, side, i)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_png(target, seen(shown))


def _named(root: str | Path, split: str, side: str, index: int) -> Path:
    return Path(root) / split / side / f"{index:04d}.png"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m data.phantoms`: 0 when done, 2 when not."""
    parser = argparse.ArgumentParser(
        "python -m data.phantoms",
        description="Draw CT slices that never existed, with the noise of a low dose and without. "
        "The same seed gives the same slices.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    for split, count in zip(SPLITS, (400, 20, 40), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="0 or more")
    parser.add_argument("--size", type=int, default=256, help="of a side, in pixels (256)")
    given = parser.parse_args(arguments)
    try:
        write(given.out, {s: getattr(given, s) for s in SPLITS}, given.seed, given.size)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
