"""A large photograph in tiles: time and peak memory, and how much the tiles change the result.

    python scripts/measure_photo.py MODEL… --photographs FOLDER [--out runs/photo]

Photographs of FOLDER, each beside its mirror image, fill 3000×4000 pixels, which
`infer.py restore` restores with each checkpoint; peak memory is that process's, and the upper left
quarter is measured beside it. Then 640×960 pixels are restored whole and in tiles of 256, each tile
pooling for itself and all sharing what they pool; how they differ is printed, in levels of 8 bits,
and written to OUT, twenty times as strong. DWFormer sees everything through a simulated display.
"""

from __future__ import annotations

import argparse
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from bench import console, peak_of
from rich.table import Table

import vision
from data.degrade import U8, UnderDisplay
from data.images import read_rgb, write_png
from vision.layers.pooling import GlobalPool
from vision.run.tiles import places

LARGE, SMALL, TILE = (3000, 4000), (640, 960), 256
STRONGER = 20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--photographs", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/photo"))
    arguments = parser.parse_args()
    # A recipe's name is the folder above the run's: runs/<recipe>/<n>/model.ckpt.
    models = {model.absolute().parent.parent.name: model for model in arguments.models}
    if len(models) < len(arguments.models):
        raise SystemExit("two models of one recipe; give one each (runs/<recipe>/<n>/model.ckpt)")
    large = filled(sorted(arguments.photographs.glob("*.jpg")), *LARGE)
    arguments.out.mkdir(parents=True, exist_ok=True)
    cost = Table("net", "picture", "minutes", "peak memory, MB")
    apart = Table("net", "pooling", "mean", "largest", "mean at seams")
    clean = large
    for name, model in models.items():
        large = through_display(clean) if name.startswith("dwformer") else clean
        write_png(arguments.out / "large.png", large)
        write_png(arguments.out / "quarter.png", large[: LARGE[0] // 2, : LARGE[1] // 2])
        small = large[: SMALL[0], : SMALL[1]]
        for picture in ("quarter", "large"):
            given, out = arguments.out / f"{picture}.png", arguments.out / name
            call = ["restore", given, "-o", out, "--weights", model, "--quiet"]
            seconds, peak = peak_of(call)
            cost.add_row(name, picture, f"{seconds / 60:.1f}", f"{peak / 1024:.0f}")
        whole: Any = vision.load(model, tile=0)
        wanted = whole(small).pixels.astype(float)
        pools = any(isinstance(m, GlobalPool) for m in whole.net.modules())
        for share in (False, True) if pools else (False,):
            tiled: Any = vision.load(model, tile=TILE, share_pooling=share)
            differs = np.abs(tiled(small).pixels - wanted)
            seams = at_seams(differs, whole.spec.scale)
            how = "shared" if share else "per tile"
            numbers = (differs.mean(), differs.max(), seams)
            apart.add_row(name, how, *(f"{n:.3f}" for n in numbers))
            shown = (STRONGER * differs).clip(0, 255).astype(np.uint8)
            write_png(arguments.out / f"{name}-{how.replace(' ', '-')}.png", shown)
    console.print(cost)
    console.print(apart)


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
