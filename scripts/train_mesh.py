"""Trains the light mesh recipes on generated people, measures and draws what comes of it.

    python scripts/train_mesh.py [--rows multihmr_light …] [--runs runs/mesh]

Generates the pictures and clips first, with the seed 0. Each net is trained as its recipe says and
again without the part that has to prove its worth: CoordFormer without the transformer over time,
OSX without the decoder guided by keypoints. Prints a row for each, draws the curves into
docs/training_mesh.png and people of the test set into docs/recovered.png. A finished training is
not repeated, and one that was broken off goes on from its last checkpoint.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from sittings import draw_curves, measured, sittings

import vision
from data.images import read_rgb, write_png
from vision.body import people
from vision.report.mesh import overlay, seen_from

OFTEN = ["--val", "100", "--test", "150", "--most", "3", "--farthest", "3.5"]
EMPTY, EMPTY_HELD_OUT = Path("runs/nobody"), Path("runs/nobody_held_out")
"""Photographs for people to stand before; `train_weights.py` puts them there."""
NATURAL = [
    *("--val", "0", "--size", "448", "--most", "4", "--nearest", "1.2", "--farthest", "5"),
    "--natural",
]
SETS = {
    "people": ["--train", "6000", *OFTEN, "--size", "224"],
    "more_people": ["--train", "9000", *OFTEN, "--size", "224"],
    # The first of these people, but for the few who have to be drawn anew at this size; and others.
    "large": ["--train", "4478", *OFTEN, "--size", "448"],
    "large_others": ["--train", "1600", *OFTEN, "--size", "448", "--seed", "1"],
    "more_others": ["--train", "3200", *OFTEN, "--size", "448", "--seed", "1"],
    "clips": ["--train", "600", "--val", "40", "--test", "60", "--size", "224", "--most", "3",
              "--farthest", "3.5", "--frames", "8"],
    "near": ["--train", "3000", "--val", "100", "--test", "200", "--size", "448", "--most", "1",
             "--nearest", "1", "--farthest", "1.8", "--hands", "40"],
    # The second's first people are those of the first.
    "natural": ["--train", "3000", *NATURAL, "--seed", "2", "--backgrounds", str(EMPTY)],
    "more_natural": ["--train", "5000", *NATURAL, "--seed", "2", "--backgrounds", str(EMPTY)],
    "natural_test": ["--train", "0", "--test", "100", *NATURAL, "--seed", "3",
                     "--backgrounds", str(EMPTY_HELD_OUT)],
}  # fmt: skip
ROWS = {
    "multihmr_light": ("multihmr_light", "people", []),
    "coordformer_light": ("coordformer_light", "clips", []),
    "coordformer_light, frames apart": (
        "coordformer_light", "clips", ["--model.net.init_args.temporal", "false"],
    ),
    "osx_light": ("osx_light", "near", []),
    "osx_light, no decoder": (
        "osx_light", "near", ["--model.net.init_args.decoder", "false"],
    ),
}  # fmt: skip
COLUMNS = (
    *("f1", "mpjpe", "pa_mpjpe", "pve", "hands", "pa_hands", "face", "pa_face", "place"),
    *("acceleration", "acceleration_in_space"),
)
MEANS = ("mpjpe_of_mean", "mpjpe_of_turned")
SHOWN = (0, 3, 5)
"""Pictures of the test set."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--runs", type=Path, default=Path("runs/mesh"))
    parser.add_argument(
        "--half",
        action="store_true",
        help="train OSX in bfloat16: half the time on CPUs that multiply in it, on others many"
        " times as much",
    )
    arguments = parser.parse_args()
    table = Table("recipe", "minutes", "steps", *COLUMNS, *MEANS)
    runs = {name: arguments.runs / name.replace(", ", "_").replace(" ", "_") for name in ROWS}
    for name in arguments.rows:
        recipe, kind, options = ROWS[name]
        if arguments.half and recipe == "osx_light":
            options = [*options, "--trainer.precision", "bf16-mixed"]
        root = generated(kind, arguments.runs)
        config = vision.configs() / "mesh" / f"{recipe}.yaml"
        found = measured(config, root, runs[name], options)
        errors = (found.get(c, float("nan")) for c in (*COLUMNS[1:], *MEANS))
        numbers = [found["minutes"], found["steps"], found["f1"], *errors]
        table.add_row(name, *(f"{n:.3f}" if n <= 1 else f"{n:.1f}" for n in numbers))
    Console(width=160).print(table)
    done = {name: run for name, run in runs.items() if [*run.glob("*/metrics.json")]}
    curves = {name: (run, "val/mpjpe") for name, run in done.items()}
    draw_curves(curves, "MPJPE of held-out people, mm", Path("docs/training_mesh.png"))
    if "multihmr_light" in done:
        test = sorted((arguments.runs / "people/test").glob("*.jpg"))
        draw(runs["multihmr_light"], [test[i] for i in SHOWN], Path("docs/recovered.png"))


def generated(kind: str, runs: Path, learn: bool = True) -> Path:
    """The folder of a set of people, whole, or only those to test on."""
    root = runs / kind
    own = hasattr(os, "sched_getaffinity")  # a container may have fewer cores than its machine
    cores = len(os.sched_getaffinity(0)) if own else os.cpu_count() or 1
    few = [] if learn else ["--train", "0", "--val", "0"]
    if people.main([str(root), *SETS[kind], *few, "--workers", str(cores)]):
        raise SystemExit(f"{root}: the pictures are not whole; call again to go on")
    return root


def draw(run: Path, paths: list[Path], target: Path) -> None:
    """A column for each picture: itself, the people found over it, and from the side."""
    recover: Any = vision.load(sittings(run)[-1] / "model.ckpt")
    faces, columns = recover.body.faces.cpu().numpy(), []
    for path in paths:
        image = read_rgb(path)
        found = recover(image)
        vertices = [*found.vertices]
        drawn = overlay(image, vertices, faces, found.camera)
        side = seen_from("side", vertices, faces, *image.shape[:2])
        columns.append(np.concatenate([image, drawn, side]))
    write_png(target, np.concatenate(columns, 1))
    print(target)


if __name__ == "__main__":
    main()
