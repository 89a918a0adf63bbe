"""PSNR and SSIM as the super-resolution literature computes them (the convention of BasicSR)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

Floats = NDArray[np.float64]
SSIM: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
"""Wang et al. 2004, in scikit-image's words."""


def luma(image: NDArray[np.uint8]) -> Floats:
    """uint8 H×W×3 RGB → H×W float64 Y of ITU-R BT.601 in [16, 235], not rounded; grey stays grey.

    A grey picture is H×W or H×W×1 and keeps its values. Read as RGB it would come out scaled by
    219/255, and its PSNR 1.32 dB higher: the published evaluation of RAT does so.
    """
    if image.ndim == 2 or image.shape[2] == 1:
        return image.reshape(image.shape[:2]).astype(np.float64)
    return image @ (np.array([65.481, 128.553, 24.966]) / 255) + 16


def psnr_y(restored: NDArray[np.uint8], truth: NDArray[np.uint8], border: int) -> float:
    """Peak signal-to-noise ratio of Y in dB, peak 255; infinite for equal pictures.

    Args:
        restored, truth: uint8 H×W×3 RGB or grey, of the same size.
        border: pixels left out on each side; the convention is the scale.

    Raises:
        ValueError: sizes that differ, or nothing left inside the border.
    """
    x, y = _pair(restored, truth, border)
    if np.array_equal(x, y):
        return float("inf")
    return float(peak_signal_noise_ratio(y, x, data_range=255.0))


def ssim_y(restored: NDArray[np.uint8], truth: NDArray[np.uint8], border: int) -> float:
    """Structural similarity of Y in [-1, 1]; arguments and errors as `psnr_y`.

    Gaussian window of 11 with σ 1.5, averaged over where it fits; scikit-image's, for torchmetrics
    averages over mirrored borders too, which adds or takes 0.0005.
    """
    x, y = _pair(restored, truth, border)
    if min(x.shape) < 11:
        raise ValueError(f"SSIM of {x.shape} pixels: its window needs 11×11 or more")
    return float(structural_similarity(x, y, data_range=255.0, **SSIM))


def psnr(restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all channels and pixels in dB; infinite for equal pictures.

    Args:
        restored, truth: uint8 H×W×C of the same shape.

    Raises:
        ValueError: shapes that differ.
    """
    _check_alike(restored, truth)
    if np.array_equal(restored, truth):
        return float("inf")
    return float(peak_signal_noise_ratio(truth, restored, data_range=255.0))


def ssim(restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Structural similarity in [-1, 1], the mean over channels; arguments and errors as `psnr`."""
    _check_alike(restored, truth)
    if min(restored.shape[:2]) < 11:
        raise ValueError(f"SSIM of {restored.shape} pixels: its window needs 11×11 or more")
    return float(structural_similarity(truth, restored, data_range=255.0, channel_axis=2, **SSIM))


def psnr_b(restored: NDArray[np.uint8], truth: NDArray[np.uint8], block: int = 8) -> float:
    """PSNR less what shows of a JPEG's blocks, in dB (Yim & Bovik, IEEE TIP 2011, eq. 6 to 9).

    To the squared error comes the blocking effect: by how much squared steps between neighbouring
    pixels are larger across the borders of blocks than elsewhere in the restored picture, weighted
    by log2(block) / log2(shorter side); nothing where they are not larger. Borders are counted
    exactly; torchmetrics and MATLAB's published code count a fraction of one where a side is no
    multiple of a block. Of a picture in colour, the mean blocking effect of its channels.

    Args, errors as `psnr`; also ValueError for a side that is not longer than a block.
    """
    _check_alike(restored, truth)
    if min(restored.shape[:2]) <= block:
        raise ValueError(f"PSNR-B of {restored.shape}: the sides must be longer than {block}")
    x = restored.astype(np.float64)
    across = [np.diff(x, axis=0) ** 2, np.diff(x, axis=1).swapaxes(0, 1) ** 2]  # side−1 × …
    borders = [step[block - 1 :: block] for step in across]
    inside = [np.delete(step, np.s_[block - 1 :: block], axis=0) for step in across]
    per_channel = [
        sum(part.reshape(-1, x.shape[2]).sum(0) for part in parts)
        / sum(part[..., 0].size for part in parts)
        for parts in (borders, inside)
    ]
    larger = np.maximum(per_channel[0] - per_channel[1], 0)
    effect = (larger * np.log2(block) / np.log2(min(x.shape[:2]))).mean()
    error = np.mean((x - truth) ** 2) + effect
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def _check_alike(restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
    if restored.shape != truth.shape:
        raise ValueError(
            f"a restored picture of {restored.shape} against one of {truth.shape};"
            " crop the true one to a multiple of the scale"
        )


def _pair(
    restored: NDArray[np.uint8], truth: NDArray[np.uint8], border: int
) -> tuple[Floats, Floats]:
    _check_alike(restored, truth)
    inside = slice(border, -border or None)
    x, y = (luma(image)[inside, inside] for image in (restored, truth))
    if not x.size:
        raise ValueError(f"nothing of {restored.shape} is left inside a border of {border}")
    return x, y
