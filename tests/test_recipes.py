"""Every recipe in configs/: it parses, it builds, and what it describes trains, loads and predicts.

A new recipe is tested the day it is added; nothing here names one.
"""

import inspect as signatures
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import jsonargparse
import numpy as np
import pytest
import torch
import yaml
from bodies import write_gated, write_threedpw
from trained import VIT, fit, status

import vision
from vision.body import people
from vision.cli import train
from vision.tasks.training import TASKS

RECIPES = {
    kind: sorted((vision.configs() / kind).glob("*.yaml"))
    for kind in ("anomaly", "restoration", "mesh")
}
SMALL = {"size": 64, "mask_grid": 4, "unet": "tiny", "capacity": 256}
SMALL_NETS = {  # that restore
    "width": 8,
    "groups": 1,
    "depths": [1] * 5,
    "blocks": 1,
    "dims": {"embed_dim": 12, "depths": [2], "num_heads": 2, "squeeze": 3, "window": 8},
}


def every(*kinds: str) -> pytest.MarkDecorator:
    paths = [path for kind in kinds for path in RECIPES[kind]]
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


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
    assert {"ear_mvtec", "ear_cpu", "ear_demo"} <= {path.stem for path in RECIPES["anomaly"]}
    assert {"hat_x2", "rat", "dwformer"} <= {path.stem for path in RECIPES["restoration"]}
    assert sorted(path for kind in RECIPES.values() for path in kind) == sorted(
        vision.configs().rglob("*.yaml")
    )


@pytest.mark.slow
@every("anomaly", "restoration")
def test_it_builds_as_it_stands(path: Path) -> None:
    recipe = read(path)
    set_backbones(recipe["model"], weights="none")  # the architecture is what it says
    if "Perceptual" in path.read_text():
        del recipe["model"]["loss"]  # wants weights that are not here
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    task, data = TASKS[recipe.get("task", "inspect")]
    parser.add_class_arguments(task, "model")
    parser.add_class_arguments(data, "data")
    sections = {key: recipe[key] for key in ("model", "data")}
    built = parser.instantiate_classes(parser.parse_object(sections))
    assert built.model.net
    assert built.data.root == recipe["data"]["root"]
    assert path.read_text().startswith("# ")  # it says what it is for


@pytest.mark.slow
@every("anomaly")
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


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in the layouts of all the data sets that the recipes name."""
    root = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    sides = ("input", "target", "Poled/LQ", "Poled/HQ", "Toled/LQ", "Toled/HQ", "")
    for split in ("train", "val", "test"):
        for side in sides:
            folder = root / ("clean" if not side else "pairs") / split / side
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("1.png", "2.png"):
                small = draw.integers(0, 256, (8, 9, 3), np.uint8)
                cv2.imwrite(str(folder / name), cv2.resize(small, (144, 144)))
    return root


def shrink_restoration(recipe: dict[str, Any], root: Path, vgg: Path) -> dict[str, Any]:
    """The recipe for a step of each optimiser on tiny pictures."""
    for part in ("net", "discriminator"):
        if part in recipe["model"]:
            spec = recipe["model"][part]
            module, _, name = spec["class_path"].rpartition(".")
            known = signatures.signature(getattr(import_module(module), name)).parameters
            own = spec.setdefault("init_args", {})
            small = {k: v for k, v in SMALL_NETS.items() if k in known}
            own |= {k: v for k, v in small.items() if k not in ("blocks", "dims")}
            if name == "MPGNet":
                own["blocks"] = SMALL_NETS["blocks"]
            if name == "HAT":
                own["dims"] = SMALL_NETS["dims"]
    for spec in recipe["model"].get("loss", {}).get("init_args", {}).get("losses", []):
        if spec["class_path"].endswith(".Perceptual"):
            spec["init_args"] = {"weights_file": str(vgg)}
    clean = recipe["data"]["dataset"]["class_path"].endswith(".Degraded")
    scale = recipe["model"]["net"].get("init_args", {}).get("scale", 1)
    patch = recipe["data"]["patch"] and 32 // scale
    recipe["data"] |= {"root": str(root / ("clean" if clean else "pairs")), "batch_size": 2}
    recipe["data"] |= {"workers": 0, "repeat": 1, "patch": patch}
    steps = {"max_steps": 2} if recipe["task"] == "adversarial" else {"max_steps": 1}
    recipe["trainer"] |= {**steps, "accelerator": "cpu", "limit_val_batches": 1}
    recipe["trainer"] |= {"check_val_every_n_epoch": 1}
    return recipe


@pytest.mark.slow
@every("restoration")
def test_it_trains_loads_and_restores(path: Path, photographs: Path, tmp_path: Path) -> None:
    content = read(path)
    vgg = tmp_path / "vgg19.pth"
    if "Perceptual" in path.read_text():
        from torchvision.models import vgg19

        torch.save(vgg19().state_dict(), vgg)
    recipe = tmp_path / path.name
    recipe.write_text(yaml.safe_dump(shrink_restoration(content, photographs, vgg)))
    assert fit(recipe, run=tmp_path / "runs") == 0
    run = tmp_path / "runs" / path.stem / "001"
    predictor = vision.load(run / "model.ckpt")
    found = predictor(np.full((20, 24, 3), 128, np.uint8))
    scale = content["model"]["net"].get("init_args", {}).get("scale", 1)
    assert found.pixels.shape == (20 * scale, 24 * scale, 3)
    assert (run / "last.ckpt").is_file()


@pytest.fixture(scope="session")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated people: pictures and clips."""
    root = tmp_path_factory.mktemp("crowds")
    counts = ["--train", "2", "--val", "1", "--most", "1", "--size", "112"]
    assert people.main([str(root / "pictures"), *counts]) == 0
    assert people.main([str(root / "clips"), *counts, "--frames", "3"]) == 0
    return root


@pytest.fixture(scope="session")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3DPW, and the files that are gated: body_models/ and regressors/."""
    root = tmp_path_factory.mktemp("filmed")
    write_gated(root)
    for split in ("train", "validation", "test"):
        write_threedpw(root, split, f"{split}_00", models=root / "body_models")
    return root


@pytest.mark.slow
@every("mesh")
def test_it_trains_loads_and_recovers(
    path: Path, crowds: Path, filmed: Path, tmp_path: Path
) -> None:
    content = read(path)
    dataset = content["data"].get("dataset", {}).get("class_path", "")
    clips, films = dataset.endswith("Clips"), dataset.startswith("data.threedpw.")
    own = content["model"]["net"]["init_args"]
    name = "resnet18" if clips else "vit_tiny_patch16_224"
    own["backbone"].setdefault("init_args", {}).update(name=name, weights="none")
    small = {"size": 112, "grid": 8, "dim": 48, "heads": 2, "box_width": 16}
    own |= {k: v for k, v in small.items() if k in own}
    if clips:
        own["size"] = 128
        content["data"]["dataset"]["init_args"] = {"frames": 3}
    root = filmed if films else crowds / ("clips" if clips else "pictures")
    content["data"] |= {"root": str(root), "batch_size": 1, "workers": 0}
    for name, folder in (("features", tmp_path), ("body_models", filmed), ("regressors", filmed)):
        if name in content["model"]:
            content["model"][name] = str(folder / name)
    content["trainer"] |= {"max_steps": 1, "accelerator": "cpu", "check_val_every_n_epoch": 1}
    content["trainer"] |= {"val_check_interval": 1, "limit_val_batches": 1}
    content["trainer"] |= {"accumulate_grad_batches": 1}
    recipe = tmp_path / path.name
    recipe.write_text(yaml.safe_dump(content))
    assert fit(recipe, run=tmp_path / "runs") == 0
    run = tmp_path / "runs" / path.stem / "001"
    models = filmed / "body_models" if films else None
    predictor = vision.load(run / "model.ckpt", body_models=models)
    found = predictor(np.full((60, 80, 3), 128, np.uint8))
    vertices = {"anny": 13718, "smplx": 10475, "smpl": 6890}[predictor.spec.body]
    assert found.vertices.shape[1:] == (vertices, 3)
    assert np.isfinite(found.vertices).all()
    assert (run / "last.ckpt").is_file()
    if films:
        call = ["test", "--config", recipe, "--ckpt_path", run / "model.ckpt"]
        assert status(train, *call) == 0
        assert {"precision", "recall", "f1"} <= json.loads(
            (run / "metrics.json").read_text()
        ).keys()
