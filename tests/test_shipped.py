"""Weights that come with the package: by name, without naming them, and those that do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nets import shaken
from safetensors.torch import save_file
from skimage.data import astronaut
from skimage.metrics import peak_signal_noise_ratio as psnr

import vision
from data import phantoms
from data.degrade import Degradation, GaussianNoise, Jpeg, UnderDisplay, bicubic
from data.images import read_rgb, write_png
from vision.cli import infer
from vision.layers.state import read_checkpoint, write_safetensors
from vision.restoration import HAT
from vision.restoration.hat import Dims
from vision.run import shipped

TINY = Dims(embed_dim=12, depths=(1, 1), num_heads=2, compress=3, squeeze=4, window=8, features=64)


def checkpoint() -> dict[str, object]:
    """As `train.py fit` leaves it."""
    torch.manual_seed(0)
    net = shaken(HAT(scale=2, dims=TINY))
    arguments = {"scale": 2, "dims": TINY._asdict()}
    spec = {"class_path": "vision.restoration.HAT", "init_args": arguments}
    return {
        "visionmend": "restoration",
        "hyper_parameters": {"net": spec},
        "state_dict": {f"net.{name}": value for name, value in net.state_dict().items()},
        "optimizer_states": [torch.zeros(3)],
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the package's weights, with one file in it."""
    own = tmp_path / "weights"
    own.mkdir()
    write_safetensors(checkpoint(), own / "hat_light_x2.safetensors")
    (own / "hat_light_x2.md").write_text("# hat_light_x2: makes pictures twice as large\n\nMore.\n")
    monkeypatch.setattr(shipped, "FOLDER", own)
    return own


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)


def test_names_jobs_and_words(folder: Path) -> None:
    (found,) = vision.models().values()
    assert (found.name, found.job) == ("hat_light_x2", "restore")
    assert found.about == "makes pictures twice as large"
    assert found.card.read_text().endswith("More.\n")


def test_a_name_loads_as_its_checkpoint_does(folder: Path, tmp_path: Path) -> None:
    torch.save(checkpoint(), tmp_path / "model.ckpt")
    wanted = vision.load(tmp_path / "model.ckpt")(picture())
    found = vision.load("hat_light_x2")(picture())
    assert np.abs(found.pixels.astype(int) - wanted.pixels.astype(int)).max() <= 2
    assert (folder / "hat_light_x2.safetensors").stat().st_size < 0.6 * (
        tmp_path / "model.ckpt"
    ).stat().st_size


def test_a_command_without_weights(folder: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", picture())
    assert infer(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert read_rgb(tmp_path / "out" / "a.png").shape == (24, 18, 3)


def test_a_scale_chooses_the_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "a.png", picture())
    call = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--scale"]
    assert infer([*call, "2", "--quiet"]) == 0
    assert infer([*call, "4", "--quiet"]) == 2  # in this folder
    assert "hat_light_x4: no such file, and no weights of this name" in capsys.readouterr().err


def test_a_folder_is_not_meant(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("hat_light_x2", "photos"):
        Path(name).mkdir()
    assert vision.load("hat_light_x2")(picture()).pixels.shape == (24, 18, 3)
    with pytest.raises(ValueError, match=r"^photos: is a folder, and no weights of this name"):
        vision.load("photos")


@pytest.mark.parametrize("damage", [b"", b"no weights", None])
def test_a_damaged_file_of_ours(
    folder: Path, damage: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "hat_light_x2.safetensors"
    if damage is None:
        save_file({"net.a": torch.zeros(2)}, path)  # whole, but not of ours
    else:
        path.write_bytes(damage)
    with pytest.raises(ValueError, match=f"^{path}: damaged; install the package again$"):
        vision.models()
    assert infer(["doctor"]) == 1
    assert "install the package again" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["hat_heavy", "hat_light_x2.ckpt", "weights/hat_light_x2"])
def test_no_such_weights(folder: Path, name: str) -> None:
    cure = "one of hat_light_x2" if name == "hat_heavy" else r"give the model\.ckpt of a run"
    with pytest.raises(ValueError, match=f"^{name}: no such file.*{cure}"):
        vision.load(name)


def test_numbers_beyond_float16(tmp_path: Path) -> None:
    large = checkpoint()
    large["state_dict"] = {"net.a": torch.full((2,), 1e6)}
    with pytest.raises(ValueError, match=r"net\.a holds numbers beyond float16"):
        write_safetensors(large, tmp_path / "a.safetensors")


@pytest.mark.parametrize("header", ["{", "[1]", "7", json.dumps({"hyper_parameters": 3})])
def test_a_header_that_says_something_else(tmp_path: Path, header: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"net.a": torch.zeros(2)}, path, {"visionmend": header})
    with pytest.raises(ValueError, match=f"^{path}: "):
        vision.load(path)


def test_what_comes_with_the_package() -> None:
    """Every file is read, has a card with all its headings, and is small."""
    total = 0
    assert {*shipped.DEFAULTS.values(), *shipped.ENLARGE.values()} <= vision.models().keys()
    for name, model in vision.models().items():
        size = model.path.stat().st_size
        total += size
        assert size <= 12 * 2**20, name
        assert read_checkpoint(model.path)["visionmend"] in shipped.JOBS
        text = model.card.read_text()
        assert text.startswith(f"# {name}: ")
        for heading in ("Data", "Made by", "Measured", "Limits"):
            assert f"\n## {heading}\n" in text, (name, heading)
    assert total <= 40 * 2**20


@pytest.mark.parametrize("scale", [2, 4])
def test_what_comes_with_it_enlarges_better_than_bicubic(scale: int, tmp_path: Path) -> None:
    truth = astronaut()[:128, 160:288]
    small = bicubic(truth, 1 / scale)
    write_png(tmp_path / "a.png", small)
    call = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet"]
    assert infer([*call, "--scale", str(scale)]) == 0
    found = read_rgb(tmp_path / "out" / "a.png")
    assert psnr(truth, found) > psnr(truth, bicubic(small, scale)) + 1


@pytest.mark.parametrize(
    ("name", "degradation", "gain"),
    [
        ("hat_light_noise", GaussianNoise(25), 6),
        ("hat_light_jpeg", Jpeg(10), 0.4),
        ("dwformer_poled", UnderDisplay("poled"), 6),
        ("dwformer_toled", UnderDisplay("toled"), 4),
    ],
)
def test_what_comes_with_it_restores(name: str, degradation: Degradation, gain: float) -> None:
    truth = astronaut()[:128, 160:288]
    unit = degradation(truth, np.random.default_rng(0)).clip(0, 1)
    poor = (unit * 255).round().astype(np.uint8)
    found = vision.load(name)(poor).pixels
    assert psnr(truth, found) > psnr(truth, poor) + gain


def test_what_comes_with_it_restores_slices() -> None:
    draw = np.random.default_rng(7)
    slice_ = phantoms.phantom(draw)
    truth, poor = phantoms.seen(slice_), phantoms.seen(phantoms.low_dose(slice_, draw))
    found = vision.load("rat_ct")(poor[..., None]).pixels
    assert psnr(truth, found[..., 0]) > psnr(truth, poor) + 6
