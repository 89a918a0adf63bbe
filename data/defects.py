"""Synthetic defects painted onto any picture, with exact masks.

The kinds and their proportions are ours: they cover the ways a real part goes wrong (a line, a
spot of another colour, a changed shape, something moved, something gone, another texture), so
that a score tuned on them is not tuned on one look. Each is painted in a window around its place,
so that the cost depends on the size of the defect and not on that of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

VISIBLE = 5  # grey levels, of 255, in any channel: less is lost in the noise of a camera
SMALLEST, LARGEST = 0.0005, 0.04  # of the picture's area
MIN_SIDE = 64  # below, LARGEST is fewer pixels than the softest defect needs
_TRIES = 60

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
# A painter gets a float32 window h×w×3 in [0, 255], the radius in pixels it may fill from the
# window's centre, the whole picture and the generator; it returns the changed window.
Painter = Callable[[F32, float, U8, Generator], F32]


def paint(
    rgb: U8,
    rng: Generator,
    kind: str | None = None,
    region: NDArray[np.bool_] | None = None,
) -> tuple[U8, U8]:
    """Paint one defect; returns the new picture uint8 H×W×3 and its mask uint8 H×W in {0, 1}.

    `kind` is one of KINDS, by default drawn by `rng`. `region`, bool H×W, limits where the centre
    lies, say to the part in front of its background; near the border of the picture the defect is
    moved inwards as far as it needs to keep its size. The mask is 1 exactly where some channel
    changed by VISIBLE levels or more; specks are undone in the picture, so that no mask holds any
    (see `settle`). It covers between SMALLEST and LARGEST of the picture. Grey pictures stay
    grey. The input is not changed; the result depends on `rng` alone. ValueError for an unknown
    kind, a side under MIN_SIDE, or a region that is empty or of another size.
    """
    height, width = _check(rgb, kind, region)
    places = None if region is None else np.flatnonzero(region)
    for _ in range(_TRIES):
        chosen = KINDS[rng.integers(len(KINDS))] if kind is None else kind
        where = int(rng.integers(height * width) if places is None else rng.choice(places))
        spread = np.exp(rng.uniform(np.log(0.0022), np.log(0.022)))
        radius = min(float(np.sqrt(spread * height * width / np.pi)), min(height, width) / 5)
        window = _window(where // width, where % width, _REACH[chosen] * radius, height, width)
        old = rgb[window]
        new = _PAINTERS[chosen](old.astype(np.float32), radius, rgb, rng)
        changed, mask = settle(old, np.rint(new.clip(0, 255)).astype(np.uint8))
        if SMALLEST <= np.count_nonzero(mask) / (height * width) <= LARGEST:
            picture, full = rgb.copy(), np.zeros((height, width), np.uint8)
            picture[window], full[window] = changed, mask
            return picture, full
    raise AssertionError(f"no visible {kind or 'defect'} in {_TRIES} tries")


def settle(good: U8, bad: U8) -> tuple[U8, U8]:
    """The visible difference of two pictures H×W×3: the bad one without specks, and its mask.

    AU-PRO counts every island of a mask alike, so one of a few pixels would weigh as much as a
    whole scratch: islands under 6 pixels or 8% of the largest are put back to the good picture.
    """
    mask = (cv2.absdiff(good, bad).max(axis=2) >= VISIBLE).astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    specks = stats[:, cv2.CC_STAT_AREA] < max(6, 0.08 * stats[1:, cv2.CC_STAT_AREA].max(initial=0))
    specks[0] = False
    if count > 1 and specks.any():
        gone = specks[labels]
        bad = np.where(gone[..., None], good, bad)
        mask[gone] = 0
    return bad, mask


def _check(rgb: U8, kind: str | None, region: NDArray[np.bool_] | None) -> tuple[int, int]:
    if kind is not None and kind not in KINDS:
        raise ValueError(f'defect kind "{kind}" does not exist; choose from {", ".join(KINDS)}')
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"cannot paint on {rgb.dtype} {rgb.shape}; give uint8 height×width×3")
    height, width = rgb.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(
            f"{width}×{height} is too small to paint on; {MIN_SIDE} pixels a side at least"
        )
    if region is not None and (region.shape != (height, width) or not region.any()):
        raise ValueError(
            f"the region {region.shape} is empty or not the picture's {(height, width)}; give a "
            "bool array of its size that is true somewhere"
        )
    return height, width


def _window(row: int, column: int, reach: float, height: int, width: int) -> tuple[slice, slice]:
    """A square around the place, moved inwards at the border so that it keeps its size."""
    side = max(9, round(2 * reach))
    rows, columns = min(side, height), min(side, width)
    top = int(np.clip(row - rows // 2, 0, height - rows))
    left = int(np.clip(column - columns // 2, 0, width - columns))
    return slice(top, top + rows), slice(left, left + columns)


# --- shapes


def _blob(shape: tuple[int, ...], radius: float, rng: Generator, soft: float = 1.0) -> F32:
    """A lobed, turned ellipse around the centre: 1 inside, 0 outside, edge `soft` pixels wide."""
    height, width = shape[:2]
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    lobes = 1 + sum(
        rng.uniform(-0.3, 0.3) / k * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
        for k in range(2, 6)
    )
    squeeze, turn = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    x, y = radius * lobes * np.cos(angle), radius * lobes * squeeze * np.sin(angle)
    outline = np.stack(
        [
            width / 2 + x * np.cos(turn) - y * np.sin(turn),
            height / 2 + x * np.sin(turn) + y * np.cos(turn),
        ],
        axis=1,
    )
    canvas = np.zeros((height, width), np.uint8)
    cv2.fillPoly(canvas, [np.rint(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return _f32(cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), max(soft, 0.4)))


def _texture(shape: tuple[int, ...], grain: float, rng: Generator) -> F32:
    """Smooth noise of several octaves (in the manner of Perlin), mean 0, deviation 1."""
    height, width = shape[:2]
    total = np.zeros((height, width), np.float32)
    for octave in range(3):
        cell = max(1.0, grain / 2**octave)
        grid = rng.standard_normal((int(height / cell) + 3, int(width / cell) + 3))
        noise = cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        total += _f32(noise) / 2**octave
    return _f32((total - total.mean()) / max(float(total.std()), 1e-6))


def _walk(
    start: NDArray[Any], heading: float, length: float, bend: float, jag: float, rng: Generator
) -> F32:
    """A line of 17 points (x, y) in pixels, which bends slowly and is jagged at every step."""
    turns = heading + np.cumsum(rng.normal(0, bend, 16)) + rng.normal(0, jag, 16)
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / 16
    return _f32(np.concatenate([[start], start + np.cumsum(steps, axis=0)]))


def _line(canvas: U8, points: F32, thickness: int) -> None:
    cv2.polylines(
        canvas, [np.rint(points * 16).astype(np.int32)], False, 255, thickness, cv2.LINE_AA, 4
    )


def _contrast(level: float, rng: Generator, low: float, high: float) -> float:
    """A change of brightness with room for it: dark pictures get lighter, light ones darker."""
    amount = rng.uniform(low, high)
    dark, light = level - amount < 0, level + amount > 255
    sign = 1 if dark else -1 if light else rng.choice([-1, 1])
    return float(sign * amount)


def _level(window: F32) -> float:
    """The brightness where the defect lies: the middle half of the window."""
    height, width = window.shape[:2]
    return float(window[height // 4 : -(height // 4), width // 4 : -(width // 4)].mean())


def _is_grey(window: F32) -> bool:
    return bool(
        (window[..., 0] == window[..., 1]).all() and (window[..., 1] == window[..., 2]).all()
    )


# --- kinds


def _scratch(window: F32, radius: float, rgb: U8, rng: Generator) -> F32:
    """A thin, bent line that fades at its ends, with a darker lip along one side."""
    heading, length = rng.uniform(0, 2 * np.pi), radius * rng.uniform(2.5, 4.5)
    centre = np.array(window.shape[1::-1]) / 2
    line = _walk(np.zeros(2), heading, length, 0.09, 0, rng)
    line = _f32(line - line[len(line) // 2] + centre)
    thick = max(1, round(np.sqrt(rgb.shape[0] * rgb.shape[1]) / 256 * rng.uniform(0.8, 1.8)))
    canvas, lip = np.zeros(window.shape[:2], np.uint8), np.zeros(window.shape[:2], np.uint8)
    _line(canvas, line, thick)
    _line(lip, _f32(line + 0.8 * thick * np.array([-np.sin(heading), np.cos(heading)])), thick)
    rows, columns = np.indices(window.shape[:2], np.float32)
    along = np.hypot(columns - centre[0], rows - centre[1]) / (length / 2)
    fade = np.clip(1.6 * (1.1 - along), 0.25, 1)
    change = _contrast(_level(window), rng, 45, 100)
    alpha = (canvas / 255 - 0.35 * (lip / 255) * (1 - canvas / 255)) * fade
    return window + _f32(alpha)[..., None] * change


def _stain(window: F32, radius: float, rgb: U8, rng: Generator) -> F32:
    """A soft, cloudy spot: darker, lighter or of another hue."""
    alpha = _blob(window.shape, radius, rng, soft=radius * rng.uniform(0.08, 0.3))
    alpha *= 1 + 0.25 * np.clip(_texture(window.shape, radius, rng), -2, 1.5)
    change = _contrast(_level(window), rng, 25, 65)
    colour = np.full(3, change if change < 0 else 0.6 * change)  # brighter soon looks like a lamp
    if not _is_grey(window):  # colour on a grey camera would give the defect away
        colour += rng.uniform(-18, 18, 3)
    return window + _f32(alpha)[..., None] * colour.astype(np.float32)


def _dent(window: F32, radius: float, rgb: U8, rng: Generator) -> F32:
    """A shallow hollow or bump: light on one flank, shade on the other, the surface bent."""
    height = cv2.GaussianBlur(_blob(window.shape, 0.8 * radius, rng), (0, 0), max(0.3 * radius, 1))
    slope_x, slope_y = cv2.Sobel(height, -1, 1, 0) / 8, cv2.Sobel(height, -1, 0, 1) / 8
    peak = max(float(np.hypot(slope_x, slope_y).max()), 1e-6)
    slope_x, slope_y = slope_x / peak, slope_y / peak
    rows, columns = np.indices(window.shape[:2], np.float32)
    bend = 0.25 * radius
    bent = cv2.remap(
        window,
        columns + bend * slope_x,
        rows + bend * slope_y,
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    light = rng.uniform(0, 2 * np.pi)
    shade = (np.cos(light) * slope_x + np.sin(light) * slope_y) * rng.uniform(40, 75)
    return _f32(bent) + _f32(shade)[..., None]


def _crack(window: F32, radius: float, rgb: U8, rng: Generator) -> F32:
    """A jagged line with branches, thinner towards their ends, darker than what it runs through."""
    canvas = np.zeros(window.shape[:2], np.uint8)
    heading, length = rng.uniform(0, 2 * np.pi), radius * rng.uniform(2.8, 4.6)
    scale = np.sqrt(rgb.shape[0] * rgb.shape[1]) / 256
    trunk = _walk(np.zeros(2), heading, length, 0.1, 0.5, rng)
    trunk = _f32(trunk - trunk[len(trunk) // 2] + np.array(window.shape[1::-1]) / 2)
    _line(canvas, trunk, max(1, round(1.2 * scale)))
    _line(canvas, trunk[4:12], max(1, round(2 * scale)))
    for _ in range(rng.integers(1, 4)):
        start, side = trunk[rng.integers(3, 13)], rng.choice([-1, 1]) * rng.uniform(0.5, 1.1)
        twig = _walk(start, heading + side, length * rng.uniform(0.2, 0.45), 0.1, 0.5, rng)
        _line(canvas, twig, max(1, round(scale)))
    dark = -rng.uniform(0.55, 0.85) * np.maximum(window, 0)
    faint = _level(window) < 50  # on black nothing darker can be seen: a crack that catches light
    change = np.full_like(window, rng.uniform(45, 80)) if faint else dark
    return _f32(window + (canvas / 255)[..., None] * change)


def _cut_paste(window: F32, radius: float, rgb: U8, rng: Generator) -> F32:
    """A piece of the picture from elsewhere, turned, in the wrong place (CutPaste, CVPR 2021)."""
    height, width = window.shape[:2]
    top = rng.integers(rgb.shape[0] - height + 1)
    left = rng.integers(rgb.shape[1] - width + 1)
    piece = rgb[top : top + height, left : left + width].astype(np.float32)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(30, 330), 1)
    piece = _f32(cv2.warpAffine(piece, turn, (width, height), borderMode=cv2.BORDER_REFLECT))
    return _replace(window, piece, _blob(window.shape, radius, rng, soft=0.6), rng)


def _missing(window: F32, radius: float, rgb: U8, rng: Generator) -> F32:
    """A piece broken out: the colour of the picture's border, or of the surroundings, blurred."""
    alpha = _blob(window.shape, radius, rng, soft=0.7)
    if rng.random() < 0.5:
        border = np.concatenate([rgb[0], rgb[-1], rgb[:, 0], rgb[:, -1]])
        fill = _f32(np.broadcast_to(np.median(border, axis=0), window.shape))
    else:
        outside = (1 - alpha)[..., None]
        sigma = max(0.5 * radius, 1)
        spread = _f32(cv2.GaussianBlur(window * outside, (0, 0), sigma))
        weight = _f32(cv2.GaussianBlur(_f32(outside), (0, 0), sigma))
        fill = _f32(spread / np.maximum(weight, 1e-3)[..., None])
    return _replace(window, fill, alpha, rng)


def _noise(window: F32, radius: float, rgb: U8, rng: Generator) -> F32:
    """A patch of another texture on the same colour."""
    alpha = _blob(window.shape, radius, rng, soft=1.0)
    grain = rng.uniform(0.2, 0.6) * radius
    change = _texture(window.shape, grain, rng) * rng.uniform(25, 45)
    room = _contrast(_level(window), rng, 8, 20)
    return window + (alpha * (change + room))[..., None]


def _replace(window: F32, piece: F32, alpha: F32, rng: Generator) -> F32:
    """Blend a piece in; one too like what it covers is made lighter or darker, so it shows."""
    inside = alpha > 0.5
    difference = np.abs(piece - window).max(axis=2)[inside]
    if np.mean(difference >= VISIBLE) < 0.7:
        piece = piece + _contrast(_level(window), rng, 20, 45)
    return window + alpha[..., None] * (piece - window)


def _f32(array: Any) -> F32:
    return np.asarray(array, np.float32)


_PAINTERS: dict[str, Painter] = {
    "scratch": _scratch,
    "stain": _stain,
    "dent": _dent,
    "crack": _crack,
    "cut_paste": _cut_paste,
    "missing": _missing,
    "noise": _noise,
}
# Half the window's side, in radii: lines run further than blobs of the same area.
_REACH = {name: 2.6 if name in ("scratch", "crack") else 2.0 for name in _PAINTERS}
KINDS: tuple[str, ...] = tuple(_PAINTERS)
