"""`inspect --train-on`: good parts, one or more, in place of weights."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from detectors import bar

import vision
from data.images import read_rgb, write_png
from data.synthetic import write_mvtec
from vision.cli import infer, train
from vision.layers.state import read_checkpoint
from vision.run import teach


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("parts")
    write_mvtec(root, train=12, good=3, bad=6, size=64)
    return root


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe, over a tiny random ViT."""
    recipe = yaml.safe_load((vision.configs() / teach.RECIPE).read_text())
    backbone = {"name": "vit_tiny_patch16_224", "weights": "none"}
    arguments = recipe["model"]["net"]["init_args"]
    arguments["backbone"]["init_args"] = backbone
    arguments |= {"size": 96}
    coarse = {"grids": [6]}
    for name in ("FEW", "LONG"):
        few = tuple((most, options | coarse) for most, options in getattr(teach, name))
        monkeypatch.setattr(teach, name, few)
    own = tmp_path / "few.yaml"
    own.write_text(yaml.safe_dump(recipe))
    monkeypatch.setattr(teach, "RECIPE", str(own))


def good(parts: Path, folder: Path, count: int) -> Path:
    folder.mkdir()
    for path in sorted((parts / "train" / "good").iterdir())[:count]:
        write_png(folder / path.name, read_rgb(path))
    return folder


def inspect(parts: Path, folder: Path, out: Path) -> int:
    return infer(["inspect", str(parts / "test"), "--train-on", str(folder), "-o", str(out)])


@pytest.mark.parametrize("count", [1, 4, 12])
def test_from_few_pictures(
    parts: Path, tmp_path: Path, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = good(parts, tmp_path / "good", count), tmp_path / "out"
    assert inspect(parts, folder, out) == 0
    with (out / "scores.csv").open() as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert len(scores) == len([*(parts / "test").rglob("*.png")])
    assert all(0 <= score < 1 for score in scores)
    again = vision.load(out / "detector.ckpt")
    (seen,) = again.predict([read_rgb(sorted(folder.iterdir())[0])])
    assert seen.verdict == "good"
    told = capsys.readouterr().err
    words = "is not known" if count == 1 else f"about one good part in {count + 1} is worse"
    assert words in told
    call = ["inspect", str(parts / "test"), "--train-on", str(folder), "-o", str(out)]
    assert infer([*call, "--false-alarms", "0.05"]) == 0
    assert words not in capsys.readouterr().err


def test_it_is_tested_as_a_detector_that_was_trained(parts: Path, tmp_path: Path) -> None:
    folder, out = good(parts, tmp_path / "good", 4), tmp_path / "out"
    assert inspect(parts, folder, out) == 0
    call = ["test", "--config", teach.RECIPE, "--data.root", str(parts)]
    call += ["--trainer.default_root_dir", str(tmp_path / "run")]
    assert train([*call, "--ckpt_path", str(out / "detector.ckpt")]) == 0
    assert "image_auroc" in (tmp_path / "run/metrics.json").read_text()


def test_what_was_seen_is_kept(parts: Path, tmp_path: Path) -> None:
    folder, out = good(parts, tmp_path / "good", 4), tmp_path / "out"
    assert inspect(parts, folder, out) == 0
    detector = out / "detector.ckpt"
    first = detector.stat().st_mtime_ns
    assert inspect(parts, folder, out) == 0
    assert detector.stat().st_mtime_ns == first
    write_png(sorted(folder.iterdir())[0], np.zeros((64, 64, 3), np.uint8))
    assert inspect(parts, folder, out) == 0
    assert detector.stat().st_mtime_ns != first


@pytest.mark.parametrize("call", [[], ["--weights", "a.ckpt", "--train-on", "good"]])
def test_one_of_the_two(
    parts: Path, tmp_path: Path, call: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert infer(["inspect", str(parts / "test"), "-o", str(tmp_path / "out"), *call]) == 2
    assert "Name a folder of good ones with --train-on, or --weights" in capsys.readouterr().err


def test_no_good_parts(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good").mkdir()
    assert inspect(parts, tmp_path / "good", tmp_path / "out") == 2
    assert str(tmp_path / "good") in capsys.readouterr().err
    assert inspect(parts, tmp_path / "nowhere", tmp_path / "out") == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err
    assert not (tmp_path / "out" / "detector.ckpt").exists()


@pytest.mark.parametrize(
    ("length", "side", "laid"),
    [(60, (96, 96), True), (18, (96, 96), False), (60, (96, 128), False)],
)
def test_long_parts_are_laid_level(
    tmp_path: Path, length: int, side: tuple[int, int], laid: bool
) -> None:
    (tmp_path / "good").mkdir()
    for number in range(5):
        write_png(tmp_path / "good" / f"{number}.png", bar(31.0 * number, length, sides=side))
    teach.learn(tmp_path / "good", tmp_path / "detector.ckpt", "cpu")
    net = read_checkpoint(tmp_path / "detector.ckpt")["hyper_parameters"]["net"]
    assert net["init_args"].get("level", False) is laid


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_what_long_parts_are_called(tmp_path: Path, count: int) -> None:
    """At an angle at which none of the good ones lay."""
    (tmp_path / "good").mkdir()
    for number in range(count):
        write_png(tmp_path / "good" / f"{number}.png", bar(31.0 * number, 60))
    teach.learn(tmp_path / "good", tmp_path / "detector.ckpt", "cpu")
    detector = vision.load(tmp_path / "detector.ckpt")
    picture = bar(77, 60)
    (good,) = detector.predict([picture])
    cv2.circle(picture, (48, 48), 6, (255, 60, 60), -1)
    (bad,) = detector.predict([picture])
    assert bad.score > good.score
    if count in (1, 5):  # of so few others, over a random ViT, good ones lie as far apart
        assert bad.verdict == "defect"
