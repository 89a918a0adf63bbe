"""How well parts are inspected from a few good pictures.

    python scripts/measure_few.py FOLDER … [--counts 1 4 16 all] [--keep runs/few]

Does what `infer.py inspect --train-on` does with so many good pictures of each data set, drawn by
the seed 0, and tests on all of its test pictures. What the ViT says of a picture is kept, half as
exact, so that it is asked once for all counts.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import tested
from rich.console import Console
from rich.table import Table
from torch import Tensor

import vision
from vision.anomaly import FeatureNeighbours
from vision.run import teach
from vision.tasks.datamodule import AnomalyData

COLUMNS = (
    *("image_auroc", "pixel_auroc", "au_pro_0.3", "alarms_at_0.01", "alarms_at_0.05"),
    *("alarms", "found"),
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--counts", nargs="+", default=["1", "4", "16", "all"])
    parser.add_argument("--keep", type=Path, default=Path("runs/few"))
    arguments = parser.parse_args()
    keep_looks(arguments.keep / "looks")
    table = Table("data set", "good pictures", *COLUMNS)
    for folder in arguments.folders:
        good = AnomalyData(str(folder)).good_paths
        order = np.random.default_rng(0).permutation(len(good))
        for told in arguments.counts:
            count = len(good) if told == "all" else int(told)
            run = arguments.keep / folder.name / told
            chosen = [good[i] for i in sorted(order[:count])]
            found = measured(folder, chosen, run)
            table.add_row(folder.name, str(count), *(f"{found[c]:.3f}" for c in COLUMNS))
    Console(width=130).print(table)


def measured(folder: Path, good: list[Path], run: Path) -> dict[str, Any]:
    """Learn from these alone, and test on all test pictures."""
    parts = run / "good"
    shutil.rmtree(run, ignore_errors=True)
    parts.mkdir(parents=True)
    for number, path in enumerate(good):  # names may be the same in several folders
        (parts / f"{number:06d}{path.suffix}").symlink_to(path.resolve())
    teach.learn(parts, run / "model.ckpt", "cuda" if torch.cuda.is_available() else "cpu")
    config = ["--config", str(vision.configs() / teach.RECIPE), "--data.root", str(folder)]
    return tested([*config, "--trainer.default_root_dir", str(run)], run)


def keep_looks(folder: Path) -> None:
    """From now on `FeatureNeighbours` looks at each picture once."""
    folder.mkdir(parents=True, exist_ok=True)
    look = FeatureNeighbours.look

    def kept(net: FeatureNeighbours, images: Tensor) -> Any:
        looks = []
        for image in images:
            name = hashlib.sha256(image.cpu().numpy().tobytes()).hexdigest()[:32]
            path = folder / f"{net.grids}_{net.blocks}_{name}.pt"
            if not path.exists():
                vectors, wanted = look(net, image[None])
                torch.save(([v.half() for v in vectors], wanted), path)
            looks.append(torch.load(path, weights_only=True))
        vectors, wanted = (
            [torch.cat(part) for part in zip(*side, strict=True)]
            for side in zip(*looks, strict=True)
        )
        return [v.float() for v in vectors], wanted

    FeatureNeighbours.look = kept  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    main()
