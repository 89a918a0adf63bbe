"""Which distance of features tells good parts from defective ones; docs/anomaly.md has the table.

    python scripts/measure_features.py FOLDER

Good pictures alone are used: the memory sees those to learn from, and the held-out ones stand
against the same with painted defects, two of each. The test set has no part in it.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from data.defects import paint
from vision.anomaly import AttentionMask, FeatureNeighbours, Scorer
from vision.backbones import Backbone
from vision.metrics import image_auroc
from vision.tasks.datamodule import AnomalyData

BETTER: dict[str, Any] = {"gate": AttentionMask(), "whiten": 0.5, "relative": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "32×32 tokens, the fifth attended to most (the baseline)": {},
    "32×32 tokens, 80% of the attention": {"gate": AttentionMask()},
    "… half whitened": {"gate": AttentionMask(), "whiten": 0.5},
    "… relative to the spacing": {"gate": AttentionMask(), "relative": True},
    "… both": BETTER,
    "… both, blocks 6 and 8": BETTER | {"blocks": (6, 8)},
    "48×48 tokens, both, block 6": BETTER | {"grids": (48,)},
    "32×32 and 48×48 tokens, both, block 6": BETTER | {"grids": (32, 48)},
    "32×32 and 48×48 tokens, both, blocks 6 and 8": BETTER | {"grids": (32, 48), "blocks": (6, 8)},
}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    folder = parser.parse_args().folder
    data = AnomalyData(folder, size=672)
    data.setup("fit")
    backbone = Backbone()
    masked = FeatureNeighbours(backbone, grids=(16,), gate=AttentionMask())
    good = [sample["image"] for sample in data.held_out_set]
    bad = [painted(image, masked, (i, k)) for i, image in enumerate(good) for k in range(2)]
    table = Table("features", "image AUROC, painted", title=folder)
    for name, options in VARIANTS.items():
        net = FeatureNeighbours(backbone, **options)
        seen = track(data.good_set, f"{name}: remembering", transient=True)
        net.remember(sample["image"][None] for sample in seen)
        scores = [score(net, i) for i in track([*good, *bad], f"{name}: scoring", transient=True)]
        labels = np.repeat([0, 1], [len(good), len(bad)])
        table.add_row(name, f"{image_auroc(scores, labels):.4f}")
        print(f"{name}: {image_auroc(scores, labels):.4f}", flush=True)
    Console(width=100).print(table)


def painted(image: Tensor, masked: FeatureNeighbours, seed: tuple[int, int]) -> Tensor:
    """The 3×H×W picture with a defect on what the attention takes for the part."""
    region = masked.region(image[None])[0, 0].numpy() > 0.5
    rgb = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    marked, _ = paint(rgb, np.random.default_rng(seed), region=region)
    return torch.from_numpy(marked).permute(2, 0, 1).float() / 255


def score(net: FeatureNeighbours, image: Tensor) -> float:
    return float(Scorer().smoothed(net.maps(image[None]))["features"].max())


if __name__ == "__main__":
    main()
