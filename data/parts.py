"""The parts that `data.synthetic` photographs: what they are made of and how they go wrong.

Two, one per kind of inspection: `Flange`, a turned steel disc with bolt holes (an object in front
of a background), and `Weave`, a twill cloth (a texture that fills the picture). Each decides
everything but the resolution when it is drawn, so it can be photographed twice, without and with
its defect. A new part is one more class here and one more line in `PARTS`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, Self

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from data.defects import F32, U8


class Part(Protocol):
    """One physical part in front of one camera: everything but the resolution is decided."""

    shaped: ClassVar[tuple[str, ...]]  # kinds of defect in its own shape: see `spoil`
    painted: ClassVar[tuple[str, ...]]  # kinds that `data.defects` paints on it

    @classmethod
    def draw(cls, rng: Generator) -> Self:
        """A good part as it happens to come: place, light, dirt and grain."""

    def spoil(self, kind: str, rng: Generator) -> Self:
        """The same part with a defect in its shape, and all else equal."""

    def render(self, size: int) -> tuple[U8, NDArray[np.bool_]]:
        """The photograph, uint8 size×size×3 RGB, and where the part is, bool size×size."""


# --- shared by the parts


def _grid(size: int) -> tuple[F32, F32, float]:
    """Coordinates x and y in [-1, 1], and the width of a pixel in them."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) * 2 / size - 1
    x, y = np.meshgrid(axis, axis)
    return x.astype(np.float32), y.astype(np.float32), 2 / size


def _noise(rng: Generator, size: int, rows: int, columns: int) -> F32:
    """Smooth noise of about deviation 1, with that many waves down and across the picture.

    The random grid does not depend on `size`: a part looks the same at every resolution.
    """
    grid = rng.standard_normal((rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _cover(distance: F32, pixel: float) -> F32:
    """Share of each pixel inside a shape, from its signed distance, negative inside."""
    return np.clip(0.5 - distance / pixel, 0, 1)


def _expose(colour: F32, rng: Generator) -> U8:
    """The camera: a little blur, and noise that grows with the light."""
    colour = np.asarray(cv2.GaussianBlur(colour, (0, 0), 0.55), np.float32)
    grain = rng.standard_normal(colour.shape[:2], np.float32)[..., None]
    colour += grain * np.sqrt(np.maximum(colour, 0) * 0.012 + 0.6)
    return np.rint(colour.clip(0, 255)).astype(np.uint8)


# --- flange

_OUTER, _BORE, _HUB, _CIRCLE, _HOLE, _HOLES = 0.8, 0.24, 0.385, 0.58, 0.088, 6


@dataclass(frozen=True)
class Flange:
    """A turned steel flange on a rubber mat. Lengths in half pictures, angles in radians."""

    shaped: ClassVar = ("missing_hole", "extra_hole", "chipped_edge")
    painted: ClassVar = ("scratch", "stain", "crack", "dent")

    seed: int
    x: float
    y: float
    turn: float
    light: float
    brightness: float
    tint: float
    missing_hole: int | None = None
    extra_hole: tuple[float, float, float] | None = None  # x, y, radius
    chips: tuple[tuple[float, float, float], ...] = ()

    @classmethod
    def draw(cls, rng: Generator) -> Flange:
        return cls(
            seed=int(rng.integers(2**32)),
            x=rng.normal(0, 0.012),
            y=rng.normal(0, 0.012),
            turn=rng.normal(0, 0.03),
            light=-2.2 + rng.normal(0, 0.06),
            brightness=1 + rng.normal(0, 0.025),
            tint=rng.normal(0, 1.5),
        )

    def spoil(self, kind: str, rng: Generator) -> Flange:
        if kind == "missing_hole":
            return replace(self, missing_hole=int(rng.integers(_HOLES)))
        if kind == "extra_hole":
            # Midway between two holes of the circle, give or take: it never touches one.
            angle = (rng.integers(_HOLES) + 0.5 + rng.uniform(-0.1, 0.1)) * 2 * np.pi / _HOLES
            radius = rng.uniform(0.5, 0.66)
            place = float(radius * np.cos(angle)), float(radius * np.sin(angle))
            return replace(self, extra_hole=(*place, rng.uniform(0.035, 0.07)))
        assert kind == "chipped_edge"
        start = rng.uniform(0, 2 * np.pi)
        bites: list[tuple[float, float, float]] = []
        for _ in range(rng.integers(2, 5)):  # several bites make a ragged break
            near = start + rng.normal(0, 0.05)
            out = _OUTER + rng.uniform(0.0, 0.03)
            bites.append(
                (float(out * np.cos(near)), float(out * np.sin(near)), rng.uniform(0.035, 0.085))
            )
        return replace(self, chips=tuple(bites))

    def render(self, size: int) -> tuple[U8, NDArray[np.bool_]]:
        rng = np.random.default_rng(self.seed)
        x, y, pixel = _grid(size)
        steel_edge, radius = self._distances(x, y)
        steel = _cover(steel_edge, pixel)
        mat = self._mat(rng, size, y, steel)
        metal = self._metal(rng, size, x - self.x, y - self.y, radius, steel_edge)
        colour = mat + steel[..., None] * (metal - mat)
        fall = 1 - 0.1 * (np.cos(self.light) * -x + np.sin(self.light) * -y)
        return _expose(colour * (self.brightness * fall)[..., None], rng), steel > 0.5

    def _distances(self, x: F32, y: F32) -> tuple[F32, F32]:
        """Signed distance to the edge of the steel, negative inside it; and the radius."""
        cos, sin = np.float32(np.cos(self.turn)), np.float32(np.sin(self.turn))
        x, y = x - np.float32(self.x), y - np.float32(self.y)
        u, v = cos * x + sin * y, cos * y - sin * x
        radius = np.hypot(u, v)
        holes = [
            (_CIRCLE * np.cos(angle), _CIRCLE * np.sin(angle), _HOLE)
            for angle in np.arange(_HOLES) * 2 * np.pi / _HOLES
        ]
        if self.missing_hole is not None:
            del holes[self.missing_hole]
        if self.extra_hole is not None:
            holes.append(self.extra_hole)
        edge = np.maximum(radius - _OUTER, _BORE - radius)
        keyway = np.maximum(np.abs(u) - 0.055, np.abs(v + _BORE) - 0.06)
        edge = np.maximum(edge, -keyway)
        for a, b, r in (*holes, *self.chips):
            edge = np.maximum(edge, np.float32(r) - np.hypot(u - np.float32(a), v - np.float32(b)))
        return edge, radius

    def _mat(self, rng: Generator, size: int, y: F32, steel: F32) -> F32:
        """Ribbed dark rubber, in the shade around the part and deeper in its holes."""
        level = 52 + 3 * _noise(rng, size, 6, 6) + 2 * _noise(rng, size, 90, 90)
        level += 2.5 * np.sin(y * 44 * np.pi)
        shift = size * 0.022
        move = np.array([[1, 0, -np.cos(self.light)], [0, 1, -np.sin(self.light)]]) * [1, 1, shift]
        shadow = cv2.warpAffine(steel, move, (size, size))
        shadow = np.asarray(cv2.GaussianBlur(shadow, (0, 0), size * 0.016), np.float32)
        level *= 1 - 0.62 * shadow
        return level[..., None] * np.array([1.0, 1.02, 1.08], np.float32)

    def _metal(self, rng: Generator, size: int, x: F32, y: F32, radius: F32, edge: F32) -> F32:
        """Steel turned on a lathe: fine rings, a cross of light on them, bevels at the edges."""
        angle = np.arctan2(y, x)
        rings = rng.standard_normal((240, 6)).astype(np.float32)
        rings = np.concatenate([rings, rings[:, :1]], axis=1)  # closes the circle
        groove = cv2.remap(
            rings,
            (angle / (2 * np.pi) + 0.5).astype(np.float32) * 6,
            radius.astype(np.float32) * 239,
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        level = 148 + 8.5 * np.asarray(groove, np.float32) + 2.5 * _noise(rng, size, 5, 5)
        # Each ring mirrors the lamp where it faces it: the double fan seen on every turned face.
        level += 52 * np.abs(np.cos(angle - self.light)) ** 10
        level += 20 * np.abs(np.cos(angle - self.light - 1.25)) ** 24
        level += np.where(radius < _HUB, 14, 0)
        step = np.exp(-(((radius - _HUB) / 0.014) ** 2))
        level += step * 62 * np.cos(angle - self.light)
        # Bevels: brighter where the edge faces the lamp, darker where it turns away.
        slope_x, slope_y = cv2.Sobel(edge, -1, 1, 0), cv2.Sobel(edge, -1, 0, 1)
        slope = np.maximum(np.hypot(slope_x, slope_y), 1e-6)
        facing = (np.cos(self.light) * slope_x + np.sin(self.light) * slope_y) / slope
        level += np.clip(1 + edge / 0.028, 0, 1) * (75 * facing - 8)
        return level[..., None] + np.array([-2 + self.tint, 0, 4 - self.tint], np.float32)


# --- weave

_THREADS = 24  # across the picture


@dataclass(frozen=True)
class Weave:
    """Twill cloth, undyed warp (upright) over two and under two of a blue weft.

    Lengths in threads.
    """

    shaped: ClassVar = ("missing_thread", "wrong_thread", "float", "hole")
    painted: ClassVar = ("stain",)

    seed: int
    x: float
    y: float
    turn: float
    brightness: float
    fault: str = ""
    thread: int = 0  # the warp thread at fault,
    span: tuple[float, float] = (0, 0)  # and from where to where along it
    hole: tuple[float, float, float] = (0, 0, -9)  # x, y, radius

    @classmethod
    def draw(cls, rng: Generator) -> Weave:
        return cls(
            seed=int(rng.integers(2**32)),
            x=rng.uniform(100, 102),  # the cloth is endless: any phase of the pattern
            y=rng.uniform(100, 102),
            turn=rng.normal(0, 0.012),
            brightness=1 + rng.normal(0, 0.025),
        )

    def spoil(self, kind: str, rng: Generator) -> Weave:
        x, y = rng.uniform(-0.36, 0.36, 2) * _THREADS + (self.x, self.y)
        if kind == "hole":
            return replace(self, fault=kind, hole=(x, y, rng.uniform(1.0, 2.2)))
        length = rng.uniform(3, 5.5)
        return replace(self, fault=kind, thread=int(x), span=(y - length, y + length))

    def render(self, size: int) -> tuple[U8, NDArray[np.bool_]]:
        rng = np.random.default_rng(self.seed)
        x, y, _ = _grid(size)
        half = _THREADS / 2
        cos, sin = np.float32(np.cos(self.turn) * half), np.float32(np.sin(self.turn) * half)
        # Threads are not quite straight, and the cloth is not quite flat.
        u = cos * x + sin * y + np.float32(self.x) + 0.09 * _noise(rng, size, 5, 9)
        v = cos * y - sin * x + np.float32(self.y) + 0.09 * _noise(rng, size, 9, 5)
        warp, warp_height = self._thread(rng, u, v, 1, (206, 199, 182))
        weft, weft_height = self._thread(rng, v, u, -1, (116, 136, 162))
        warp_height = self._faults(rng, u, v, warp, warp_height, weft_height)
        ground = np.array([26, 25, 25], np.float32)
        colour = np.where((warp_height > weft_height)[..., None], warp, weft)
        covered = np.maximum(warp_height, weft_height) > -1.4
        colour = np.where(covered[..., None], colour, ground)
        colour *= (self.brightness * (1 + 0.05 * x - 0.04 * y))[..., None]
        return _expose(colour, rng), np.ones((size, size), np.bool_)

    @staticmethod
    def _thread(
        rng: Generator, across: F32, along: F32, first: int, colour: tuple[int, int, int]
    ) -> tuple[F32, F32]:
        """Colour and height of one set of threads; they bend over and under the other set."""
        number = np.floor(across)
        side = 2 * (across - number) - 1
        bulge = np.sqrt(np.maximum(1 - (side / 0.92) ** 2, 0))
        height = first * np.sin(np.pi / 2 * (along + number)) + 0.5 * bulge
        height = np.where(bulge > 0, height, -2)
        twist = np.sin(2 * np.pi * (2.2 * along + 0.9 * side))
        light = 0.4 + 0.36 * bulge + 0.1 * np.minimum(height, 1.5) - 0.07 * side + 0.035 * twist
        dye = 1 + 0.035 * rng.standard_normal(256, np.float32)
        shade = light * dye[number.astype(np.int64) % 256]
        return shade[..., None] * np.array(colour, np.float32), height.astype(np.float32)

    def _faults(
        self, rng: Generator, u: F32, v: F32, warp: F32, warp_height: F32, weft_height: F32
    ) -> F32:
        """Work the fault into the threads (in place), and return the height of the warp."""
        x, y, radius = self.hole
        ragged = np.float32(radius) + 0.35 * rng.standard_normal(256, np.float32)
        distance = np.hypot(u - np.float32(x), v - np.float32(y))
        weft_height[distance < ragged[np.floor(v).astype(np.int64) % 256]] = -2
        warp_height[distance < ragged[np.floor(u).astype(np.int64) % 256]] = -2
        at = (np.floor(u) == self.thread) & (v > self.span[0]) & (v < self.span[1])
        if self.fault == "missing_thread":
            warp_height[at] = -2
        elif self.fault == "wrong_thread":
            warp[at] *= np.array([0.72, 0.3, 0.27], np.float32)
        elif self.fault == "float":
            warp_height[at & (warp_height > -2)] = 2
            warp[at] = np.maximum(warp[at], np.array([172, 166, 152], np.float32))
        return warp_height


PARTS: dict[str, type[Flange] | type[Weave]] = {"flange": Flange, "weave": Weave}
