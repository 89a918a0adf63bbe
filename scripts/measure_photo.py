"""A large photograph in tiles: time and peak memory, and how much the tiles change the result.

    python scripts/measure_photo.py MODEL… --photographs FOLDER [--out runs/photo] [--small]

Photographs of FOLDER, each beside its mirror image, fill 3000×4000 pixels, which
`infer.py restore` restores with each checkpoint; peak memory is that process's, and the upper left
quarter is measured beside it. Then 640×960 pixels are restored whole and in tiles of 256, each tile
pooling for itself and all sharing what they pool; how they differ is printed, in levels of 8 bits,
and drawn into OUT/tiles.png, twenty times as strong: a row for each net with what it made in tiles
and the differences of both ways. DWFormer sees everything through a simulated display. `--small`
leaves out the large picture; docs/tiles.png is of scikit-image's photographs, which are free.
"""

from __future__ import annotations

import argparse
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from bench import console, peak_of
from rich.table import Table
from skimage.measure import block_reduce

import vision
from data.degrade import U8, UnderDisplay
from data.images import read_rgb, write_png
from vision.layers.pooling import GlobalPool
from vision.run.tiles import places

LARGE, SMALL, TILE = (3000, 4000), (640, 960), 256
PICTURES = {"quarter": (1500, 2000), "large": LARGE}
STRONGER = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/photo"))
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    # A recipe's name is the folder above the run's: runs/<recipe>/<n>/model.ckpt.
    models = {model.absolute().parent.parent.name: model for model in arguments.models}
    if len(models) < len(arguments.models):
        raise SystemExit("two models of one recipe; give one each (runs/<recipe>/<n>/model.ckpt)")
    clean = filled(sorted(arguments.photographs.glob("*.jpg")), *LARGE)
    arguments.out.mkdir(parents=True, exist_ok=True)
    cost = Table("net", "picture", "minutes", "peak memory, MB")
    apart = Table("net", "pooling", "mean", "largest", "mean at seams")
    shown = []
    for name, model in models.items():
        large = through_display(clean) if name.startswith("dwformer") else clean
        for picture, (height, width) in {} if arguments.small else PICTURES.items():
            given, out = arguments.out / f"{picture}.png", arguments.out / name
            write_png(given, large[:height, :width])
            call = ["restore", given, "-o", out, "--weights", model, "--quiet"]
            seconds, peak = peak_of(call)
            cost.add_row(name, picture, f"{seconds / 60:.1f}", f"{peak / 1024:.0f}")
        shown.append(tiled_and_whole(name, model, large[: SMALL[0], : SMALL[1]], apart))
    if cost.row_count:
        console.print(cost)
    console.print(apart)
    write_png(arguments.out / "tiles.png", np.concatenate(shown))


def tiled_and_whole(name: str, model: Path, small: U8, apart: Table) -> U8:
    """Rows of the table; the tiled result, and differences of tiles that pool apart and together.

    Drawn at half the size of the input, each pixel the largest difference that it stands for.
    """
    whole: Any = vision.load(model, tile=0)
    wanted = whole(small).pixels.astype(float)
    step = 2 * whole.spec.scale
    pools = any(isinstance(m, GlobalPool) for m in whole.net.modules())
    drawn: list[U8] = []
    for share in (False, True) if pools else (False,):
        tiled: Any = vision.load(model, tile=TILE, share_pooling=share)
        made = tiled(small).pixels
        differs = np.abs(made - wanted)
        numbers = (differs.mean(), differs.max(), at_seams(differs, whole.spec.scale))
        apart.add_row(name, "shared" if share else "per tile", *(f"{n:.3f}" for n in numbers))
        strong = (STRONGER * block_reduce(differs, (step, step, 1), np.max)).clip(0, 255)
        drawn += [strong.astype(np.uint8)]
    drawn += drawn[: 2 - len(drawn)]  # a net that pools nothing has one way alone
    return np.concatenate([np.ascontiguousarray(made[::step, ::step]), *drawn], 1)


def filled(paths: list[Path], height: int, width: int) -> U8:
    """A picture of this size from those that are not upright, mirrored until a row is full."""
    photos = [photo for photo in map(read_rgb, paths) if photo.shape[0] <= photo.shape[1]]
    if not photos:
        raise SystemExit("no photograph in that folder, or upright ones alone")
    rows, tall = [], 0
    for photo in cycle(photos):
        if tall >= height:
            break
        double = np.concatenate([photo, photo[:, ::-1]], 1)
        times = -(-width // double.shape[1])
        rows.append(np.tile(double, (1, times, 1))[:, :width])
        tall += len(photo)
    return np.concatenate(rows)[:height]


def through_display(image: U8) -> U8:
    """As a camera behind a P-OLED display sees it, which is what DWFormer learned to mend."""
    seen = UnderDisplay("poled")(image, np.random.default_rng(0))
    return (seen.clip(0, 1) * 255).round().astype(np.uint8)


def at_seams(differs: np.ndarray, scale: int) -> float:
    """Mean difference within the pixels where one tile fades into the next."""
    masks = []
    for side in differs.shape[:2]:
        fading = np.zeros(side, bool)
        for start, weight in places(side // scale, TILE):
            inside = ((weight > 0) & (weight < 1)).numpy().repeat(scale)
            fading[start * scale : start * scale + len(inside)] |= inside
        masks.append(fading)
    return float(differs[masks[0][:, None] | masks[1]].mean())


if __name__ == "__main__":
    main()
