"""Trains the light recipes on photographs, measures and draws what comes of it.

    python scripts/train_light.py BSDS500 SET5/HR [--rows hat_light …] [--runs runs/light]

Trains on BSDS500/train and BSDS500/test but for every fortieth picture, by which the curve is
drawn, and measures hat_light on Set5, the others on BSDS500/val. Prints a row for each, draws the
curves into docs/training.png and what the nets make of free photographs into docs/restored.png.
A finished training is not repeated, and one that was broken off goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from sittings import draw_curves, measured, sittings
from skimage import data as free

import vision
from data.degrade import U8, GaussianNoise, UnderDisplay, bicubic
from data.images import write_png

ROWS = ("hat_light", "dwformer_light", "rat_light")
HELD_OUT = 40
"""One picture of so many draws the curve."""


def main() -> None:
    arguments = asked(ROWS, Path("runs/light"))
    table = Table("recipe", "minutes", "steps", "PSNR", "SSIM", "PSNR of input", "SSIM", "gain")
    for name in arguments.rows:
        photographs = laid_out(name, arguments)
        config = vision.configs() / "restoration" / f"{name}.yaml"
        found = measured(config, photographs, arguments.runs / name)
        before, after = found["psnr_of_input"], found["psnr"]
        numbers = (found["minutes"], found["steps"])
        quality = (after, found["ssim"], before, found["ssim_of_input"], after - before)
        table.add_row(name, *(f"{n:.0f}" for n in numbers), *(f"{q:.4f}" for q in quality))
    Console(width=110).print(table)
    done = [name for name in ROWS if [*(arguments.runs / name).glob("*/metrics.json")]]
    curves = {name: (arguments.runs / name, "val/psnr") for name in done}
    draw_curves(curves, "PSNR of held-out pictures, dB", Path("docs/training.png"))
    draw_pictures({name: arguments.runs / name for name in done}, Path("docs/restored.png"))


def asked(
    rows: Iterable[str], runs: Path, given: str | None = None, half: bool = False
) -> argparse.Namespace:
    """What the call says: where the photographs are, which rows, and where their runs are.

    With `given` "?" the photographs may be left out; with `half` --half is known.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("bsds500", type=Path, nargs=given)
    parser.add_argument("set5", type=Path, nargs=given)
    parser.add_argument("--rows", nargs="+", choices=[*rows], default=[*rows])
    parser.add_argument("--runs", type=Path, default=runs)
    if half:
        parser.add_argument(
            "--half", action="store_true", help="train in bfloat16: slow on most CPUs"
        )
    return parser.parse_args()


def laid_out(name: str, arguments: argparse.Namespace) -> Path:
    """A folder of links: train/ and val/ to learn from, test/ to measure on."""
    root = arguments.runs / "photographs" / name
    given = arguments.bsds500
    learn = sorted([*(given / "train").glob("*.jpg"), *(given / "test").glob("*.jpg")])
    test = arguments.set5.glob("*.png") if name == "hat_light" else None
    parts = {
        "train": [p for i, p in enumerate(learn) if i % HELD_OUT],
        "val": learn[::HELD_OUT],
        "test": sorted(test or (given / "val").glob("*.jpg")),
    }
    for part, paths in parts.items():
        if not paths:
            raise SystemExit(f"no pictures for {part} in {arguments.bsds500}, {arguments.set5}")
        link(paths, root / part)
    return root


def link(paths: Iterable[Path], folder: Path) -> None:
    """Links in `folder` to these pictures, which may have been elsewhere before."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        there = folder / path.name
        there.unlink(missing_ok=True)
        there.symlink_to(path.resolve())


def draw_pictures(runs: dict[str, Path], target: Path) -> None:
    """A row for each net: what it gets, what it makes of it, the truth.

    The photographs come with scikit-image: astronaut (NASA, public domain), coffee and chelsea
    (CC0).
    """
    draw = np.random.default_rng(0)
    strips = []
    for name, run in runs.items():
        restore: Any = vision.load(sittings(run)[-1] / "model.ckpt")
        if name == "hat_light":
            truth = free.astronaut()[40:200, 130:350]
            given = bicubic(truth, 0.5)
            shown = bicubic(given, 2)
        elif name == "dwformer_light":
            truth = free.coffee()[60:300, 90:420]
            shown = given = eight(UnderDisplay("poled")(truth, draw))
        else:
            truth = cv2.cvtColor(free.chelsea(), cv2.COLOR_RGB2GRAY)[40:200, 100:320, None]
            shown = given = eight(GaussianNoise(25)(truth, draw))
        cells = [shown, restore(given).pixels, truth]
        strips.append(np.hstack([cell(c) for c in cells]))
    write_png(target, np.vstack(strips))
    print(target)


def eight(image: np.ndarray) -> U8:
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def cell(image: U8, width: int = 330, height: int = 240) -> U8:
    """Of one size, in colour, with a white edge."""
    if image.shape[2] == 1:
        image = np.repeat(image, 3, 2)
    large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.pad(large, ((4, 4), (4, 4), (0, 0)), constant_values=255)


if __name__ == "__main__":
    main()
