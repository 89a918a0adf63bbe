"""Pairs to restore, on folders made here: what the data sets return, and what they refuse."""

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

from data.augment import geometric, reseed
from data.degrade import Bicubic, Chain, Degradation, GaussianNoise, Jpeg, UnderDisplay, bicubic
from data.images import ImageError, write_png
from data.paired import Degraded, Paired, at_least
from data.pairs import PairDataset, collate
from data.regions import read_regions
from data.udc import UDC


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, array)
    return path


def save_nifti(
    path: Path, labels: np.ndarray, order: str = "<", slope: float = math.nan, more: bytes = b""
) -> Path:
    """H×W labels as SimpleITK writes them."""
    codes = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "u2": 512}
    code = labels.dtype.str[1:]
    header = bytearray(352)
    struct.pack_into(f"{order}i", header, 0, 348)
    struct.pack_into(f"{order}8h", header, 40, 2, *labels.shape[::-1], 1, 1, 1, 1, 1)
    struct.pack_into(f"{order}2h", header, 70, codes[code], 8 * labels.dtype.itemsize)
    struct.pack_into(f"{order}3f", header, 108, 352, slope, 0)
    header[344:348] = b"n+1\0"
    path.parent.mkdir(parents=True, exist_ok=True)
    body = labels.astype(labels.dtype.newbyteorder(order)).tobytes()
    path.write_bytes(gzip.compress(bytes(header) + body + more))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Super-resolution ×2 as DIV2K names it, with region maps: 3 to learn from, 1 to test."""
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for n in range(count):
            target = noise(40, 32, seed=n)
            save(tmp_path / split / f"target/{n:04d}.png", target)
            save(tmp_path / split / f"input/{n:04d}x2.png", target[::2, ::2])
            labels = target[..., 0].astype(np.int16) + 300
            save_nifti(tmp_path / split / f"regions/{n:04d}.nii.gz", labels)
    return tmp_path


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    for split, count in (("train", 2), ("val", 2)):
        for n in range(count):
            save(tmp_path / split / f"{n}.png", noise(203, 181, seed=n))
    return tmp_path


# --- Paired


def test_whole_pairs(pairs: Path) -> None:
    data = Paired(pairs, "val", scale=2, patch=8, transform=geometric("d4"))  # both for training
    assert len(data) == 2
    pair = data[1]
    assert pair["input"].dtype == pair["target"].dtype == torch.float32
    assert pair["region"].dtype == torch.int64
    assert (pair["input"].shape, pair["target"].shape) == ((3, 20, 16), (3, 40, 32))
    assert pair["region"].shape == (1, 40, 32)
    truth = noise(40, 32, seed=1)
    np.testing.assert_array_equal(pair["target"].permute(1, 2, 0), truth / np.float32(255))
    np.testing.assert_array_equal(pair["input"], pair["target"][:, ::2, ::2])
    np.testing.assert_array_equal(pair["region"][0], truth[..., 0].astype(int) + 300)
    assert Path(pair["path"]).name == "0001x2.png"
    assert (pair["index"], data[-1]["index"]) == (1, 1)
    with pytest.raises(IndexError):
        data[2]


@pytest.mark.parametrize("kind", ["none", "flips", "d4"])
def test_crops_and_moves_keep_a_pair_together(pairs: Path, kind: str) -> None:
    torch.manual_seed(0)
    data = Paired(pairs, "train", scale=2, patch=6, transform=geometric(kind))  # type: ignore[arg-type]
    seen = set()
    for _ in range(12):
        pair = data[0]
        assert pair["input"].shape == (3, 6, 6)
        large, small = pair["target"], pair["input"]
        # A flip leaves the pixel that the input holds at another corner of each 2×2.
        corners = [large[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]
        assert sum(torch.equal(small, corner) for corner in corners) == 1
        np.testing.assert_array_equal(pair["region"][0] - 300, (large[0] * 255).round())
        seen.add(small.numpy().tobytes())
    assert len(seen) > 8


def test_grey_pairs_move_alike(tmp_path: Path) -> None:
    for side in ("HQ", "LQ"):
        save(tmp_path / f"train/{side}/1.png", noise(12, 12, 1))
    torch.manual_seed(0)
    data = Paired(tmp_path, "train", transform=geometric("d4"), grey=True)
    for _ in range(8):
        pair = data[0]
        assert pair["input"].shape == (1, 12, 12)
        assert torch.equal(pair["input"], pair["target"])


def test_training_is_seeded_by_torch(pairs: Path) -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        data = Paired(pairs, "train", scale=2, patch=6, transform=geometric("d4"))
        return torch.cat([data[n]["input"] for n in (0, 1, 2, 0)])

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("joined", [False, True])
def test_reading_processes_move_differently(tmp_path: Path, joined: bool) -> None:
    class Wrapped(torch.utils.data.Dataset):
        def __init__(self, dataset: torch.utils.data.Dataset) -> None:
            self.dataset = dataset

        def __len__(self) -> int:
            return 32

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.dataset[0]["input"]

    for side in ("HQ", "LQ"):
        save(tmp_path / f"train/{side}/1.png", noise(6, 6))
    torch.manual_seed(0)
    paired = Paired(tmp_path, "train", transform=geometric("d4"))
    data = Wrapped(ConcatDataset([paired, paired]) if joined else paired)
    loader = DataLoader(data, 1, num_workers=2, worker_init_fn=reseed)
    moves = list(loader)  # by turns of one process and the other
    assert any(not torch.equal(a, b) for a, b in zip(moves[::2], moves[1::2], strict=True))


@pytest.mark.parametrize("names", [("input", "target"), ("LQ", "HQ"), ("LR", "HR")])
def test_names_of_folders(tmp_path: Path, names: tuple[str, str]) -> None:
    save(tmp_path / f"test/{names[0]}/a/1.png", noise(4, 4))
    save(tmp_path / f"test/{names[1]}/a/1.png", noise(4, 4, seed=1))
    (tmp_path / f"test/{names[1]}/notes.txt").write_text("not a picture")
    (pair,) = Paired(tmp_path, "test")
    assert "region" not in pair
    assert Path(pair["path"]).parts[-3:] == (names[0], "a", "1.png")


def test_a_target_may_be_called_x2_itself(tmp_path: Path) -> None:
    for side in ("LR", "HR"):
        save(tmp_path / f"test/{side}/box2.png", noise(4, 4))
        save(tmp_path / f"test/{side}/matrix3.png", noise(4, 4))
    assert len(Paired(tmp_path, "test")) == 2


def test_depth_and_grey(tmp_path: Path) -> None:
    deep = np.arange(48, dtype=np.uint16).reshape(4, 4, 3) * 1300
    save(tmp_path / "test/LQ/1.png", deep)
    save(tmp_path / "test/HQ/1.png", np.full((4, 4, 1), 51, np.uint8))
    (pair,) = Paired(tmp_path, "test")
    np.testing.assert_array_equal(pair["input"].permute(1, 2, 0), deep / np.float32(65535))
    assert pair["target"].shape == (3, 4, 4)
    assert pair["target"].unique().tolist() == pytest.approx([0.2])
    (pair,) = Paired(tmp_path, "test", grey=True)
    luma = deep @ np.array([0.299, 0.587, 0.114]) / 65535
    np.testing.assert_allclose(pair["input"][0], luma, atol=1e-4)
    assert pair["target"].unique().tolist() == pytest.approx([0.2])
    save(tmp_path / "test/LQ/1.png", np.repeat(deep[..., :1], 3, axis=2))
    (pair,) = Paired(tmp_path, "test", grey=True)  # grey saved as RGB stays the value it is
    np.testing.assert_array_equal(pair["input"][0], deep[..., 0] / np.float32(65535))


def test_what_has_no_other_half(pairs: Path) -> None:
    spare = save(pairs / "train/input/0009x2.png", noise(4, 4))
    with pytest.raises(ValueError, match=r"input .*0009x2\.png has no target.*or take it out"):
        Paired(pairs, "train", scale=2)
    spare.unlink()
    spare = save(pairs / "train/target/0009.png", noise(4, 4))
    with pytest.raises(ValueError, match=r"target .*0009\.png has no input"):
        Paired(pairs, "train", scale=2)
    spare.unlink()
    spare = save(pairs / "train/input/0001.png", noise(4, 4))
    with pytest.raises(ValueError, match=r"0001\.png and .*0001x2\.png: two inputs for"):
        Paired(pairs, "train", scale=2)
    spare.unlink()
    (pairs / "train/regions/0001.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"target .*0001\.png has no region map"):
        Paired(pairs, "train", scale=2)
    save(pairs / "train/regions/0001.png", noise(40, 32, 1))
    assert Paired(pairs, "train", scale=2)[1]["region"].max() < 256
    save(pairs / "train/regions/0008.png", noise(40, 32, 1))
    with pytest.raises(ValueError, match=r"region map .*0008\.png has no picture"):
        Paired(pairs, "train", scale=2)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none does not exist; give a folder laid out as"):
        Paired(tmp_path / "none", "train")
    with pytest.raises(ValueError, match='split "dev" does not exist'):
        Paired(tmp_path, "dev")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="val holds no pairs; give a folder laid out as"):
        Paired(tmp_path, "val")
    (tmp_path / "val/input").mkdir(parents=True)
    with pytest.raises(ValueError, match="target is not a folder"):
        Paired(tmp_path, "val")
    (tmp_path / "val/target").mkdir()
    with pytest.raises(ValueError, match="input holds no picture"):
        Paired(tmp_path, "val")


def test_sizes_that_do_not_fit(pairs: Path) -> None:
    with pytest.raises(ValueError, match=r"0000\.png is 32×40 .*16×20; at scale 3 .*48×60"):
        Paired(pairs, "test", scale=3)[0]
    save_nifti(pairs / "test/regions/0000.nii.gz", np.ones((20, 16), np.uint8))
    with pytest.raises(ValueError, match=r"region map .*nii\.gz is 16×20 .* must be 32×40"):
        Paired(pairs, "test", scale=2)[0]
    data = Paired(pairs, "train", scale=2, patch=17)
    with pytest.raises(ValueError, match=r"0000x2\.png: its input of 16×20 .* patch of 17"):
        data[0]
    for wrong in ({"scale": 0}, {"patch": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} 0"):
            Paired(pairs, "train", **wrong)


def test_damaged_pictures_are_not_skipped(pairs: Path) -> None:
    (pairs / "test/input/0000x2.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with pytest.raises(ImageError, match=r"0000x2\.png"):
        Paired(pairs, "test", scale=2)[0]


def test_transforms_that_tear_a_pair_apart(pairs: Path) -> None:
    import albumentations as A

    with pytest.raises(ValueError, match="would move the input alone"):
        Paired(pairs, "train", scale=2, transform=A.Compose([A.D4()]))

    def cut(**pair: np.ndarray) -> dict[str, np.ndarray]:
        return {**pair, "image": pair["image"][1:]}

    def scaled(**pair: np.ndarray) -> dict[str, np.ndarray]:
        return {**pair, "image": pair["image"].astype(np.float64)}

    with pytest.raises(ValueError, match="must move both alike"):
        Paired(pairs, "train", scale=2, transform=cut)[0]
    with pytest.raises(ValueError, match="must keep float32"):
        Paired(pairs, "train", scale=2, transform=scaled)[0]


# --- region maps


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "u2", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti(tmp_path: Path, dtype: str, order: str) -> None:
    labels = np.arange(30, dtype=dtype).reshape(5, 6)
    for slope in (0.0, 1.0, math.nan):
        read = read_regions(save_nifti(tmp_path / "1.nii.gz", labels, order, slope))
        assert read.dtype == np.int32
        np.testing.assert_array_equal(read, labels)


def test_region_maps_that_are_none(tmp_path: Path) -> None:
    path, labels = tmp_path / "1.nii.gz", np.ones((4, 4), np.float32)
    for values, slope, wrong in (
        (labels / 2, 1.0, "no whole numbers"),
        (labels * np.nan, 1.0, "no whole numbers"),
        (labels, 2.0, "scaled or odd"),
    ):
        with pytest.raises(ImageError, match=rf"1\.nii\.gz: holds .*{wrong}"):
            read_regions(save_nifti(path, values, slope=slope))
    whole = save_nifti(path, labels).read_bytes()
    for damaged in (whole[:-20], whole[:40], gzip.compress(b"short"), b"no gzip", b""):
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"1\.nii\.gz: cannot be read as NIfTI-1"):
            read_regions(path)
    with pytest.raises(ImageError, match="4×4 is more than 15"):
        read_regions(save_nifti(path, labels), max_pixels=15)
    with pytest.raises(ImageError, match="not a map of labels"):
        read_regions(save(tmp_path / "1.png", noise(4, 4)))
    Image.fromarray(noise(4, 4)[..., 0]).save(tmp_path / "1.jpg")
    with pytest.raises(ImageError, match="not a map of labels"):
        read_regions(tmp_path / "1.jpg")


def test_a_packed_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = save_nifti(tmp_path / "1.nii.gz", np.ones((4, 4), np.uint8), more=bytes(50_000_000))
    assert read_regions(path).shape == (4, 4)


# --- Degraded


def test_degraded_pairs(clean: Path) -> None:
    data = Degraded(clean, "val", scale=4, degradation=Bicubic(4))
    truth = noise(203, 181, seed=1)[:200, :180]
    np.testing.assert_array_equal(
        data[1]["target"].permute(1, 2, 0).numpy(), truth / np.float32(255)
    )
    np.testing.assert_array_equal(
        data[1]["input"].permute(1, 2, 0).numpy(), bicubic(truth, 1 / 4) / np.float32(255)
    )
    assert Path(data[1]["path"]).name == "1.png"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("degradation", "tolerance"),
    [
        (Bicubic(2), 0),
        (Bicubic(3), 0),
        (Bicubic(4), 0),
        (Jpeg(30), 0),
        (Chain([Bicubic(2), Jpeg(60)]), 0),
        (UnderDisplay("poled", electrons=math.inf, bits=16), 1e-3),
        (UnderDisplay("toled", spacing=1, electrons=math.inf, bits=16), 1e-3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Degradation) else "",
)
def test_a_crop_is_degraded_like_the_whole(
    clean: Path, degradation: Degradation, tolerance: float
) -> None:
    torch.manual_seed(0)
    scale = degradation.scale
    data = Degraded(clean, "train", scale=scale, patch=20, degradation=degradation)
    picture = noise(203, 181)[: 203 // scale * scale, : 181 // scale * scale]
    whole = torch.from_numpy(degradation(picture, np.random.default_rng(0))).permute(2, 0, 1)
    target = torch.from_numpy(picture.astype(np.int32)).permute(2, 0, 1)
    for _ in range(25):
        pair = data[0]
        wanted = (pair["target"] * 255).round().int()
        # The corner pixel finds the place; noise repeats it, so the crop itself decides.
        places = (target[:, ::scale, ::scale] == wanted[:, :1, :1]).all(0).nonzero() * scale
        side = 20 * scale
        (place,) = (
            (y, x)
            for y, x in places.tolist()
            if torch.equal(target[:, y : y + side, x : x + side], wanted)
        )
        y, x = (start // scale for start in place)
        difference = (pair["input"] - whole[:, y : y + 20, x : x + 20]).abs().max()
        assert difference <= tolerance


def test_noise_of_training_and_of_validation(clean: Path) -> None:
    degradation = GaussianNoise((10, 50))
    val = Degraded(clean, "val", degradation=degradation)
    first = val[0]["input"]
    torch.manual_seed(7)
    assert torch.equal(first, Degraded(clean, "val", degradation=degradation)[0]["input"])
    noises = [val[n]["input"] - val[n]["target"] for n in range(2)]
    assert not torch.allclose(noises[0] / noises[0].std(), noises[1] / noises[1].std(), atol=0.1)
    train = Degraded(clean, "train", degradation=degradation)
    torch.manual_seed(7)
    first, second = train[0]["input"], train[0]["input"]
    assert not torch.equal(first, second)
    torch.manual_seed(7)
    assert torch.equal(first, train[0]["input"])
    assert first.min() < -0.02  # not clipped


def test_degraded_layouts(tmp_path: Path) -> None:
    save(tmp_path / "flat/deep/1.png", noise(8, 8))
    with pytest.raises(ValueError, match="flat holds one picture, which is held out; add more"):
        Degraded(tmp_path / "flat", "train", degradation=Jpeg(50))
    for number in range(2, 43):
        save(tmp_path / f"flat/deep/{number:02}.png", noise(8, 8))

    def stems(split: Any) -> list[str]:
        data = Degraded(tmp_path / "flat", split, degradation=Jpeg(50))
        return [Path(files.target).stem for files in data.files]

    assert stems("val") == stems("test") == ["02", "41"]  # the first and the 41st, by path
    assert len(stems("train")) == 40
    assert not set(stems("train")) & {"02", "41"}
    save(tmp_path / "flat/train/2.png", noise(8, 8))
    assert len(Degraded(tmp_path / "flat", "train", degradation=Jpeg(50))) == 1
    with pytest.raises(ValueError, match="val holds no picture"):  # not those of training
        Degraded(tmp_path / "flat", "val", degradation=Jpeg(50))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no picture"):
        Degraded(tmp_path / "empty", "train", degradation=Jpeg(50))


def test_degraded_refuses(clean: Path) -> None:
    with pytest.raises(ValueError, match="scale 1 is not that of Bicubic, 4; give scale=4"):
        Degraded(clean, "val", degradation=Bicubic(4))
    data = Degraded(clean, "train", scale=2, patch=91, degradation=Bicubic(2))
    with pytest.raises(ValueError, match=r"0\.png: its input of 90×101 .* patch of 91"):
        data[0]
    save(clean / "val/0.png", noise(3, 9))
    with pytest.raises(ValueError, match=r"0\.png is 9×3, less than one pixel at scale 4"):
        Degraded(clean, "val", scale=4, degradation=Bicubic(4))[0]

    class Halves(Degradation):
        def __call__(self, clean: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return clean[::2, ::2] / np.float32(255)

    with pytest.raises(ValueError, match=r"Halves returned float32 .* must return float32"):
        Degraded(clean, "val", degradation=Halves())[1]


@pytest.mark.parametrize(
    ("degradation", "size"), [(Jpeg(80), (64, 96)), (Bicubic(2), (128, 192))], ids=["1", "2"]
)
def test_small_pictures_are_enlarged_to_a_patch(
    tmp_path: Path, degradation: Degradation, size: tuple[int, int]
) -> None:
    scale = degradation.scale
    save(tmp_path / "train/1.png", noise(20, 30))
    save(tmp_path / "val/1.png", noise(20, 30))
    options: dict[str, Any] = {"scale": scale, "patch": 64, "degradation": degradation}
    pair = Degraded(tmp_path, "train", **options, enlarge_small=True)[0]
    assert pair["input"].shape == (3, 64, 64)
    assert pair["target"].shape == (3, 64 * scale, 64 * scale)
    assert at_least(noise(20, 30), 64 * scale).shape == (*size, 3)
    assert Degraded(tmp_path, "val", **options, enlarge_small=True)[0]["target"].shape == (
        3,
        20,
        30,
    )
    with pytest.raises(ValueError, match=r"1\.png: its input of .* patch of 64"):
        Degraded(tmp_path, "train", **options)[0]


def test_degraded_grey(clean: Path) -> None:
    pair = Degraded(clean, "val", grey=True, degradation=Jpeg(80))[0]
    assert pair["input"].shape == pair["target"].shape == (1, 203, 181)


# --- UDC


@pytest.mark.parametrize(
    "folder",
    ["Poled/{}", "POLED/{}", "train/Poled/{}", "Poled/train/{}"],
)
def test_udc_layouts(tmp_path: Path, folder: str) -> None:
    for side in ("HQ", "LQ"):
        for n in range(1, 36):
            save(tmp_path / folder.format(side) / f"{n}.png", np.full((4, 6, 3), n, np.uint8))
    split = "train" in folder
    data = UDC(tmp_path, "train", display="poled")
    assert [Path(pair["path"]).stem for pair in data] == [
        str(n) for n in range(1, 36 if split else 6)
    ]
    assert Path(data[0]["path"]).parent.name == "LQ"
    if split:
        with pytest.raises(ValueError, match="holds no LQ and HQ of poled, val"):
            UDC(tmp_path, "val", display="poled")
    else:
        for held_out in ("val", "test"):
            kept = UDC(tmp_path, held_out, display="poled")  # type: ignore[arg-type]
            assert [Path(pair["path"]).stem for pair in kept] == [str(n) for n in range(6, 36)]
    with pytest.raises(ValueError, match=r"holds no LQ and HQ of toled, train; give a folder"):
        UDC(tmp_path, "train", display="toled")


def test_udc_refuses(tmp_path: Path) -> None:
    for side in ("HQ", "LQ"):
        save(tmp_path / f"Toled/{side}/1.png", noise(4, 4))
    with pytest.raises(ValueError, match="holds 1 pairs, of which the last 30"):
        UDC(tmp_path, "val", display="toled")
    save(tmp_path / "Toled/LQ/2.png", noise(4, 4))
    with pytest.raises(ValueError, match=r"input .*2\.png has no target"):
        UDC(tmp_path, "val", display="toled")
    with pytest.raises(ValueError, match='display "oled" is unknown'):
        UDC(tmp_path, "val", display="oled")  # type: ignore[arg-type]


# --- batches


def test_batches(pairs: Path) -> None:
    data = Paired(pairs, "train", scale=2, patch=8)
    (batch,) = DataLoader(data, batch_size=3, collate_fn=collate)
    assert batch["input"].shape == (3, 3, 8, 8)
    assert batch["target"].shape == (3, 3, 16, 16)
    assert batch["region"].shape == (3, 1, 16, 16)
    assert batch["index"] == [0, 1, 2]
    assert [Path(path).name for path in batch["path"]] == ["0000x2.png", "0001x2.png", "0002x2.png"]
    assert "region" not in collate([{k: v for k, v in data[0].items() if k != "region"}])  # type: ignore[misc, list-item]


def test_batches_of_different_sizes(clean: Path) -> None:
    save(clean / "val/2.png", noise(9, 8))
    data = Degraded(clean, "val", degradation=GaussianNoise(5))
    sizes = r"inputs of sizes \(3, 203, 181\) and \(3, 9, 8\); set patch, or for whole"
    with pytest.raises(ValueError, match=sizes):
        collate([data[0], data[2]])


@pytest.mark.parametrize("open_", [Paired, Degraded, UDC])
def test_a_file_is_no_root(tmp_path: Path, open_: Callable[..., PairDataset]) -> None:
    more = {Degraded: {"degradation": Jpeg(50)}, UDC: {"display": "poled"}}.get(open_, {})  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="is not a folder; give a folder laid out as"):
        open_(save(tmp_path / "1.png", noise(4, 4)), "train", **more)
