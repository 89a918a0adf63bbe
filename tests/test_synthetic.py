"""Painted defects and generated parts: exact masks, the same seed the same picture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import MVTec, defects
from data.defects import KINDS, LARGEST, SMALLEST, VISIBLE, paint
from data.images import read_mask, read_rgb
from data.synthetic import PARTS, main, make_bad, make_good, write_mvtec


def canvas(height: int, width: int, look: str, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if look == "noise":
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if look == "ramp":
        ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, 3))
        return ramp.astype(np.uint8)
    return np.full((height, width, 3), int(look), np.uint8)


# --- painted defects


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from((*KINDS, None)),
    look=st.sampled_from(["0", "30", "128", "255", "noise", "ramp"]),
    height=st.integers(64, 200),
    width=st.integers(64, 200),
    seed=st.integers(0, 2**32),
)
def test_mask_is_exactly_what_changed(
    kind: str | None, look: str, height: int, width: int, seed: int
) -> None:
    good = canvas(height, width, look)
    before = good.copy()
    bad, mask = paint(good, np.random.default_rng(seed), kind)
    np.testing.assert_array_equal(good, before)
    assert bad.dtype == mask.dtype == np.uint8
    assert (bad.shape, mask.shape) == (good.shape, good.shape[:2])
    visible = np.abs(bad.astype(int) - good).max(axis=2) >= VISIBLE
    np.testing.assert_array_equal(mask, visible)
    assert SMALLEST <= mask.mean() <= LARGEST
    again = paint(good, np.random.default_rng(seed), kind)
    np.testing.assert_array_equal(bad, again[0])
    np.testing.assert_array_equal(mask, again[1])


@pytest.mark.parametrize("kind", KINDS)
def test_region_holds_the_centre(kind: str) -> None:
    region = np.zeros((128, 128), bool)
    region[60:68, 90:98] = True
    for seed in range(8):
        _, mask = paint(canvas(128, 128, "noise"), np.random.default_rng(seed), kind, region)
        rows, columns = np.nonzero(mask)
        assert abs(rows.mean() - 64) < 20
        assert abs(columns.mean() - 94) < 20


@pytest.mark.parametrize("kind", KINDS)
def test_grey_pictures_stay_grey(kind: str) -> None:
    bad, _ = paint(canvas(96, 96, "ramp"), np.random.default_rng(1), kind)
    assert (bad == bad[..., :1]).all()


def test_every_kind_is_drawn_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[str] = set()

    def noted(kind: str, painter: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *window: drawn.add(kind) or painter(*window)

    for kind, painter in list(defects._PAINTERS.items()):
        monkeypatch.setitem(defects._PAINTERS, kind, noted(kind, painter))
    good = canvas(64, 64, "128")
    pictures = {paint(good, np.random.default_rng(s))[0].tobytes() for s in range(40)}
    assert len(pictures) == 40
    assert drawn == set(KINDS)


def test_paint_refuses() -> None:
    rng, good = np.random.default_rng(0), canvas(64, 64, "128")
    with pytest.raises(ValueError, match='kind "rust" does not exist; choose from scratch'):
        paint(good, rng, "rust")
    with pytest.raises(ValueError, match="63×80 is too small"):
        paint(canvas(80, 63, "128"), rng)
    with pytest.raises(ValueError, match="uint8 height×width×3"):
        paint(good[..., 0], rng)
    for region in (np.zeros((64, 64), bool), np.ones((64, 63), bool)):
        with pytest.raises(ValueError, match="region"):
            paint(good, rng, region=region)


# --- parts


@pytest.mark.parametrize("part", PARTS)
def test_good_parts_vary_a_little(part: str) -> None:
    pictures = [make_good(part, 0, "train", i, 96).astype(int) for i in range(3)]
    assert pictures[0].shape == (96, 96, 3)
    assert 2 < np.abs(pictures[0] - pictures[1]).mean() < 60
    other_seed, other_role = make_good(part, 1, "train", 0, 96), make_good(part, 0, "good", 0, 96)
    assert not np.array_equal(pictures[0], other_seed)
    assert not np.array_equal(pictures[0], other_role)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", [64, 160])
def test_bad_parts_are_visible_and_kinds_take_turns(part: str, size: int) -> None:
    kinds = PARTS[part].shaped + PARTS[part].painted
    for index in range(2 * len(kinds)):
        picture, mask, kind = make_bad(part, 0, index, size)
        assert kind == kinds[index % len(kinds)]
        assert picture.shape == (size, size, 3)
        assert set(np.unique(mask)) == {0, 1}
        assert SMALLEST <= mask.mean() < 0.06


@pytest.mark.parametrize("part", PARTS)
def test_outside_its_mask_a_bad_part_is_the_good_one(part: str) -> None:
    for index in range(len(PARTS[part].shaped + PARTS[part].painted)):
        rng = np.random.default_rng([0, 2, index])  # the stream make_bad draws from
        good, _ = PARTS[part].draw(rng).render(128)
        bad, mask, _ = make_bad(part, 0, index, 128)
        difference = np.abs(bad.astype(int) - good).max(axis=2)
        assert difference[mask == 0].max() < VISIBLE
        assert (difference[mask == 1] >= VISIBLE).mean() > 0.5


def test_written_set_is_real_mvtec_layout(tmp_path: Path) -> None:
    root = write_mvtec(tmp_path / "set", train=3, good=2, bad=9, size=64)
    assert [r.image.name for r in MVTec(root, "train", 64).records] == [
        "000.png",
        "001.png",
        "002.png",
    ]
    test = MVTec(root, "test", 64)
    assert len(test) == 11
    assert sum(r.defect == "missing_hole" for r in test.records) == 2
    for record in test.records:
        assert record.label == 0 or (record.mask is not None and read_mask(record.mask).any())
    np.testing.assert_array_equal(
        read_rgb(root / "train/good/001.png"), make_good("flange", 0, "train", 1, 64)
    )
    assert sorted(p.name for p in root.iterdir()) == ["ground_truth", "test", "train"]


def test_same_seed_same_pixels_whatever_the_counts(tmp_path: Path) -> None:
    few = write_mvtec(tmp_path / "few", part="weave", seed=3, train=2, good=1, bad=2, size=64)
    many = write_mvtec(tmp_path / "many", part="weave", seed=3, train=4, good=2, bad=7, size=64)
    files = [p.relative_to(few) for p in few.rglob("*.png")]
    assert len(files) == 7
    for file in files:
        assert (few / file).read_bytes() == (many / file).read_bytes()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ValueError, match="is not empty; name a new folder"):
        write_mvtec(tmp_path)
    with pytest.raises(ValueError, match=r"mine\.txt is a file"):
        write_mvtec(tmp_path / "mine.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_broken_off_leaves_the_folder_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("data.synthetic.write_png", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_mvtec(tmp_path / "set", train=1, good=0, bad=0, size=64)
    assert list((tmp_path / "set").iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"part": "gear"}, 'part "gear" does not exist; choose from flange, weave'),
        ({"size": 20}, "size 20 is too small"),
        ({"train": 0}, "train 0 is too small; give 1 or more"),
        ({"bad": -1}, "bad -1 is too small; give 0 or more"),
        ({"seed": -1}, "seed -1 is too small"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_mvtec(tmp_path / "set", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "set").exists()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = [str(tmp_path / "set"), "--part=weave", "--train=1", "--good=1", "--bad=1", "--size=64"]
    assert main(call) == 0
    assert capsys.readouterr().out.strip() == call[0]
    assert main(call) == 2
    assert "is not empty" in capsys.readouterr().err
