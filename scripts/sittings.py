"""Trainings that go on where they were broken off, for scripts that measure what comes of them."""

from __future__ import annotations

import csv
import itertools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from compare import tested

from vision.cli import train
from vision.layers.state import read_checkpoint


def measured(config: Path, root: Path, run: Path, options: Sequence[str] = ()) -> dict[str, float]:
    """Train, or go on with it, and test, unless that is done; and read the figures."""
    last = trained(config, root, run, options)
    common = ["--config", str(config), "--data.root", str(root)]
    found = tested([*common, "--trainer.default_root_dir", str(last)], last)
    steps = read_checkpoint(last / "model.ckpt")["global_step"]
    return {**found, "minutes": minutes(run), "steps": steps}


def trained(config: Path, root: Path, run: Path, options: Sequence[str] = ()) -> Path:
    """The last sitting of a training that is done, or that is gone on with now.

    Folders 1, 2 … of `run` are its sittings, each from the last checkpoint of the one before.
    """
    done = sittings(run)
    if finished(run) is None:
        folder = run / str(len(done) + 1)
        shutil.rmtree(folder, ignore_errors=True)  # it did not come to its first checkpoint
        resume = options
        if done:  # a checkpoint brings its own net and settings, no data, nothing of the trainer
            same = ["--trainer.precision", precision_of(done[-1])]
            resume = [*others(options), *same, "--ckpt_path", str(done[-1] / "last.ckpt")]
        common = ["--config", str(config), "--data.root", str(root)]
        if train(["fit", *common, "--trainer.default_root_dir", str(folder), *resume]):
            raise SystemExit(f"{folder}: training was broken off; call again to go on")
    return sittings(run)[-1]


def finished(run: Path) -> Path | None:
    """The last sitting of a training, if it came to its end."""
    done = sittings(run)
    return done[-1] if done and (done[-1] / "model.ckpt").exists() else None


def others(options: Sequence[str]) -> list[str]:
    """Of options `--name value …` those that are not the model's."""
    pairs = zip(options[::2], options[1::2], strict=True)
    return [word for pair in pairs if not pair[0].startswith("--model.") for word in pair]


def precision_of(sitting: Path) -> str:
    """That it was trained in."""
    return str(yaml.safe_load((sitting / "config.yaml").read_text())["trainer"]["precision"])


def minutes(run: Path) -> float:
    """That its sittings took: each to its end, or to its last checkpoint."""
    took = 0.0
    for folder in sittings(run):
        took += max(end.stat().st_mtime for end in _ends(folder))
        took -= (folder / "config.yaml").stat().st_mtime
    return took / 60


def sittings(run: Path) -> list[Path]:
    """The folders of a training that came to a checkpoint."""
    folders = (run / str(number) for number in itertools.count(1))
    return [*itertools.takewhile(lambda folder: bool(_ends(folder)), folders)]


def _ends(sitting: Path) -> list[Path]:
    """Its last checkpoint and its net; a sitting that the clock ends may have the latter alone."""
    return [*sitting.glob("last.ckpt"), *sitting.glob("model.ckpt")]


def curve(run: Path, column: str) -> tuple[list[float], list[float]]:
    """Steps and values of a column of the logs of all sittings."""
    points: dict[float, float] = {}
    for folder in sittings(run):
        with (folder / "metrics.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row.get(column)]
        points |= {float(row["step"]) + 1: float(row[column]) for row in rows}
    return [*points], [*points.values()]


def draw_curves(runs: Mapping[str, tuple[Path, str]], words: str, target: Path) -> None:
    """Side by side: of each title, a column of the logs of a run; `words` name what it is."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(runs), figsize=(4 * len(runs), 3), squeeze=False)
    for axis, (title, (run, column)) in zip(axes[0], runs.items(), strict=True):
        axis.plot(*curve(run, column), marker="o", markersize=3)
        axis.set(title=title, xlabel="step", ylabel=words)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(target, dpi=110)
    print(target)
