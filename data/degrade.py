"""Degradations that make the input of a restoration from a clean picture."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def bicubic(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """MATLAB's `imresize(image, scale)` of uint8 H×W or H×W×C, bit for bit.

    Keys' cubic with a = −0.5, widened by 1/scale to average where the picture shrinks; edges
    mirrored, edge pixels included; rows first, then columns, rounded to uint8 after each. All
    published super-resolution figures start from pictures made like this, and OpenCV, Pillow and
    torch differ from it in kernel, edges or rounding.

    Raises:
        ValueError: another dtype, or a scale that leaves no pixel.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or not image.size:
        raise ValueError(f"bicubic: {image.dtype} {image.shape}; give uint8 H×W or H×W×C")
    if scale <= 0:
        raise ValueError(f"bicubic: scale {scale} leaves no pixel; give one above 0")
    rows = _resample(image, scale)
    return _resample(rows.swapaxes(0, 1), scale).swapaxes(0, 1)


def _resample(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    """Along the first axis."""
    side = image.shape[0]
    shrink = min(scale, 1.0)
    centre = (np.arange(math.ceil(side * scale - 1e-9)) + 0.5) / scale - 0.5
    first = np.floor(centre - 2 / shrink).astype(int)
    taps = first[:, None] + np.arange(math.ceil(4 / shrink) + 2)  # N×T positions in the input
    weights = shrink * _cubic(shrink * (centre[:, None] - taps))
    weights /= weights.sum(1, keepdims=True)
    folded = taps % (2 * side)
    mirrored = np.minimum(folded, 2 * side - 1 - folded)
    total = np.zeros((len(centre), *image.shape[1:]))
    for tap, weight in zip(mirrored.T, weights.T, strict=True):
        total += image[tap] * weight.reshape(-1, *[1] * (image.ndim - 1))
    return np.floor(total.clip(0, 255) + 0.5).astype(np.uint8)


def _cubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys (1981), a = −0.5."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _unit(pixels: NDArray[Any]) -> F32:
    return pixels.astype(np.float32) / np.float32(255)


def _checked(clean: U8) -> U8:
    if clean.dtype != np.uint8 or clean.ndim != 3 or clean.shape[2] not in (1, 3):
        raise ValueError(f"cannot degrade {clean.dtype} {clean.shape}; give uint8 H×W×1 or H×W×3")
    return clean


def _span(name: str, value: float | tuple[float, float]) -> tuple[float, float]:
    """A number as the range of that number alone."""
    low, high = value if isinstance(value, tuple | list) else (value, value)
    if not low <= high:
        raise ValueError(f"{name} {value}: a range goes from low to high; exchange the two")
    return low, high


class Degradation(ABC):
    """Makes the input of a restoration from a clean picture.

    `scale` is how many times smaller the result is. A crop that is cut with `margin` more target
    pixels on each side, from a multiple of `grid` target pixels on, and loses them again after it
    is degraded, equals the same crop of the degraded whole (noise apart).
    """

    scale: int = 1
    margin: int = 0
    grid: int = 1

    @abstractmethod
    def __call__(self, clean: U8, rng: Generator) -> F32:
        """uint8 H×W×C, C 1 or 3 (RGB), sides multiples of `scale` → float32 h×w×C, white 1.

        What is random depends on `rng` alone. ValueError for another array.
        """


class Bicubic(Degradation):
    """`scale` times smaller by MATLAB's bicubic: see `bicubic`."""

    def __init__(self, scale: int) -> None:
        if scale < 2:
            raise ValueError(f"Bicubic: scale {scale} makes nothing smaller; give 2, 3 or 4")
        self.scale, self.margin = scale, 2 * scale

    def __call__(self, clean: U8, rng: Generator) -> F32:
        return _unit(bicubic(_checked(clean), 1 / self.scale))


class GaussianNoise(Degradation):
    """White noise, neither clipped nor rounded, as published denoising figures have it.

    `sigma` is in 8-bit levels; of a range (low, high) each picture draws its own.
    """

    def __init__(self, sigma: float | tuple[float, float]) -> None:
        self.sigma = _span("GaussianNoise: sigma", sigma)
        if not 0 <= self.sigma[0] <= self.sigma[1] < math.inf:
            raise ValueError(f"GaussianNoise: sigma {sigma}; give 8-bit levels from 0, say 25")

    def __call__(self, clean: U8, rng: Generator) -> F32:
        sigma = np.float32(rng.uniform(*self.sigma) / 255)
        return _unit(_checked(clean)) + sigma * rng.standard_normal(clean.shape, np.float32)


class Jpeg(Degradation):
    """JPEG as OpenCV writes it, `quality` 1 to 100; of a range (low, high) each picture draws."""

    # Colour is kept in blocks of 16 pixels, and decoding looks one colour pixel further.
    margin, grid = 16, 16

    def __init__(self, quality: int | tuple[int, int]) -> None:
        self.quality = _span("Jpeg: quality", quality)
        if self.quality[0] < 1 or self.quality[1] > 100 or any(q % 1 for q in self.quality):
            raise ValueError(f"Jpeg: quality {quality}; give whole numbers from 1 to 100, say 40")

    def __call__(self, clean: U8, rng: Generator) -> F32:
        quality = int(rng.integers(int(self.quality[0]), int(self.quality[1]) + 1))
        bgr = np.ascontiguousarray(_checked(clean)[..., ::-1])
        done, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        decoded = cv2.imdecode(code, cv2.IMREAD_UNCHANGED) if done else None
        if decoded is None:
            raise ValueError(f"Jpeg: cannot hold {clean.shape}; give sides under 65500 pixels")
        return _unit(decoded.reshape(clean.shape)[..., ::-1])


class Chain(Degradation):
    """One degradation after the other; between two the picture is clipped and rounded to uint8."""

    def __init__(self, steps: Sequence[Degradation]) -> None:
        if not steps:
            raise ValueError("Chain: nothing to do; give one degradation or more")
        self.steps = tuple(steps)
        for step in steps:
            self.margin += step.margin * self.scale
            self.grid = math.lcm(self.grid, step.grid * self.scale)
            self.scale *= step.scale

    def __call__(self, clean: U8, rng: Generator) -> F32:
        for step in self.steps[:-1]:
            clean = np.rint(step(clean, rng).clip(0, 1) * 255).astype(np.uint8)
        return self.steps[-1](clean, rng)


# --- a camera under a display

Display = Literal["poled", "toled"]

_CELL = 100  # samples a side of one period of a display
_ORDERS = np.arange(-12, 13)  # of diffraction; those further out hold 5% of the light
_BANDS = ((580.0, 640.0), (510.0, 570.0), (435.0, 495.0))  # nm that R, G and B see; ours
_SPACING_AT = 540.0  # nm


@dataclass(frozen=True)
class _Panel:
    transmission: tuple[float, float, float]
    gain: float


# The means 20% and 2.9% were measured by Zhou et al., "Image Restoration for Under-Display
# Camera" (CVPR 2021, arXiv 2003.04857). How the 2.9% divide into R, G and B, and the gains, are
# ours, set so that means and tint come near real captures.
_PANELS = {
    "poled": _Panel((0.036, 0.035, 0.016), 3.0),  # its film of polyimide swallows blue
    "toled": _Panel((0.20, 0.20, 0.20), 2.0),
}


class UnderDisplay(Degradation):
    """What a camera behind a switched-off OLED display photographs: dark, blurred and noisy.

    In linear light the picture is dimmed per channel, blurred by the diffraction at the openings
    of the display, caught with shot and read noise, made brighter by the gain, clipped, encoded
    as sRGB and rounded. Defaults without a source are ours.

    Args:
        display: `toled` is open in stripes, which smears along rows; `poled` has small openings
            between the subpixels of a PenTile pattern, which veils the picture all around.
        spacing: pixels of the picture between two diffraction orders of green light: wavelength ×
            focal length / (period of the display × pixel of the camera). The one figure of the
            geometry that shows in the picture; 3 blurs about as much as real captures of
            2048×1024.
        spot: deviation in pixels of the blur of the lens itself.
        transmission: share of the light that passes, of R, G and B; None takes the display's.
        gain: of the camera; None takes 2 for `toled` and 3 for `poled`.
        electrons: that white fills a pixel with where no display is in the way. 20,000 gives
            about the noise of real captures; `inf` (in YAML `.inf`) takes a picture without noise.
        read_noise: deviation in electrons.
        bits: depth of the file that the camera writes.

    `psf` is float32 3×K×K, for each of R, G and B the light around a bright point, of sum 1.
    """

    def __init__(
        self,
        display: Display = "poled",
        spacing: float = 3.0,
        spot: float = 1.0,
        transmission: tuple[float, float, float] | None = None,
        gain: float | None = None,
        electrons: float = 20_000.0,
        read_noise: float = 5.0,
        bits: int = 8,
    ) -> None:
        if display not in _PANELS:
            raise ValueError(f'UnderDisplay: display "{display}" is unknown; give poled or toled')
        panel = _PANELS[display]
        self.display = display
        self.transmission = panel.transmission if transmission is None else tuple(transmission)
        self.gain = panel.gain if gain is None else gain
        self.electrons, self.read_noise, self.bits = electrons, read_noise, bits
        if len(self.transmission) != 3 or not all(0 < t <= 1 for t in self.transmission):
            raise ValueError(f"UnderDisplay: transmission {transmission}; give three in (0, 1]")
        for name, value, good, wanted in (
            ("spacing", spacing, 0 <= spacing <= 20, "0 to 20 pixels"),
            ("spot", spot, 0.3 <= spot <= 20, "0.3 to 20 pixels"),
            ("gain", self.gain, 0 < self.gain < math.inf, "a number above 0"),
            ("electrons", electrons, electrons > 0, "a number above 0"),
            ("read_noise", read_noise, 0 <= read_noise < math.inf, "0 or more electrons"),
            ("bits", bits, bits in range(1, 17), "1 to 16"),
        ):
            if not good:
                raise ValueError(f"UnderDisplay: {name} {value}; give {wanted}")
        self.psf = _psf(_openings(display), spacing, spot)
        self.margin = self.psf.shape[-1] // 2

    def __call__(self, clean: U8, rng: Generator) -> F32:
        if _checked(clean).shape[2] != 3:
            raise ValueError("UnderDisplay: a grey picture has no colours to dim; leave grey off")
        light = _LINEAR[clean]
        seen = [
            cv2.filter2D(light[..., c], -1, self.psf[c], borderType=cv2.BORDER_REFLECT)
            for c in range(3)
        ]
        signal = np.stack(seen, 2).clip(0) * np.asarray(self.transmission, np.float32)
        if self.electrons < math.inf:
            shots = rng.poisson(signal * self.electrons)
            signal = (shots + rng.normal(0, self.read_noise, shots.shape)) / self.electrons
        levels = 2**self.bits - 1
        encoded = _srgb((self.gain * signal).clip(0, 1))
        return (np.rint(encoded * levels) / levels).astype(np.float32)


def _openings(display: Display) -> NDArray[np.bool_]:
    """One period of a display, _CELL×_CELL, true where light passes."""
    centre = (np.arange(_CELL) + 0.5) / _CELL
    y, x = np.meshgrid(centre, centre, indexing="ij")
    if display == "toled":
        return x < 0.2  # the share of the light that passes
    # PenTile: large diamonds, red and blue, on the corners and in the middle; small green ones
    # between them; wires along all. Light passes by what they leave open, 26% of it.
    wires = np.minimum(np.abs((x + 0.25) % 0.5 - 0.25), np.abs((y + 0.25) % 0.5 - 0.25)) < 0.10
    large = np.minimum(_diamond(x, y, 0, 0), _diamond(x, y, 0.5, 0.5)) < 0.36
    green = np.minimum(_diamond(x, y, 0.5, 0), _diamond(x, y, 0, 0.5)) < 0.2
    return ~(wires | large | green)


def _diamond(x: F64, y: F64, middle_x: float, middle_y: float) -> F64:
    """Distance |x|+|y| from a place, in a cell that repeats."""
    across, down = np.abs(x - middle_x), np.abs(y - middle_y)
    return np.minimum(across, 1 - across) + np.minimum(down, 1 - down)


def _psf(openings: NDArray[np.bool_], spacing: float, spot: float) -> F32:
    """Light around a bright point, for each of R, G and B: float32 3×K×K of sum 1.

    Far behind a grating light goes in discrete directions, the orders. Their power is that of the
    Fourier series of the openings, their distance grows with the wavelength, so that the width of
    a colour's band smears the outer ones.
    """
    power = np.abs(np.fft.fft2(openings)[np.ix_(_ORDERS, _ORDERS)]) ** 2
    longest = _BANDS[0][1] / _SPACING_AT
    radius = math.ceil(_ORDERS[-1] * spacing * longest + 3 * spot)
    pixels = np.arange(-radius, radius + 1)
    psf = np.zeros((3, len(pixels), len(pixels)))
    for channel, (shortest, longest) in enumerate(_BANDS):
        for wavelength in np.linspace(shortest, longest, 7):
            places = _ORDERS * spacing * wavelength / _SPACING_AT
            spots = np.exp(-(((pixels - places[:, None]) / spot) ** 2) / 2)  # orders × pixels
            psf[channel] += spots.T @ power @ spots
    return (psf / psf.sum((1, 2), keepdims=True)).astype(np.float32)


def _srgb(light: NDArray[Any]) -> NDArray[Any]:
    """Linear light to sRGB (IEC 61966-2-1), both [0, 1]."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


_CODES = np.arange(256) / 255
_LINEAR = np.where(_CODES <= 0.04045, _CODES / 12.92, ((_CODES + 0.055) / 1.055) ** 2.4).astype(
    np.float32
)
