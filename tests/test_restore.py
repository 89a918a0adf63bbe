"""`infer.py restore` and `vision.load` on published checkpoints, made here in their layout."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from nets import shaken
from PIL import Image
from torch import nn

import vision
from data.images import read, write_png, write_tiff
from vision.cli import infer
from vision.restoration import HAT, RAT, DWFormer
from vision.restoration.hat import Dims
from vision.restoration.spec import Spec
from vision.run.restore import Restoration, RestorationPredictor, RestoreJob
from vision.run.weights import CheckpointError

TINY = Dims(embed_dim=12, depths=(1, 1), num_heads=2, compress=3, squeeze=4, window=8, features=64)


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny HAT ×2 in the layout of the published files: `params_ema` beside `params`."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "HAT_SRx2.pth"
    state = HAT(scale=2, dims=TINY).state_dict()
    torch.save({"params": HAT(scale=2, dims=TINY).state_dict(), "params_ema": state}, path)
    return path


def state_of(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["params_ema"]


def rows(out: Path) -> dict[str, dict[str, Any]]:
    lines = (out / "manifest.jsonl").read_text().splitlines()
    return {Path(row["input"]).name: row for row in map(json.loads, lines)}


def ramp(height: int, width: int, channels: int, dtype: Any) -> np.ndarray:
    full = 1.0 if dtype == np.float32 else np.iinfo(dtype).max
    values = np.random.default_rng(height).random((height, width, channels)) * full
    return values.astype(dtype)


# --- the predictor


def test_published_weights_load_as_they_are(published: Path) -> None:
    predictor = vision.load(published)
    assert isinstance(predictor, RestorationPredictor)
    assert isinstance(predictor.net, HAT)
    assert not predictor.net.training
    for key, value in state_of(published).items():  # the averaged ones
        assert torch.equal(predictor.net.state_dict()[key], value)
    image = ramp(20, 17, 3, np.uint8)
    result = predictor(image)
    assert isinstance(result, Restoration)
    with torch.no_grad():
        wanted = predictor.net(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    wanted = (wanted[0].clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(result.pixels, wanted.astype(np.uint8))


def test_a_bare_state_dict_and_safetensors_load_too(published: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state, image = state_of(published), ramp(9, 9, 3, np.uint8)
    wanted = vision.load(published)(image).pixels
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "bare.pth")
    save_file({k: v.contiguous() for k, v in state.items()}, tmp_path / "bare.safetensors")
    for path in tmp_path.iterdir():
        np.testing.assert_array_equal(vision.load(path)(image).pixels, wanted)


class Double(nn.Module):
    """Every pixel four times: what it makes of a picture is known."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.spec = Spec(2, channels, pools_globally=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1] == self.spec.channels
        return images.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize("net_channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 5, 1), (1, 900, 3), (70, 90, 3)])
def test_depth_and_channels_are_kept(
    shape: tuple[int, int, int], dtype: Any, net_channels: int
) -> None:
    image = ramp(*shape, dtype)
    predictor = RestorationPredictor(Double(net_channels), tile=64)
    found = predictor(image)
    np.testing.assert_allclose(found.pixels, image.repeat(2, 0).repeat(2, 1), rtol=1e-6, atol=1e-7)
    assert found.pixels.dtype == dtype
    assert (found.tiles > 1) == (max(shape) > 64)
    assert predictor(image[..., 0]).pixels.shape == (2 * shape[0], 2 * shape[1])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.int32), "a picture of int32"),
        (np.zeros((0, 4, 3), np.uint8), "give uint8, uint16 or float32"),
        (np.zeros((4, 4, 4), np.uint8), "a picture of 4 channels; give 1 or 3"),
        (np.full((4, 4, 3), np.nan, np.float32), "NaN or infinite"),
        (np.full((4, 4, 3), 255, np.float32), "reach from 255 to 255, expected 0 to 1; divide"),
    ],
)
def test_pictures_that_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RestorationPredictor(Double())(image)


def test_a_little_overshoot_is_clipped() -> None:
    image = np.array([[-0.25, 0.5, 1.25]], np.float32)
    assert RestorationPredictor(Double())(image).pixels[0].tolist() == [0, 0, 0.5, 0.5, 1, 1]


def test_a_net_whose_weights_are_damaged(tmp_path: Path) -> None:
    net = HAT(scale=2, dims=TINY)
    torch.nn.init.constant_(net.conv_first.weight, torch.nan)
    torch.save(net.state_dict(), tmp_path / "nan.pth")
    with pytest.raises(ValueError, match="not finite; its weights are damaged"):
        vision.load(tmp_path / "nan.pth")(ramp(8, 8, 3, np.uint8))
    write_png(tmp_path / "a.png", ramp(8, 8, 3, np.uint8))
    call = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert infer([*call, "--weights", str(tmp_path / "nan.pth")]) == 1
    (row,) = rows(tmp_path / "out").values()
    assert row["status"] == "error"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.jsonl"]


@pytest.mark.parametrize("scale", [1, 2])
def test_the_region_map_that_is_given_is_the_one_used(scale: int) -> None:
    net = shaken(RAT(scale, width=8, groups=1, blocks=(1,)))
    predictor, image = RestorationPredictor(net), ramp(32, 32, 1, np.uint8)
    halves = np.repeat(np.arange(2), 16)[:, None].repeat(32, 1)
    found = predictor(image, halves).pixels
    assert not np.array_equal(predictor(image, np.zeros_like(halves)).pixels, found)
    assert np.array_equal(predictor(image, 7 - halves).pixels, found)
    enlarged = halves.repeat(scale, 0).repeat(scale, 1)  # as published maps are
    assert np.array_equal(predictor(image, enlarged).pixels, found)
    with pytest.raises(ValueError, match=r"a region map of \(96, 96\) for a picture of \(32, 32\)"):
        predictor(image, halves.repeat(3, 0).repeat(3, 1))


# --- the command


def test_every_kind_of_picture(published: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    (source / "below").mkdir(parents=True)
    write_png(source / "colour.png", ramp(20, 30, 3, np.uint8))
    write_png(source / "grey16.png", ramp(12, 9, 1, np.uint16))
    write_png(source / "alpha.png", ramp(16, 16, 4, np.uint8))
    write_png(source / "below" / "one.png", ramp(1, 1, 3, np.uint8))
    write_png(source / "line.png", ramp(1, 2000, 3, np.uint8))
    write_tiff(source / "float.tif", ramp(8, 8, 1, np.float32))
    Image.fromarray(ramp(8, 8, 4, np.uint8)[..., [0, 3]], "LA").save(source / "grey_alpha.png")
    call = ["restore", str(source), "-o", str(out), "--weights", str(published), "--quiet"]
    assert infer(call) == 0
    found = rows(out)
    assert {name: row["status"] for name, row in found.items()} == dict.fromkeys(found, "ok")
    for name, row in found.items():
        before, after = read(Path(row["input"])), read(out / row["outputs"][0])
        height, width = before.pixels.shape[:2]
        assert after.pixels.shape[:2] == (2 * height, 2 * width)
        assert (row["height"], row["width"], row["scale"]) == (2 * height, 2 * width, 2)
        assert after.pixels.dtype == before.pixels.dtype, name
        assert (after.alpha is None) == (before.alpha is None)
        if before.alpha is None:
            assert after.pixels.shape[2] == before.pixels.shape[2]
        else:
            size = (2 * width, 2 * height)
            wanted = cv2.resize(before.alpha, size, interpolation=cv2.INTER_CUBIC)
            np.testing.assert_array_equal(after.alpha, wanted)
            assert after.pixels.shape[2] == 3  # grey with alpha too
        assert cv2.imread(str(out / row["outputs"][1])).shape[:2] <= (2 * height, 2 * width)
    assert (out / "below" / "one.png").exists()
    assert found["line.png"]["pooling"] == "per tile"  # 1×2000 is above 512
    assert found["colour.png"]["pooling"] == "whole"


def test_bad_pictures_are_rows(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    write_png(source / "good.png", ramp(8, 8, 3, np.uint8))
    (source / "text.png").write_text("no picture")
    nan = np.full((8, 8, 1), np.nan, np.float32)
    write_tiff(source / "nan.tif", nan)
    call = ["restore", str(source), "-o", str(out), "--weights", str(published), "--quiet"]
    assert infer(call) == 1
    found = rows(out)
    assert {name: row["status"] for name, row in found.items()} == {
        "good.png": "ok",
        "text.png": "error",
        "nan.tif": "error",
    }
    assert "NaN or infinite" in found["nan.tif"]["error"]
    capsys.readouterr()
    assert infer(call) == 1
    assert "0 restored, 1 done before, 2 failed" in capsys.readouterr().out


@pytest.mark.slow
def test_tile_and_ensemble_are_part_of_what_was_done(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "a.png", ramp(66, 20, 3, np.uint8))
    call = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet"]
    call += ["--weights", str(published)]
    results = []
    for more in ([], ["--tile", "64"], ["--ensemble"], ["--ensemble"]):
        assert infer([*call, *more, "--no-before-after"]) == 0
        (row,) = rows(tmp_path / "out").values()
        results.append((row["tiles"], read(tmp_path / "out" / "a.png").pixels))
    assert [tiles for tiles, _ in results] == [1, 2, 1, 1]
    assert not np.array_equal(results[0][1], results[2][1])
    assert np.abs(results[0][1].astype(int) - results[1][1]).mean() < 3
    assert "0 restored, 1 done before" in capsys.readouterr().out.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*.jpg"))


def test_half_precision_is_near(published: Path) -> None:
    image = ramp(20, 24, 3, np.uint8)
    exact, half = vision.load(published)(image), vision.load(published, precision="bf16")(image)
    differs = np.abs(exact.pixels.astype(int) - half.pixels)
    assert 0 < differs.max() < 16
    assert differs.mean() < 2
    with pytest.raises(ValueError, match="choose fp32 or bf16"):
        vision.load(published, precision="fp16")


def test_a_scale_that_no_checkpoint_says(published: Path, tmp_path: Path) -> None:
    net = shaken(RAT(scale=2, width=8, groups=1, blocks=(1,))).eval()
    torch.save({"params": net.state_dict()}, tmp_path / "rat.pth")
    write_png(tmp_path / "a.png", ramp(16, 24, 1, np.uint8))
    call = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--quiet"]
    assert infer([*call, "--weights", str(tmp_path / "rat.pth"), "--scale", "2"]) == 0
    assert read(tmp_path / "out" / "a.png").pixels.shape == (32, 48, 1)
    plain = vision.load(tmp_path / "rat.pth")
    assert plain.spec.scale == 1
    assert plain.fingerprint != vision.load(tmp_path / "rat.pth", scale=2).fingerprint
    known = vision.load(published)
    assert known.fingerprint == vision.load(published, scale=2).fingerprint  # its keys say it
    with pytest.raises(CheckpointError, match="is of scale 2, not 4; leave the scale out"):
        vision.load(published, scale=4)


# --- weights that are refused


def damaged(published: Path, path: Path, change: str) -> Path:
    state = state_of(published)
    if change == "missing":
        del state["conv_after_body.bias"], state["norm.weight"]
    elif change == "surplus":
        state["conv_extra.bias"] = torch.zeros(3)
    elif change == "size unknown":
        del state["conv_first.weight"]
    elif change == "shape":
        state["norm.weight"] = torch.zeros(5)
    elif change == "foreign":
        state = {"encoder.0.weight": torch.zeros(2, 2)}
    elif change == "bomb":  # a byte or two in the file, a net of terabytes
        state["conv_first.weight"] = torch.zeros(1).expand(10**6, 3, 3, 3)
    elif change == "odd":
        state["conv_first.weight"] = torch.zeros(0, 3, 3, 3)
    elif change == "nested":
        wrapped: Any = state
        for _ in range(4):
            wrapped = {"params": wrapped}
        state = wrapped
    torch.save({"params_ema": state}, path)
    if change == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"looks like HAT.*\(missing: conv_after_body.bias, norm.weight\)"),
        ("surplus", r"\(surplus: conv_extra.bias\)"),
        ("shape", r"\(of another shape: norm.weight\)"),
        ("size unknown", r"looks like HAT, but tensors that say its size .*'conv_first.weight'"),
        ("foreign", r"weights of another kind \(keys \['encoder.0.weight'\]\); give"),
        ("truncated", "not a checkpoint, or a truncated one"),
        ("bomb", r"the tensor conv_first.weight claims more than the file holds"),
        ("odd", r"looks like HAT, but tensors that say its size"),
        ("nested", r"weights of another kind \(keys \['params_ema'\]\)"),
    ],
)
def test_weights_that_do_not_fit(
    change: str, message: str, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(published, tmp_path / "damaged.pth", change)
    with pytest.raises(CheckpointError, match=message):
        vision.load(path)
    write_png(tmp_path / "a.png", ramp(8, 8, 3, np.uint8))
    call = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert infer([*call, "--weights", str(path)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), RuntimeError("a\nb")])
def test_a_net_that_cannot_be_built(
    published: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(HAT, "__init__", build)
    with pytest.raises(CheckpointError, match="looks like HAT, but tensors that say its") as caught:
        vision.load(published)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "net",
    [
        {"class_path": "vision.losses.Perceptual"},
        {"class_path": "data.degrade.Jpeg", "init_args": {"quality": 3}},
        {
            "class_path": "vision.restoration.HAT",
            "init_args": {"dims": {"class_path": "vision.losses.Perceptual"}},
        },
    ],
    ids=lambda net: net["class_path"],
)
def test_a_checkpoint_of_ours_builds_nothing_but_nets_that_restore(
    net: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: object, **__: object) -> None:
        raise AssertionError("was built")

    monkeypatch.setattr("vision.losses.Perceptual.__init__", build)
    content = {"visionmend": "restoration", "hyper_parameters": {"net": net}, "state_dict": {}}
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"names the class .*, which is no net of ours; give"):
        vision.load(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"false_alarms": 0.1}, "is for `restore` and takes no false_alarms; leave out all but"),
        ({"tiles": 64}, "takes no tiles; leave out all but tile, ensemble"),
        ({"device": "nope"}, "--device nope: .*; use --device cpu"),
    ],
)
def test_options_that_are_refused(options: Any, message: str, published: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        vision.load(published, **options)
    assert "\n" not in str(caught.value)


def test_inspect_refuses_what_restores(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "a.png", ramp(8, 8, 3, np.uint8))
    call = ["inspect", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert infer([*call, "--weights", str(published)]) == 2
    assert "weights of another kind, not for `inspect`" in capsys.readouterr().err
    assert infer(["restore", *call[1:], "--weights", str(published), "--tile", "-3"]) == 2
    assert "--tile -3: give 0 or more" in capsys.readouterr().err


def test_the_job_says_what_it_did() -> None:
    job = RestoreJob(RestorationPredictor(Double(), tile=64, ensemble=True, fingerprint="f"))
    assert job.fingerprint == "f tile 64 ensemble"


@pytest.mark.parametrize(
    "net",
    [RAT(width=8, groups=1, blocks=(1,)), DWFormer((4, 6, 8, 6, 4), (1,) * 5, released=True)],
    ids=["RAT", "DWFormer"],
)
def test_other_published_nets_load_as_they_are(net: nn.Module, tmp_path: Path) -> None:
    shaken(net)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "published.pth")
    predictor = vision.load(tmp_path / "published.pth")
    assert type(predictor.net) is type(net)
    loaded = predictor.net.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in net.state_dict().items())
    image = ramp(20, 24, 3, np.uint8)
    write_png(tmp_path / "a.png", image)
    call = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    call += ["--weights", str(tmp_path / "published.pth")]
    assert infer(call) == 0
    assert np.array_equal(read(tmp_path / "out" / "a.png").pixels, predictor(image).pixels)


def test_region_maps_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = shaken(RAT(width=8, groups=1, blocks=(1,)))
    torch.save(net.state_dict(), tmp_path / "rat.pth")
    for folder in ("in", "maps"):
        (tmp_path / folder).mkdir()
    for name in ("a", "b"):
        write_png(tmp_path / "in" / f"{name}.png", ramp(32, 32, 1, np.uint8))
    labels = np.repeat(np.arange(2, dtype=np.uint8), 16)[:, None].repeat(32, 1)
    write_png(tmp_path / "maps" / "a.png", labels)
    call = ["restore", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    call += ["--weights", str(tmp_path / "rat.pth")]
    assert infer([*call, "--regions", str(tmp_path / "maps")]) == 1
    found = rows(tmp_path / "out")
    wanted = vision.load(tmp_path / "rat.pth")(ramp(32, 32, 1, np.uint8), labels).pixels
    assert np.array_equal(read(tmp_path / "out" / "a.png").pixels, wanted)
    assert sorted(row["status"] for row in found.values()) == ["error", "ok"]
    assert any("b.png: has no region map; add" in str(row.get("error")) for row in found.values())
    capsys.readouterr()
    assert infer([*call, "--regions", str(tmp_path / "maps")]) == 1
    assert "0 restored, 1 done before, 1 failed" in capsys.readouterr().out
    write_png(tmp_path / "maps" / "a.png", labels.T.copy())  # which the picture has to follow
    assert infer([*call, "--regions", str(tmp_path / "maps")]) == 1
    assert "1 restored, 0 done before, 1 failed" in capsys.readouterr().out
    assert not np.array_equal(read(tmp_path / "out" / "a.png").pixels, wanted)
    assert infer([*call, "--regions", "nowhere"]) == 2
    assert "--regions nowhere: no such folder" in capsys.readouterr().err


def test_a_net_without_regions_refuses_maps(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "a.png", ramp(8, 8, 3, np.uint8))
    call = ["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert infer([*call, "--weights", str(published), "--regions", str(tmp_path)]) == 2
    assert "HAT does not look at region maps; leave it out" in capsys.readouterr().err


def test_a_net_that_sums_shares_between_tiles(tmp_path: Path) -> None:
    net = shaken(DWFormer((4, 6, 8, 6, 4), (1,) * 5, released=True))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    write_png(tmp_path / "a.png", ramp(70, 70, 3, np.uint8))
    call = ["restore", str(tmp_path / "a.png"), "--weights", str(tmp_path / "net.pth"), "-o"]
    assert infer([*call, str(tmp_path / "out"), "--tile", "64"]) == 0
    (row,) = rows(tmp_path / "out").values()
    assert (row["tiles"], row["pooling"]) == (4, "shared")
    with pytest.raises(ValueError, match="Double pools nothing that tiles could share"):
        RestorationPredictor(Double(), share_pooling=True)
