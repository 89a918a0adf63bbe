"""Every recipe in configs/: it parses, it builds, and what it describes trains, loads and predicts.

A new recipe is tested the day it is added; nothing here names one.
"""

import inspect as signatures
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import pytest
import yaml
from trained import VIT, fit

import vision
from vision.tasks import AnomalyData, AnomalyTask

RECIPES = sorted(vision.configs().rglob("*.yaml"))
SMALL = {"size": 64, "mask_grid": 4, "unet": "tiny", "capacity": 256}
every_recipe = pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def set_backbones(spec: Any, **arguments: Any) -> None:
    """Change the arguments of all backbones in a recipe."""
    if not isinstance(spec, dict):
        return
    if str(spec.get("class_path")).endswith(".Backbone"):
        spec["init_args"] = {**spec.get("init_args", {}), **arguments}
    for value in spec.values():
        set_backbones(value, **arguments)


def shrink(recipe: dict[str, Any], root: Path) -> dict[str, Any]:
    """The recipe for a single step on tiny pictures; whatever does not change the size stays."""
    net = recipe["model"]["net"]
    set_backbones(net, **VIT)
    module, _, name = net["class_path"].rpartition(".")
    known = signatures.signature(getattr(import_module(module), name)).parameters
    own = net.setdefault("init_args", {})
    for name in ("grids", "feature_grids"):  # as many of them as the recipe has
        if name in known:
            grids = own.get(name, known[name].default)
            own[name] = [4 + 2 * i for i in range(len(grids))]
    own |= {key: value for key, value in SMALL.items() if key in known}
    recipe["data"] |= {"root": str(root), "batch_size": 2, "workers": 0, "held_out": 0.4}
    recipe["trainer"] |= {"max_steps": 1, "accelerator": "cpu"}
    return recipe


def test_there_are_recipes() -> None:
    assert {"ear_mvtec", "ear_cpu", "ear_demo"} <= {path.stem for path in RECIPES}


@every_recipe
def test_it_builds_as_it_stands(path: Path) -> None:
    recipe = read(path)
    set_backbones(recipe["model"], weights="none")  # the architecture is what it says
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AnomalyTask, "model")
    parser.add_class_arguments(AnomalyData, "data")
    sections = {key: recipe[key] for key in ("model", "data")}
    built = parser.instantiate_classes(parser.parse_object(sections))
    assert built.model.net.input_size % 2 == 0
    assert built.data.root == recipe["data"]["root"]
    assert path.read_text().startswith("# ")  # it says what it is for


@pytest.mark.slow
@every_recipe
def test_it_trains_loads_and_predicts(path: Path, parts: Path, tmp_path: Path) -> None:
    recipe = tmp_path / path.name
    recipe.write_text(yaml.safe_dump(shrink(read(path), parts)))
    assert fit(recipe, run=tmp_path / "runs") == 0
    run = tmp_path / "runs" / path.stem / "001"
    predictor = vision.load(run / "model.ckpt")
    found = predictor(np.full((50, 70, 3), 128, np.uint8))
    assert 0 < found.score < 1
    assert found.verdict in ("good", "defect")
    assert found.map.shape == (50, 70)
    assert np.isfinite(found.map).all()
    if predictor.net.learns:
        assert (run / "last.ckpt").is_file()
