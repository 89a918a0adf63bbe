"""MATLAB's bicubic, and PSNR and SSIM by the convention of BasicSR: on Set5 where it is at hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from data.degrade import bicubic
from data.images import read
from vision.metrics import luma, psnr, psnr_b, psnr_y, ssim_y

SET5 = Path(__file__).parents[2] / "shared" / "datasets" / "set5"
GOLDEN = {2: (33.673, 0.9303), 3: (30.403, 0.8689), 4: (28.429, 0.8111)}


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.skipif(not SET5.is_dir(), reason="Set5 may be measured with, and not shipped")
@pytest.mark.parametrize("scale", GOLDEN)
def test_golden_values_of_set5(scale: int) -> None:
    found = []
    for path in sorted((SET5 / "HR").glob("*.png")):
        (small,) = (SET5 / "LR_bicubic" / f"X{scale}").glob(f"{path.stem}*.png")
        truth, low = read(path).pixels, read(small).pixels
        height, width = (side // scale * scale for side in truth.shape[:2])
        truth = truth[:height, :width]
        np.testing.assert_array_equal(bicubic(truth, 1 / scale), low)
        large = bicubic(low, scale)
        found.append((psnr_y(large, truth, scale), ssim_y(large, truth, scale)))
    psnr, ssim = np.mean(found, axis=0)
    assert (round(psnr, 3), round(ssim, 4)) == GOLDEN[scale]


@pytest.mark.parametrize("scale", [0.5, 1 / 3, 0.25, 1, 2, 3, 1.5])
def test_bicubic_keeps_what_is_flat_and_turns_with_the_picture(scale: float) -> None:
    flat = np.full((13, 9, 3), 77, np.uint8)
    assert (bicubic(flat, scale) == 77).all()
    image = noise(24, 36)
    small = bicubic(image, scale)
    assert small.shape == (np.ceil(24 * scale), np.ceil(36 * scale), 3)
    # Sums in another order may round a half the other way.
    mirrored = bicubic(image[:, ::-1], scale)[:, ::-1]
    np.testing.assert_allclose(mirrored.astype(int), small, atol=1)
    np.testing.assert_array_equal(bicubic(image[..., 0], scale), small[..., 0])
    if scale == 1:
        np.testing.assert_array_equal(small, image)


def test_psnr_by_hand() -> None:
    truth = np.full((20, 20, 1), 100, np.uint8)
    assert psnr_y(truth + np.uint8(5), truth, 0) == pytest.approx(20 * np.log10(255 / 5))
    wrong_border = truth.copy()
    wrong_border[:2] = 0
    assert psnr_y(wrong_border, truth, 2) == np.inf
    assert ssim_y(truth, truth, 0) == 1


def test_grey_read_as_colour_gains() -> None:
    truth, restored = noise(30, 30, 1), noise(31, 30, 1)[:30]
    colour = psnr_y(restored.repeat(3, 2), truth.repeat(3, 2), 0)
    assert colour - psnr_y(restored, truth, 0) == pytest.approx(20 * np.log10(255 / 219), abs=1e-6)
    assert luma(np.full((1, 1, 3), 255, np.uint8))[0, 0] == pytest.approx(235)


def test_pictures_that_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="crop the true one to a multiple of the scale"):
        psnr_y(noise(20, 20), noise(20, 21), 0)
    with pytest.raises(ValueError, match=r"nothing of .* is left inside a border of 10"):
        psnr_y(noise(20, 20), noise(20, 20), 10)
    with pytest.raises(ValueError, match="needs 11×11 or more"):
        ssim_y(noise(20, 20), noise(20, 20), 5)


def test_psnr_b_by_hand() -> None:
    truth = np.full((16, 16, 1), 100, np.uint8)
    blocks = truth.copy()
    blocks[:, 8:] = 104  # a step of 4 across the only border between columns
    # 16 steps of 16 on 32 pairs across borders, none on the others.
    effect = 16 * 16 / 32 * 3 / 4
    assert psnr_b(blocks, truth) == pytest.approx(10 * np.log10(255**2 / (8 + effect)))
    elsewhere = truth.copy()
    elsewhere[:, 4:] = 104
    assert psnr_b(elsewhere, truth) == psnr(elsewhere, truth)
    assert psnr_b(blocks.repeat(3, 2), truth.repeat(3, 2)) == pytest.approx(psnr_b(blocks, truth))
    assert psnr_b(truth, truth) == np.inf
    with pytest.raises(ValueError, match="longer than 8"):
        psnr_b(truth[:8], truth[:8])


def test_a_jpeg_loses_by_its_blocks() -> None:
    y, x = np.mgrid[:96, :128]
    truth = (100 + 60 * np.sin(x / 9) * np.cos(y / 7)).astype(np.uint8)[..., None]
    coded = cv2.imencode(".jpg", truth, [cv2.IMWRITE_JPEG_QUALITY, 5])[1]
    restored = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)[..., None]
    smooth = cv2.GaussianBlur(restored, (0, 0), 1.0)[..., None]
    assert psnr_b(restored, truth) < psnr(restored, truth) - 0.2
    gap = psnr(smooth, truth) - psnr_b(smooth, truth)
    assert 0 <= gap < psnr(restored, truth) - psnr_b(restored, truth)
