"""Trained weights that come with the package, by name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

FOLDER = Path(__file__).parents[1] / "weights"
DEFAULTS = {"restore": "hat_light_x2", "mesh": "multihmr_s_anny"}
"""What a command takes where no weights are named."""
ENLARGE = {2: "hat_light_x2", 4: "hat_light_x4"}
"""What `restore` takes where no weights are named, but by how much to enlarge."""

Job = Literal["restore", "inspect", "mesh"]
JOBS: dict[str, Job] = {"restoration": "restore", "anomaly": "inspect", "mesh": "mesh"}


@dataclass(frozen=True)
class Shipped:
    """A file of weights that comes with the package.

    Attributes:
        name: what `--weights` and `vision.load` take.
        job: the command it is for.
        about: what it does, in a line.
        path: the file.
        card: the page beside it: data, licence, recipe, command, figures, limits.
    """

    name: str
    job: Job
    about: str
    path: Path
    card: Path


def models() -> dict[str, Shipped]:
    """All of them, by name.

    Raises:
        ValueError: one is damaged.
    """
    return {path.stem: _shipped(path) for path in sorted(FOLDER.glob("*.safetensors"))}


def locate(weights: str | Path) -> Path:
    """The file that is meant by a path or a name.

    Raises:
        ValueError: neither a file nor a name of ours.
    """
    path = Path(weights)
    if path.is_file() or path.suffix or len(path.parts) != 1:
        return path  # a file, or meant as one
    own = FOLDER / f"{path}.safetensors"
    if not own.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise ValueError(
            f"{path}: {what}, and no weights of this name come with the package; give a file,"
            f" or one of {', '.join(models())}"
        )
    return own


def _shipped(path: Path) -> Shipped:
    try:
        with safe_open(path, "np") as file:
            job = JOBS[json.loads((file.metadata() or {})["visionmend"])["visionmend"]]
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: damaged; install the package again") from error
    card = path.with_suffix(".md")
    title = card.read_text(encoding="utf-8").partition("\n")[0]
    return Shipped(path.stem, job, title.partition(": ")[2], path, card)
