"""The data sets, on folders made here: what they return, and what they refuse."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from data import Folder, MVTec, collate, open_dataset
from data.images import ImageError
from data.inspection import InspectionDataset, Record


def picture(path: Path, value: int = 90, width: int = 12, height: int = 10) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (value, 2 * value % 256, 7)).save(path)
    return path


def mask(path: Path, x: int, width: int = 12, height: int = 10) -> Path:
    """A mask with one defect pixel, in column x of the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("L", (width, height))
    image.putpixel((x, 0), 255)
    image.save(path)
    return path


@pytest.fixture
def mvtec(tmp_path: Path) -> Path:
    root = tmp_path / "screw"
    for index in (2, 0, 1):
        picture(root / f"train/good/{index:03d}.png", index)
    picture(root / "test/good/000.png")
    for index in (0, 3):  # names need not be consecutive
        picture(root / f"test/scratch/{index:03d}.png")
        mask(root / f"ground_truth/scratch/{index:03d}_mask.png", index)
    picture(root / "test/bent/000.jpg", width=20)
    mask(root / "ground_truth/bent/000.png", 5, width=20)
    (root / "readme.txt").write_text("not a picture")
    (root / "test/scratch/notes.txt").write_text("not a picture")
    picture(root / "test/scratch/._000.png")
    return root


# --- MVTec


def test_mvtec_train_is_sorted_and_good(mvtec: Path) -> None:
    data = MVTec(mvtec, "train", 8)
    assert [r.image.name for r in data.records] == ["000.png", "001.png", "002.png"]
    assert {r.label for r in data.records} == {0}
    sample = data[2]
    assert sample["image"].dtype == torch.float32
    assert sample["image"].shape == (3, 8, 8)
    np.testing.assert_allclose(sample["image"][:, 4, 4], [2 / 255, 4 / 255, 7 / 255])
    assert (sample["defect"], sample["label"], sample["index"]) == ("good", 0, 2)


def test_mvtec_pairs_masks_by_name_at_original_resolution(mvtec: Path) -> None:
    data = MVTec(mvtec, "test", 8)
    assert [r.defect for r in data.records] == ["bent", "good", "scratch", "scratch"]
    for record, sample in zip(data.records, map(data.__getitem__, range(4)), strict=True):
        assert sample["mask"] is not None
        assert sample["mask"].dtype == torch.uint8
        assert sample["mask"].shape == (10, 20 if record.defect == "bent" else 12)
        columns = torch.nonzero(sample["mask"][0])[:, 0].tolist()
        wanted = {"bent": [5], "good": [], "scratch": [int(record.image.stem)]}[record.defect]
        assert columns == wanted


def test_mvtec_names_what_lacks_its_other_half(mvtec: Path) -> None:
    gone = mvtec / "ground_truth/scratch/003_mask.png"
    gone.unlink()
    with pytest.raises(ValueError, match=r"scratch/003\.png has no mask"):
        MVTec(mvtec, "test", 8)
    MVTec(mvtec, "train", 8)  # training needs no masks
    (mvtec / "ground_truth/scratch/000_mask.png").unlink()
    with pytest.raises(ValueError, match=r"scratch/000\.png \(and 1 more\) has no mask"):
        MVTec(mvtec, "test", 8)
    mask(gone, 3)
    mask(mvtec / "ground_truth/scratch/000_mask.png", 0)
    mask(mvtec / "ground_truth/scratch/009_mask.png", 0)
    with pytest.raises(ValueError, match=r"009_mask\.png has no picture"):
        MVTec(mvtec, "test", 8)


def test_two_files_for_one_name(mvtec: Path) -> None:
    mask(mvtec / "ground_truth/scratch/003.png", 1)
    with pytest.raises(ValueError, match=r"003.*two masks for the name"):
        MVTec(mvtec, "test", 8)


def test_mvtec_without_pictures(mvtec: Path, tmp_path: Path) -> None:
    (tmp_path / "empty/train/good").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"train/good holds no picture"):
        MVTec(tmp_path / "empty", "train", 8)
    with pytest.raises(ValueError, match=r"empty/test holds no picture"):
        MVTec(tmp_path / "empty", "test", 8)


# --- Folder


def test_folder_of_nothing_but_good_pictures(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "c.tif"):
        picture(tmp_path / name)
    data = Folder(tmp_path, "train", 8)
    assert [r.image.name for r in data.records] == ["a.PNG", "b.jpg", "c.tif"]
    with pytest.raises(ValueError, match=r"nothing to test on.*bad/<kind>"):
        Folder(tmp_path, "test", 8)


def test_folder_with_kinds_masks_and_test_good(tmp_path: Path) -> None:
    picture(tmp_path / "good/monday/1.png")
    picture(tmp_path / "test_good/2.png")
    picture(tmp_path / "bad/scratch/1.png")
    picture(tmp_path / "bad/2.png")
    mask(tmp_path / "masks/scratch/1_mask.png", 1)
    mask(tmp_path / "masks/2.png", 2)
    assert len(Folder(tmp_path, "train", 8)) == 1
    data = Folder(tmp_path, "test", 8)
    assert [(r.defect, r.label) for r in data.records] == [("good", 0), ("bad", 1), ("scratch", 1)]
    found = [sample["mask"] for sample in map(data.__getitem__, range(3))]
    assert [int(m[0].argmax()) if m is not None and m.any() else None for m in found] == [
        None,
        2,
        1,
    ]
    (tmp_path / "masks/2.png").unlink()
    with pytest.raises(ValueError, match=r"bad/2\.png has no mask"):
        Folder(tmp_path, "test", 8)


def test_folder_without_masks_says_so_in_the_sample(tmp_path: Path) -> None:
    """Zeros would count the defect's pixels as good ones."""
    picture(tmp_path / "1.png")
    picture(tmp_path / "bad/1.png")
    assert Folder(tmp_path, "test", 8)[0]["mask"] is None


def test_folder_with_chosen_names(tmp_path: Path) -> None:
    picture(tmp_path / "ok/1.png")
    for folder in ("rust", "bent"):
        picture(tmp_path / f"{folder}/1.png")
        mask(tmp_path / f"truth/{folder}/1.png", 1)
    picture(tmp_path / "rust/deep/2.png")
    mask(tmp_path / "truth/rust/deep/2.png", 1)
    data = Folder(tmp_path, "test", 8, good="ok", bad=["rust", "bent"], masks="truth")
    assert [r.defect for r in data.records] == ["rust", "deep", "bent"]
    assert all(r.mask is not None for r in data.records)
    for wrong in ({"good": "oka"}, {"bad": ["rusty"]}, {"masks": "lies"}):
        with pytest.raises(ValueError, match="is not a folder; correct the name"):
            Folder(tmp_path, "test", 8, **{"good": "ok", "bad": ["rust", "bent"], **wrong})  # type: ignore[arg-type]


def test_folder_refuses_to_test_on_training_pictures(tmp_path: Path) -> None:
    good = picture(tmp_path / "good/1.png")
    (tmp_path / "test_good").mkdir()
    (tmp_path / "test_good/1.png").symlink_to(good)
    with pytest.raises(ValueError, match=r"test_good/1\.png is also a training picture"):
        Folder(tmp_path, "test", 8)
    with pytest.raises(ValueError, match=r"good/1\.png is also a training picture"):
        Folder(tmp_path, "test", 8, bad=["good"])


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no picture; give a folder laid out as"):
        Folder(tmp_path, "train", 8)
    picture(tmp_path / "1.png")
    (tmp_path / "bad").mkdir()
    with pytest.raises(ValueError, match=r"bad holds no picture"):
        Folder(tmp_path, "test", 8)


# --- what they share


def test_open_dataset_picks_the_layout(mvtec: Path, tmp_path: Path) -> None:
    picture(tmp_path / "plain/1.png")
    assert isinstance(open_dataset(mvtec, "test", 8), MVTec)
    assert isinstance(open_dataset(str(tmp_path / "plain"), "train", 8), Folder)


def test_open_dataset_names_both_layouts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, wrong in (("none", "does not exist"), ("empty", "holds no picture")):
        with pytest.raises(ValueError, match=rf"{name} {wrong}.*MVTec AD.*test_good") as caught:
            open_dataset(tmp_path / name, "train", 8)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is not a folder"):
        open_dataset(picture(tmp_path / "file.png"), "train", 8)


def test_wrong_split_and_size(mvtec: Path) -> None:
    with pytest.raises(ValueError, match='split "val" does not exist'):
        open_dataset(mvtec, "val", 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="size 0"):
        open_dataset(mvtec, "train", 0)


def test_batches(mvtec: Path) -> None:
    loader = DataLoader(MVTec(mvtec, "test", 8), batch_size=4, collate_fn=collate)
    (batch,) = loader
    assert batch["image"].shape == (4, 3, 8, 8)
    assert batch["label"].tolist() == [1, 0, 1, 1]
    assert batch["label"].dtype == torch.int64
    assert [tuple(m.shape) for m in batch["mask"]] == [(10, 20), (10, 12), (10, 12), (10, 12)]
    assert batch["index"] == [0, 1, 2, 3]
    assert [Path(p).name for p in batch["path"]] == ["000.jpg", "000.png", "000.png", "003.png"]


def test_transform_sees_the_resized_picture(mvtec: Path) -> None:
    def invert(*, image: np.ndarray) -> dict[str, np.ndarray]:
        assert image.shape == (8, 8, 3)
        return {"image": 255 - image}

    plain, turned = MVTec(mvtec, "train", 8)[0], MVTec(mvtec, "train", 8, invert)[0]
    torch.testing.assert_close(plain["image"], 1 - turned["image"])
    wrong = MVTec(mvtec, "train", 8, lambda image: {"image": image / 255.0})
    with pytest.raises(ValueError, match="transform returned float64"):
        wrong[0]


def test_mask_of_another_size_names_both(mvtec: Path) -> None:
    mask(mvtec / "ground_truth/bent/000.png", 5, width=13)
    with pytest.raises(ValueError, match=r"000\.png is 13×10 but its picture .*000\.jpg is 20×10"):
        MVTec(mvtec, "test", 8)[0]


def test_damaged_picture_and_broken_link_are_not_skipped(mvtec: Path) -> None:
    (mvtec / "train/good/000.png").write_bytes(b"")
    (mvtec / "train/good/003.png").symlink_to(mvtec / "gone.png")
    data = MVTec(mvtec, "train", 8)
    with pytest.raises(ImageError, match=r"000\.png: is empty"):
        data[0]
    with pytest.raises(ImageError, match="broken link"):
        data[3]


def test_records_alone_make_a_data_set(tmp_path: Path) -> None:
    data = InspectionDataset([Record(picture(tmp_path / "1.png"), 0)], 8)
    assert data[-1]["index"] == 0
    with pytest.raises(IndexError):
        data[1]


def test_codec_and_generator_do_not_wait_for_torch() -> None:
    check = "import sys, data, data.images, data.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
