"""How much of the defects does a mask rule cover, and how much of the picture does it excise?

    python scripts/measure_masks.py FOLDER [FOLDER …] [--pictures 60]

Each FOLDER is in MVTec layout. Prints a row per rule: the mean share of defect pixels covered, and
the mean share of the picture excised, for every folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import track

from data import open_dataset
from vision.anomaly import AttentionMask
from vision.backbones import Backbone

RULES = [
    *(("quantile", share) for share in (0.1, 0.2, 0.4, 0.6)),
    *(("mass", share) for share in (0.5, 0.6, 0.7, 0.8, 0.9)),
]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--grids", nargs="+", type=int, default=[16, 32])
    arguments = parser.parse_args()
    backbone = Backbone()
    for folder in arguments.folders:
        dataset = open_dataset(folder, "test", 32 * backbone.patch)
        bad = [i for i, record in enumerate(dataset.records) if record.label]
        chosen = np.random.default_rng(0).permutation(bad)[: arguments.pictures]
        found: dict[tuple[int, str, float, str], list[tuple[float, float]]] = {}
        for index in track(chosen, folder.name):
            sample = dataset[int(index)]
            defect = sample["mask"][None, None].float()  # type: ignore[index]
            for grid in arguments.grids:
                prepared = backbone.prepare(sample["image"][None], grid)
                attention, _ = backbone.attend(prepared)
                for rule, keep in RULES:
                    for heads in ("mean", "max"):
                        mask = AttentionMask(heads, rule, keep)(attention)  # type: ignore[arg-type]
                        wide = F.interpolate(mask, defect.shape[-2:], mode="nearest")
                        cover = float((wide * defect).sum() / defect.sum())
                        key = (grid, rule, keep, heads)
                        found.setdefault(key, []).append((cover, float(mask.mean())))
        for (grid, rule, keep, heads), values in found.items():
            cover, area = np.mean(values, axis=0)
            print(
                f"{folder.name:14} grid {grid} {rule:8} {keep:.1f} {heads:4}"
                f" covers {cover:.3f} excises {area:.3f}"
            )


if __name__ == "__main__":
    main()
