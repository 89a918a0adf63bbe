"""Training in tests: a recipe small enough for seconds, and calls as a shell makes them."""

from pathlib import Path
from typing import Any

import yaml

from vision.cli import infer, train

VIT = {"name": "vit_tiny_patch16_224", "weights": "none"}


def class_spec(class_path: str, **init_args: Any) -> dict[str, Any]:
    return {"class_path": class_path, "init_args": init_args}


def backbone() -> dict[str, Any]:
    """A ViT-Ti/16 with random weights, the same every time."""
    return class_spec("vision.backbones.Backbone", **VIT)


def ear(**options: Any) -> dict[str, Any]:
    """A tiny EAR."""
    tiny = {"unet": "tiny", "size": 64, "mask_grid": 4, "feature_grids": [4], "capacity": 256}
    return class_spec("vision.anomaly.EAR", backbone=backbone(), **{**tiny, **options})


def write_recipe(path: Path, root: Path, net: Any = None, **more: Any) -> Path:
    """A recipe of 20 steps on the pictures in `root`; `more` is further sections of it."""
    content = {
        "model": {"net": net or ear(), "lr": 2e-3},
        "data": {"root": str(root), "batch_size": 3, "held_out": 0.4},
        "trainer": {"max_steps": 20, "accelerator": "cpu"},
    }
    path.write_text(yaml.safe_dump({**content, **more}))
    return path


def status(call: Any, *argv: object) -> int:
    """The exit status of a command."""
    try:
        return call([str(argument) for argument in argv])
    except SystemExit as stop:
        return int(str(stop.code))


def fit(recipe: Path, *flags: object, run: Path) -> int:
    return status(train, "fit", "--config", recipe, "--run", run, *flags)


def inspect(*argv: object) -> int:
    return status(infer, "inspect", "--quiet", *argv)
