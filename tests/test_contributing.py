"""The examples of CONTRIBUTING.md, run as they stand."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import jsonargparse
import numpy as np
import pytest
import torch
import yaml
from trained import fit

import vision
from vision.backbones import Backbone
from vision.body import people
from vision.tasks import AnomalyData, AnomalyTask

Run = Callable[[str], ModuleType]
ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def block(first_line: str) -> str:
    """The fenced block whose first line begins so."""
    found = [b for b in re.findall(r"```\w*\n(.*?)```", TEXT, re.S) if b.startswith(first_line)]
    assert len(found) == 1, first_line
    return found[0]


@pytest.fixture
def run_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(first_line: str) -> ModuleType:
        name = Path(first_line.removeprefix("# ")).stem
        file = tmp_path / f"{name}.py"
        file.write_text(block(first_line))
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return run


def test_the_data_set(tmp_path: Path, run_block: Run) -> None:
    root = tmp_path / "parts"
    rng = np.random.default_rng(0)
    names = [f"ok/{i:03d}.png" for i in range(10)] + ["nok/dent/007.png", "nok/dent/007.mask.png"]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), rng.integers(1, 255, (20, 30, 3), np.uint8))
    okay = run_block("# data/okay.py").Okay
    train, test = okay(str(root), "train", 16), okay(str(root), "test", 16)
    assert len(train) == 8
    assert [test[i]["label"] for i in range(len(test))] == [0, 0, 1]
    assert test[2]["defect"] == "dent"
    # The class path in a recipe or on the command line; `okay` stands for `data.okay` here.
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AnomalyData, "data")
    flags = ["--data.dataset", "okay.Okay", "--data.root", str(root), "--data.size", "16"]
    data = parser.instantiate_classes(parser.parse_args(flags)).data
    data.setup("test")
    assert len(data.test_set) == 3
    folder = {"class_path": "data.folder.Folder", "init_args": {"good": "ok"}}
    built = {"data": {"root": str(root), "size": 16, "dataset": folder}}
    data = parser.instantiate_classes(parser.parse_object(built)).data
    data.setup("fit")
    assert len(data.good_set) + len(data.held_out_set) == 10
    assert test[2]["mask"].shape == (20, 30)
    with pytest.raises(ValueError, match="has no pictures in ok/"):
        okay(str(tmp_path), "train", 16)


@pytest.mark.slow
def test_the_recipe_of_the_backbone() -> None:
    recipe = yaml.safe_load(block("# configs/anomaly/ear_dino8.yaml"))
    backbone = recipe["model"]["net"]["init_args"]["backbone"]
    backbone["init_args"]["weights"] = "none"
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(AnomalyTask, "model")
    task = parser.instantiate_classes(parser.parse_object({"model": recipe["model"]})).model
    assert task.net.backbone.attend(torch.zeros(1, 3, 64, 64))[0].shape == (1, 6, 8, 8)
    assert task.net.input_size == 256


def test_the_backbone_of_ones_own(run_block: Run) -> None:
    run_block("# vision/backbones/vit_mine.py")
    backbone = Backbone("vit_mine", weights="none")
    attention, (features,) = backbone.attend(torch.zeros(2, 3, 32, 32), blocks=[1])
    assert attention.shape == (2, 4, 8, 8)
    assert features.shape == (2, 64, 8, 8)


@pytest.mark.slow
def test_the_net_that_inspects(tmp_path: Path) -> None:
    (tmp_path / "mean.py").write_text(block("# vision/anomaly/mean.py"))
    test = block("# tests/test_mean.py").replace("vision.anomaly.mean", "mean")
    (tmp_path / "test_mean.py").write_text(test)
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", tmp_path / "test_mean.py"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


@pytest.mark.slow
def test_the_net_that_restores(tmp_path: Path, run_block: Run) -> None:
    run_block("# vision/restoration/espcn.py")
    recipe = yaml.safe_load(block("# configs/restoration/espcn.yaml"))
    recipe["model"]["net"]["class_path"] = "espcn.ESPCN"
    recipe["data"] |= {"root": str(tmp_path / "photographs"), "patch": 8}
    recipe["trainer"] |= {"max_steps": 1, "accelerator": "cpu"}
    for split in ("train", "val"):
        (tmp_path / "photographs" / split).mkdir(parents=True)
        picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "photographs" / split / "1.png"), picture)
    (tmp_path / "espcn.yaml").write_text(yaml.safe_dump(recipe))
    assert fit(tmp_path / "espcn.yaml", run=tmp_path / "runs") == 0
    weights = tmp_path / "runs" / "espcn" / "001" / "model.ckpt"
    predictor = vision.load(weights, trust=("espcn.",))
    assert predictor(np.zeros((5, 7, 3), np.uint8)).pixels.shape == (10, 14, 3)


@pytest.mark.slow
def test_the_net_that_recovers_people(tmp_path: Path, run_block: Run) -> None:
    run_block("# vision/mesh/single.py")
    recipe = yaml.safe_load(block("# configs/mesh/single.yaml"))
    recipe["model"]["net"]["class_path"] = "single.Single"
    recipe["model"]["loss"]["class_path"] = "single.SingleLoss"
    small = {"name": "vit_tiny_patch16_224", "weights": "none"}
    recipe["model"]["net"]["init_args"]["backbone"]["init_args"] = small
    recipe["data"] |= {"root": str(tmp_path / "people"), "batch_size": 2}
    recipe["trainer"] |= {"max_steps": 2, "accelerator": "cpu"}
    counts = ["--train", "3", "--val", "1", "--most", "2", "--size", "96"]
    assert people.main([str(tmp_path / "people"), *counts]) == 0
    (tmp_path / "single.yaml").write_text(yaml.safe_dump(recipe))
    assert fit(tmp_path / "single.yaml", run=tmp_path / "runs") == 0
    recover = vision.load(tmp_path / "runs/single/001/model.ckpt", trust=("single.",))
    found = recover(np.zeros((50, 70, 3), np.uint8))
    assert found.vertices.shape == (1, 13718, 3)
