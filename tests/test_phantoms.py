"""Slices of nobody: as the seed says, of tissue's numbers, with a scanner's noise."""

from pathlib import Path

import numpy as np
import pytest

from data import phantoms
from data.images import read
from data.paired import Paired

SIDE = 64


def slice_of(index: int) -> np.ndarray:
    return phantoms.phantom(np.random.default_rng([0, index]), SIDE)


def test_a_slice_is_tissue_within_air() -> None:
    drawn = slice_of(0)
    assert drawn.dtype == np.float32
    assert drawn.shape == (SIDE, SIDE)
    assert (drawn[[0, -1]] == -1000).all()
    body = drawn > -500
    assert 0.2 < body.mean() < 0.7
    assert 0.02 < (drawn > 200).mean() < 0.2  # bones, and what contrast fills
    assert not np.array_equal(drawn, slice_of(1))


def test_fewer_photons_make_more_noise_that_is_off_to_neither_side() -> None:
    drawn = slice_of(0)
    middle = (slice(20, 44),) * 2

    def error(photons: float) -> np.ndarray:
        return (phantoms.low_dose(drawn, np.random.default_rng(0), photons) - drawn)[middle]

    few, many = error(2.5e5), error(1e6)
    assert few.std() == pytest.approx(2 * many.std(), rel=0.2)  # Poisson
    assert abs(few.mean()) < few.std() / 4


def test_the_set_is_read_as_pairs_and_a_second_call_goes_on(tmp_path: Path) -> None:
    call = [str(tmp_path), "--train", "2", "--val", "1", "--test", "1", "--size", "64"]
    assert phantoms.main(call) == 0
    pair = Paired(tmp_path, "test", grey=True)[0]
    assert pair["input"].shape == pair["target"].shape == (1, 64, 64)
    lost = tmp_path / "train/target/0001.png"
    before = read(lost).pixels
    lost.unlink()
    assert phantoms.main(call) == 0
    assert np.array_equal(read(lost).pixels, before)
    other = tmp_path / "other"
    phantoms.write(other, {"train": 1}, seed=1, size=64)
    own, others = (read(root / "train/target/0000.png").pixels for root in (tmp_path, other))
    assert not np.array_equal(own, others)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--size", "16"], "64 or more"),
        (["--seed", "-1"], "0 or more"),
        (["--val", "-1"], "val -1: give 0 or more"),
        (["--seed", "2"], "name another folder"),
    ],
)
def test_a_wrong_call_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str], words: str
) -> None:
    phantoms.write(tmp_path / "out", {}, seed=1)
    assert phantoms.main([str(tmp_path / "out"), *option]) == 2
    assert words in capsys.readouterr().err
