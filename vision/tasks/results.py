"""The table that `train.py test` prints and saves."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

MODEL_FILE = "model.ckpt"
"""What `train.py fit` leaves in the run's folder."""


def save_results(results: dict[str, float], folder: Path, **words: str) -> None:
    """Print a table, and write it to `metrics.json` and `results.csv` in the run's folder.

    `metrics.csv` is the log of the training, in the same folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    everything: dict[str, float | str] = {**words, **results}
    (folder / "metrics.json").write_text(json.dumps(everything, indent=2) + "\n")
    with (folder / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(everything)
        writer.writerow(everything.values())
    table = Table("metric", "value")
    for name, value in everything.items():
        table.add_row(name, value if isinstance(value, str) else f"{value:.4f}")
    console = Console()
    console.print(table)
    console.print(f"saved in {folder / 'metrics.json'}")
