"""The table of docs/anomaly.md: five detectors on one data set, trained and tested alike.

    python scripts/compare.py FOLDER [--runs runs/compare] [--rows "EAR best" …]

A finished run is not repeated, but only at the same commit, after which its folder is named.

Trains `ear_cpu.yaml` (mosaic and empty hint), `riad_cpu.yaml` and `neighbours.yaml` with seed 0 on
FOLDER, tests each, and prints a row per detector. RIAD's training step has as
many U-Net passes as EAR's, a third of its own. "EAR best" adds the feature map, and takes the
scoring that measured best on held-out good parts with painted defects.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
from pathlib import Path

from rich.console import Console
from rich.table import Table

import vision
from vision.cli import train

ROWS = {
    "EAR mosaic": ("ear_cpu", ["--model.net.init_args.features", "none"]),
    "EAR binary": (
        "ear_cpu",
        ["--model.net.init_args.features", "none", "--model.net.init_args.hint", "empty"],
    ),
    "RIAD, 12 masks": ("riad_cpu", []),
    "gated neighbours": ("neighbours", []),
    "EAR best": ("ear_cpu", []),
}
COLUMNS = ("image_auroc", "pixel_auroc", "au_pro_0.3", "au_pro_0.05", "ms_per_image")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    arguments = parser.parse_args()
    titles = ("detector", *COLUMNS, "alarms at 1%", "at 5%", "scoring")
    table = Table(*titles, title=str(arguments.folder))
    for name in arguments.rows:
        recipe, extra = ROWS[name]
        run = arguments.runs / commit() / arguments.folder.name / name.replace(" ", "_")
        results = measured(recipe, extra, arguments.folder, run)
        table.add_row(
            name,
            *(f"{results[c]:.4f}" if c != "ms_per_image" else f"{results[c]:.0f}" for c in COLUMNS),
            f"{results['alarms_at_0.01']:.3f}",
            f"{results['alarms_at_0.05']:.3f}",
            results["scoring"],
        )
    Console(width=140).print(table)


def commit() -> str:
    described = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(described, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


def measured(recipe: str, extra: list[str], root: Path, run: Path) -> dict:
    """Train and test unless that is done, and read the figures."""
    common = ["--config", str(vision.configs() / "anomaly" / f"{recipe}.yaml")]
    common += ["--data.root", str(root), "--trainer.default_root_dir", str(run)]
    weights = run / "model.ckpt"
    if run.exists() and not weights.exists():
        shutil.rmtree(run)  # it was interrupted
    if not weights.exists() and train(["fit", *common, *extra]):
        raise SystemExit(f"{run}: training failed")
    return tested(common, run)


def tested(common: list[str], run: Path) -> dict:
    """Figures of a finished training, tested unless that is done."""
    figures = run / "metrics.json"
    if not figures.exists() and train(["test", *common, "--ckpt_path", str(run / "model.ckpt")]):
        raise SystemExit(f"{run}: the test failed")
    return json.loads(figures.read_text())


if __name__ == "__main__":
    main()
