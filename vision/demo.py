"""`make demo`: generate parts, train on the good ones, inspect good and bad ones, show a report."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import vision
from data.synthetic import write_mvtec
from vision.cli import infer, train

LEAST = 0.95
"""Image AUROC below which something is wrong with this installation."""
MARK = ".made-by-demo"
"""Lies in a folder that the demo made, and may therefore replace."""


def main(
    folder: Path = Path("demo"), train_on: int = 80, good: int = 16, bad: int = 24, *more: str
) -> int:
    """Run the demo in `folder`, whose contents are replaced; the exit status of what failed.

    `train_on`, `good` and `bad` count the parts made; `more` are flags for the training.
    """
    begin = time.monotonic()
    if folder.exists():
        if not (folder / MARK).is_file():
            print(f"error: {folder} holds something else; move it away, the demo writes there")
            return 2
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    parts, run, out = folder / "parts", folder / "run", folder / "report"
    print(
        f"1/4 generating parts: {train_on} good ones to learn from, {good} good and {bad} defective"
        " to inspect"
    )
    write_mvtec(parts, part="flange", seed=0, train=train_on, good=good, bad=bad)
    recipe = str(vision.configs() / "anomaly" / "ear_demo.yaml")
    common = ["--config", recipe, "--data.root", str(parts)]
    print("2/4 training EAR on the good ones")
    status = train(["fit", *common, "--trainer.default_root_dir", str(run), *more])
    if status:
        return status
    print("3/4 testing")
    weights = str(run / "model.ckpt")
    status = train(
        ["test", *common, "--ckpt_path", weights, "--trainer.default_root_dir", str(run)]
    )
    if status:
        return status
    print("4/4 inspecting, as `python infer.py inspect` does")
    status = infer(["inspect", str(parts / "test"), "-o", str(out), "--weights", weights])
    auroc = json.loads((run / "metrics.json").read_text())["image_auroc"]
    print(f"image AUROC {auroc:.4f} after {time.monotonic() - begin:.0f} s")
    print(f"report: {(out / 'report.html').resolve()}")
    if auroc < LEAST:
        print(f"error: that is less than {LEAST}; see what `python infer.py doctor` says")
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
