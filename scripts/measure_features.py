"""Which distance of features tells good parts from defective ones; docs/anomaly.md has the table.

    python scripts/measure_features.py FOLDER [--anywhere] [--capacity 49152] [--cache FOLDER]

Good pictures alone are used: the memory sees those to learn from, and the held-out ones stand
against the same with painted defects at full, half and a quarter of their strength, since at full
strength nearly all are found. The test set has no part in it. Defects are painted where the picture
is bright or dark (Otsu), whichever touches the border less, or `--anywhere`; not where attention
lies, which would favour the gate.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from data.defects import paint
from vision.anomaly import AttentionMask, FeatureNeighbours, Scorer
from vision.backbones import Backbone
from vision.metrics import image_auroc
from vision.tasks.datamodule import AnomalyData

STRENGTHS = (1.0, 0.5, 0.25)
BEST: dict[str, Any] = {
    "grids": (32, 48),
    "blocks": (6, 8),
    "gate": AttentionMask(),
    "whiten": 0.5,
    "relative": True,
    "dims": 64,
}
# Twice the vectors at half the length take the same time and space.
VARIANTS: dict[str, dict[str, Any]] = {
    "EAR's features": BEST,
    "pooled over 3×3 tokens": BEST | {"pool": 3},
    "128 components, half as many vectors": BEST | {"dims": 128, "capacity": 0.5},
    "block 6 alone": BEST | {"blocks": (6,)},
    "block 8 alone": BEST | {"blocks": (8,)},
    "fully whitened": BEST | {"whiten": 1.0},
    "not relative to the spacing": BEST | {"relative": False},
    "gate widened by a token": BEST | {"gate": AttentionMask(grow=1)},
    "no gate": BEST | {"gate": AttentionMask(keep=1.0, min_tokens=0)},
}


class Cached(Backbone):
    """A backbone that looks at each picture once, for all variants."""

    def __init__(self, folder: Path, blocks: Sequence[int]) -> None:
        super().__init__()
        self.plain = Backbone()  # whose own methods call each other
        self.folder, self.kept = folder, tuple(blocks)
        folder.mkdir(parents=True, exist_ok=True)

    def attend(
        self, images: Tensor, block: int = -1, blocks: Sequence[int] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        path = self.folder / f"{hashlib.sha256(images.numpy().tobytes()).hexdigest()}.pt"
        if not path.exists():
            attention, features = self.plain.attend(images, block, self.kept)
            torch.save([attention.half(), *(f.half() for f in features)], path)
        attention, *features = (x.float() for x in torch.load(path, weights_only=True))
        return attention, [features[self.kept.index(b)] for b in blocks]

    def pyramid(self, images: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        return self.attend(images, blocks=blocks)[1]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--anywhere", action="store_true")
    parser.add_argument("--capacity", type=int, default=49_152)
    parser.add_argument("--cache", type=Path, help="where features stay for the next run")
    arguments = parser.parse_args()
    data = AnomalyData(arguments.folder, size=672)
    data.setup("fit")
    good = [data.held_out_set[i]["image"] for i in range(len(data.held_out_set))]
    bad = {s: [*painted(good[::2], s, arguments.anywhere)] for s in STRENGTHS}
    titles = [f"strength {strength:g}" for strength in STRENGTHS]
    table = Table("features", *titles, "mean", title=f"{arguments.folder}: image AUROC, painted")
    with tempfile.TemporaryDirectory() as folder:
        backbone = Cached(arguments.cache or Path(folder), BEST["blocks"])
        for name, options in VARIANTS.items():
            capacity = int(arguments.capacity * options.get("capacity", 1))
            net = FeatureNeighbours(backbone, **{**options, "capacity": capacity})
            seen = track(range(len(data.good_set)), f"{name}: remembering", transient=True)
            net.remember(data.good_set[i]["image"][None] for i in seen)
            fine = scores(net, good, name)
            found = [auroc(fine, scores(net, bad[strength], name)) for strength in STRENGTHS]
            row = [f"{value:.3f}" for value in (*found, np.mean(found))]
            table.add_row(name, *row)
            print(name, *row, flush=True)
    Console(width=110).print(table)


def painted(images: Sequence[Tensor], strength: float, anywhere: bool) -> Iterator[Tensor]:
    """Each 3×H×W picture with a defect."""
    for number, image in enumerate(images):
        rgb = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        draw = np.random.default_rng([number, STRENGTHS.index(strength)])
        marked, _ = paint(rgb, draw, region=None if anywhere else foreground(rgb))
        mixed = rgb + strength * (marked.astype(np.float32) - rgb)
        yield torch.from_numpy(mixed.round()).permute(2, 0, 1).float() / 255


def foreground(rgb: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The brighter or the darker pixels, whichever fewer of the border belong to."""
    grey = cv2.GaussianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), (0, 0), 4)
    bright = cv2.threshold(grey, 0, 1, cv2.THRESH_OTSU)[1].astype(bool)
    border = np.concatenate([bright[0], bright[-1], bright[:, 0], bright[:, -1]])
    return ~bright if border.mean() > 0.5 else bright


def scores(net: FeatureNeighbours, images: Sequence[Tensor], name: str) -> list[float]:
    seen = track(images, f"{name}: scoring", transient=True)
    return [float(Scorer().smoothed(net.maps(i[None]))["features"].max()) for i in seen]


def auroc(good: list[float], bad: list[float]) -> float:
    return image_auroc([*good, *bad], np.repeat([0, 1], [len(good), len(bad)]))


if __name__ == "__main__":
    main()
