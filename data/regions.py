"""Region maps: H×W integer labels of what belongs together, for nets that attend within regions."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images import MAX_PIXELS, ImageError, read, show

I32 = NDArray[np.int32]
LARGEST = 1024
SIDE, FEWEST = 64, 8
"""Our choice: a superpixel for every 64×64 pixels, at least eight. A picture of 512×512 has 64, in
the range of what SAM finds, and the cost of attention grows with the area, not with its square."""


def superpixels(rgb: NDArray[np.uint8], count: int | None = None) -> I32:
    """uint8 H×W×3 → H×W labels from 0 of about `count` superpixels (SLIC, by scikit-image).

    By default as many as `SIDE` and `FEWEST` say. Found at no more than `LARGEST` pixels a side,
    since finding them takes 120 bytes a pixel.

    Compact regions of about the same size: noise does not tear them apart, and the cost of
    attention stays bounded whatever the picture shows.
    """
    from skimage.segmentation import slic

    count = count or max(FEWEST, rgb.shape[0] * rgb.shape[1] // SIDE**2)
    small = at_most(rgb, LARGEST)
    labels = slic(small, count, compactness=20, sigma=2, start_label=0).astype(np.int32)
    return resized(labels, rgb.shape)


def at_most(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """H×W×3, made smaller if a side is longer."""
    height, width = rgb.shape[:2]
    shrink = side / max(height, width)
    if shrink >= 1:
        return rgb
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), np.uint8)


def resized(labels: I32, shape: tuple[int, ...]) -> I32:
    """A region map of another size; every label stays one of those there are."""
    size = (shape[1], shape[0])
    if labels.shape == shape[:2]:
        return labels
    return np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), np.int32)


# Codes of NIfTI-1. Published maps are float64 that holds whole numbers.
_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


def read_regions(path: Path, max_pixels: int = MAX_PIXELS) -> I32:
    """Read a region map: int32 H×W, from a grey PNG of 8 or 16 bits or a NIfTI-1 `.nii.gz`.

    The first axis of a NIfTI file runs along a row of the picture, as SimpleITK writes pictures.
    ImageError if the file is damaged, has colours, axes beyond two, or labels that are not whole.
    """
    if path.name.endswith(".nii.gz"):
        return _read_nifti(path, max_pixels)
    labels = read(path, max_pixels).pixels
    if labels.shape[2] != 1 or labels.dtype.kind != "u" or path.suffix.lower() != ".png":
        raise ImageError(
            f"{show(path)}: is not a map of labels; save it as grey PNG of 8 or 16 bits, or .nii.gz"
        )
    return labels[..., 0].astype(np.int32)


def _read_nifti(path: Path, max_pixels: int) -> I32:
    try:
        with gzip.open(path) as file:
            dtype, height, width, start = _nifti_header(file.read(348), path, max_pixels)
            file.read(start - 348)
            data = file.read(dtype.itemsize * height * width)  # bounded, however much is packed
        labels = np.frombuffer(data, dtype).reshape(height, width)
    except ImageError:
        raise
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise ImageError(
            f"{show(path)}: cannot be read as NIfTI-1 ({error}); write it again"
        ) from error
    if not (np.abs(labels) < 2**31).all() or (labels % 1).any():
        raise ImageError(f"{show(path)}: holds labels that are no whole numbers; write integers")
    return labels.astype(np.int32)


def _nifti_header(header: bytes, path: Path, max_pixels: int) -> tuple[np.dtype, int, int, int]:
    """Type of a label, height, width and the byte where the labels start."""
    order = "<" if header[:4] == struct.pack("<i", 348) else ">"
    axes, width, height, *more = struct.unpack_from(f"{order}8h", header, 40)
    (code,) = struct.unpack_from(f"{order}h", header, 70)
    start, slope, offset = struct.unpack_from(f"{order}3f", header, 108)
    if header[344:347] != b"n+1" or not 352 <= start < 2**20:
        raise ValueError("no header of a single file")
    if (
        code not in _TYPES
        or (slope not in (0, 1) and not math.isnan(slope))
        or not (offset == 0 or math.isnan(offset))
    ):
        raise ImageError(f"{show(path)}: holds scaled or odd numbers; write labels as int16")
    if axes < 2 or min(width, height) < 1 or any(side > 1 for side in more[: axes - 2]):
        raise ImageError(f"{show(path)}: is no single slice; write one map of two axes per picture")
    if width * height > max_pixels:
        raise ImageError(f"{show(path)}: {width}×{height} is more than {max_pixels:,}; cut it up")
    return np.dtype(order + _TYPES[code]), height, width, int(start)
