"""A detector from good parts alone, without training: what `inspect --train-on` makes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import torch
import yaml

import vision
from data.images import read_rgb, resize
from vision.anomaly.level import lie_free
from vision.layers.state import read_checkpoint
from vision.run.weights import build, check_device
from vision.tasks.anomaly import AnomalyTask
from vision.tasks.datamodule import MANY, AnomalyData

RECIPE = "anomaly/few.yaml"
SIDE = 448
"""In pixels, of pictures in which long parts are looked for: 32 tokens of the ViT."""
ONE: dict[str, Any] = {"grids": [32], "dims": 128}
ABSOLUTE = ONE | {"relative": False}
FEW: tuple[tuple[int, dict[str, Any]], ...] = (
    (16, ABSOLUTE | {"copies": 16}),
    (MANY - 1, ABSOLUTE | {"copies": 8}),
    (64, {"copies": 4}),
)
"""Up to so many good parts, what the net has otherwise than the recipe; ours: with few parts a
copy, mirrored or turned, shows what another part might look like, and how far apart they lie by
themselves, which distances of many are counted in, is not known yet (docs/anomaly.md)."""
LONG: tuple[tuple[float, dict[str, Any]], ...] = (
    (3, ABSOLUTE | {"level": True, "copies": 4}),
    (inf, ONE | {"level": True, "copies": 4, "ensemble": True}),
)
"""The same of good parts that are long and lie free: level, few tell enough. Up to 3 say too little
of how far good parts lie apart."""


def learn(folder: Path, target: Path, device: str) -> Path:
    """Remember the good parts of `folder`, calibrate on them, and write the detector to `target`.

    Nothing is done where `target` is that already, of the same pictures and recipe.

    Raises:
        ValueError: no folder, no picture that can be read, or a device that is not there.
    """
    check_device(device)
    recipe = yaml.safe_load((vision.configs() / RECIPE).read_text())
    spec, settings = recipe["model"], recipe["data"]
    data = AnomalyData(**{**settings, "root": str(folder)})
    paths = data.good_paths
    taught = _digest([spec, FEW, LONG], folder, paths)
    if target.exists() and _taught(target).get("by") == taught:
        return target
    long = _long(paths)
    chosen = (options for most, options in (LONG if long else FEW) if len(paths) <= most)
    spec["net"]["init_args"] |= next(chosen, {})
    scoring: dict[str, Any] = {"scoring": "features"}
    if long or len(paths) < MANY:
        # Smoothed, the highest place of a defect sinks among those of good parts.
        scoring["smooth_features"] = 0.0
    spec["scorer"] = {"class_path": "vision.anomaly.Scorer", "init_args": scoring}
    net: Any = build(spec["net"])
    scorer: Any = build(spec["scorer"])
    task = AnomalyTask(net, scorer=scorer)
    task.hparams.update(spec)
    data.size = net.input_size
    data.setup("fit")
    task.to(device)
    task.finish(data)
    if data.few:  # they vouch for no lower rate than the worst of them stands for
        task.scorer.allow(1 / (1 + len(task.scorer.good)))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".part")
    task.cpu().save(unfinished)
    told = {"by": taught, "parts": len(paths)}
    torch.save({**read_checkpoint(unfinished), "taught": told}, unfinished)
    os.replace(unfinished, target)
    return target


def promise(detector: Path) -> str | None:
    """What the threshold of a detector stands for that learned from few parts; None if of many."""
    count = _taught(detector).get("parts", MANY)
    if count >= MANY:
        return None
    if count == 1:
        return (
            "one good part: what is no worse than its own copies, mirrored and turned, is called"
            " good; how many false alarms that makes is not known"
        )
    return (
        f"{count} good parts: what is no worse than the worst of them is called good, and about one"
        f" good part in {count + 1} is worse; --false-alarms sets another rate"
    )


def _long(paths: Sequence[Path]) -> bool:
    """Whether good parts, the first 64 at most, are long and lie free, in square pictures:
    others are squashed into a square, where a turn is none."""
    for path in paths[:64]:
        rgb = read_rgb(path)
        if rgb.shape[0] != rgb.shape[1]:
            return False
        image = torch.from_numpy(resize(rgb, SIDE).copy()).permute(2, 0, 1)[None] / 255
        if not lie_free(image).all():
            return False
    return True


def _taught(checkpoint: Path) -> Mapping[str, Any]:
    """By what, and how many parts; nothing of a file that `learn` did not write."""
    try:
        return read_checkpoint(checkpoint).get("taught", {})
    except ValueError:
        return {}


def _digest(settings: Any, folder: Path, paths: list[Path]) -> str:
    """The same for the same pictures, settings and version."""
    digest = hashlib.sha256(f"{vision.__version__} {json.dumps(settings)}".encode())
    for path in paths:
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
