"""What people who never existed wear: a colour and a thickness for every vertex of a body.

Plain clothes are painted on the skin, in any colour. Natural ones stand off it, fall in folds, have
the colours of a street and, where photographs are given, their patterns; so does hair.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vision.body.anny import Anny

SKIN = ((241, 205, 178), (224, 172, 138), (198, 134, 96), (141, 85, 54), (84, 52, 38))
HAIR = ((28, 24, 22), (70, 46, 30), (130, 90, 50), (200, 170, 110), (150, 150, 150))
UPPER, LOWER = ("trunk", "upper arm", "forearm"), ("leg", "shin")


class Worn(NamedTuple):
    """What one wears: V×3 colours, 0 … 255, and V thicknesses in metres."""

    colours: np.ndarray
    thickness: np.ndarray


class Wardrobe:
    """Draws clothes for Anny bodies, by the parts that their vertices belong to."""

    def __init__(self, body: Anny) -> None:
        bones = body.weights.argmax(1).numpy()
        self.part = np.array([_part(body.bone_names[bone]) for bone in bones])
        still = body(body.still(1), body.neutral_shape[None])
        self.rest = still.vertices[0].numpy()
        self.eye = still.joints[0, body.joint("left_eye_smplhf")].numpy()
        self.eyeballs = np.array([body.bone_names[b].startswith("eye") for b in bones])
        self.top = self.rest[self.part == "head", 1].max()

    def plain(self, rng: np.random.Generator) -> Worn:
        """Painted on the skin."""
        skin = np.array(SKIN[rng.integers(len(SKIN))]) * rng.uniform(0.85, 1.1)
        wear = {part: rng.uniform(15, 240, 3) for part in ("trunk", "leg", "foot")}
        colours = self._parts(rng, skin, wear)
        hair = self._hair(rng.uniform(0.08, 0.22))
        colours[hair] = hue = np.array(HAIR[rng.integers(len(HAIR))])
        self._face(colours, skin, hue)
        for parts in (UPPER, LOWER):
            if rng.random() < 0.5:  # stripes or checks
                wave = (
                    self.rest
                    @ rng.normal(0, 1, (3, 1 + int(rng.integers(2))))
                    * rng.uniform(20, 90)
                )
                dark = (np.sin(wave) > 0).sum(1) % 2 == 1
                worn = np.isin(self.part, parts) & ~np.isclose(colours, skin).all(1)
                colours[worn & dark] *= rng.uniform(0.3, 0.8)
        # Front and back differ: an open jacket, something on the back.
        x, y, z = self.rest.T
        trunk = self.part == "trunk"
        if rng.random() < 0.6:
            colours[trunk & (z > 0) & (abs(x) < rng.uniform(0.02, 0.05))] = rng.uniform(15, 240, 3)
        if rng.random() < 0.3:
            colours[trunk & (z < 0) & (abs(x) < 0.13) & (y > 0.1)] = rng.uniform(15, 240, 3)
        return Worn(colours.clip(0, 255), np.zeros(len(colours)))

    def natural(
        self, rng: np.random.Generator, photo: Callable[[], np.ndarray] | None = None
    ) -> Worn:
        """Loose, in folds, in colours of the street; what `photo` reads, H×W×3 RGB, is the pattern
        of three garments in ten."""
        most, some = rng.choice(len(SKIN), 2)
        skin = np.array(SKIN[most]) * 0.8 + np.array(SKIN[some]) * 0.2
        skin *= rng.uniform(0.85, 1.1)
        wear = {part: dyed(rng) for part in ("trunk", "leg", "foot")}
        if rng.random() < 0.15:
            wear["leg"] = wear["trunk"]  # overalls, a dress, a suit
        colours = self._parts(rng, skin, wear)
        bare = np.isclose(colours, skin).all(1)
        thickness = np.zeros(len(colours))
        folds = self._folds(rng)
        for parts, loose in ((UPPER, 0.035), (LOWER, 0.03), (("foot",), 0.015)):
            worn = np.isin(self.part, parts) & ~bare
            thickness[worn] = rng.uniform(0, loose) * (1 + 0.4 * folds[worn])
            colours[worn] *= 1 + rng.uniform(0, 0.15) * folds[worn, None]
            if photo is not None and rng.random() < 0.3:
                self._print(rng, colours, worn, photo())
            elif rng.random() < 0.25:
                wave = self.rest @ rng.normal(0, 1, 3) * rng.uniform(30, 120)
                colours[worn & (np.sin(wave) > 0)] *= rng.uniform(0.4, 0.8)
        x, y, z = self.rest.T
        trunk = self.part == "trunk"
        if rng.random() < 0.35:  # what an open jacket shows
            colours[trunk & (z > 0) & (abs(x) < rng.uniform(0.03, 0.07))] = dyed(rng)
        if rng.random() < 0.15:  # a bag on the back
            bag = trunk & (z < 0) & (abs(x) < 0.13) & (y > 0.1)
            colours[bag], thickness[bag] = dyed(rng), rng.uniform(0.04, 0.12)
        self._head(rng, colours, thickness, skin, folds)
        return Worn(colours.clip(0, 255), thickness)

    def _head(
        self,
        rng: np.random.Generator,
        colours: np.ndarray,
        thickness: np.ndarray,
        skin: np.ndarray,
        folds: np.ndarray,
    ) -> None:
        """A face, hair of any length or a hat, perhaps a beard, glasses or a veil."""
        hue = np.array(HAIR[rng.integers(len(HAIR))]) * rng.uniform(0.7, 1.1)
        self._face(colours, skin, hue)
        _, y, z = (self.rest - self.eye).T
        ahead = (self.part == "head") & (z > -0.06)
        if rng.random() < 0.2:
            beard = ahead & (y < -0.05) & (y > -0.14)
            colours[beard], thickness[beard] = hue, rng.uniform(0, 0.02)
        if rng.random() < 0.15:
            colours[ahead & (abs(y) < 0.018)] = 30  # glasses
        if rng.random() < 0.05:
            colours[ahead & (y < 0.05)] = dyed(rng)  # a veil, a fencing mask
        if rng.random() < 0.9:
            hair = self._hair(rng.uniform(0.06, 0.4))
            if rng.random() < 0.3:  # down to the shoulders and over them
                behind = (self.rest[:, 2] < self.eye[2] - 0.1) & (abs(self.rest[:, 0]) < 0.12)
                hair |= behind & (self.rest[:, 1] > self.top - rng.uniform(0.25, 0.5))
            colours[hair] = hue * (1 + 0.2 * folds[hair, None])
            thickness[hair] = rng.uniform(0.005, 0.05) * (1 + 0.3 * folds[hair])
        if rng.random() < 0.2:
            hat = (self.part == "head") & (self.rest[:, 1] > self.top - rng.uniform(0.07, 0.12))
            colours[hat], thickness[hat] = dyed(rng), rng.uniform(0.01, 0.05)

    def _parts(
        self, rng: np.random.Generator, skin: np.ndarray, wear: dict[str, np.ndarray]
    ) -> np.ndarray:
        """V×3 colours; sleeves and legs end somewhere."""
        wear |= dict.fromkeys(("head", "hand"), skin)
        wear["upper arm"] = skin if rng.random() < 0.15 else wear["trunk"]
        wear["forearm"] = skin if rng.random() < 0.5 else wear["upper arm"]
        wear["shin"] = skin if rng.random() < 0.25 else wear["leg"]
        return np.stack([wear[part] for part in self.part])

    def _hair(self, long: float) -> np.ndarray:
        """V, which vertices have hair that reaches so far down from the top of the head."""
        height = self.rest[:, 1]
        behind = self.rest[:, 2] < self.eye[2] - 0.08  # of the ears
        head = (self.part == "head") & (height > self.top - long)
        return head & (behind | (height > self.top - 0.05))

    def _face(self, colours: np.ndarray, skin: np.ndarray, hair: np.ndarray) -> None:
        """Eyes, brows and a mouth, by where they are from an eye."""
        x = abs(self.rest[:, 0])
        _, y, z = (self.rest - self.eye).T
        ahead = (self.part == "head") & (z > -0.02)
        from_eye = x - self.eye[0]
        colours[self.eyeballs] = 235
        colours[self.eyeballs & (np.hypot(from_eye, y) < 0.006)] = (40, 30, 25)
        colours[ahead & (abs(from_eye) < 0.018) & (abs(y - 0.02) < 0.005)] = hair * 0.7
        colours[ahead & (x < 0.026) & (abs(y + 0.07) < 0.01)] = skin * (0.8, 0.5, 0.5)

    def _folds(self, rng: np.random.Generator) -> np.ndarray:
        """V numbers around 0, within −1 and 1: waves of 5 to 30 cm across the body at rest."""
        waves = rng.normal(0, 1, (3, 6))
        waves *= 2 * np.pi / rng.uniform(0.05, 0.3, 6) / np.linalg.norm(waves, axis=0)
        return np.sin(self.rest @ waves + rng.uniform(0, 2 * np.pi, 6)).mean(1)

    def _print(
        self, rng: np.random.Generator, colours: np.ndarray, worn: np.ndarray, photo: np.ndarray
    ) -> None:
        """A piece of a photograph, half a metre to two large, as the pattern of a garment."""
        scale = min(photo.shape[:2]) / rng.uniform(0.5, 2)  # pixels a metre
        across = self.rest[worn, 0] + self.rest[worn, 2]  # no side of a leg sees one pixel alone
        down = self.rest[:, 1].max() - self.rest[worn, 1]
        start = rng.uniform(0, 1, 2) * photo.shape[1::-1]
        at = np.stack([across, down], 1) * scale + start
        column, row = np.mod(at, photo.shape[1::-1]).astype(np.int64).T
        colours[worn] = photo[row.clip(0, len(photo) - 1), column.clip(0, photo.shape[1] - 1)]


def dyed(rng: np.random.Generator) -> np.ndarray:
    """RGB, 0 … 255, as clothes are: most nearly grey, many dark or white."""
    value = rng.choice([rng.uniform(0.05, 0.25), rng.uniform(0.75, 1), rng.uniform(0.15, 0.85)])
    return 255 * np.array(colorsys.hsv_to_rgb(rng.random(), rng.beta(1, 2.5), value))


def _part(bone: str) -> str:
    """What is worn over a bone."""
    name = bone.partition(".")[0].rstrip("0123456789-")
    parts = {
        "hand": ("wrist", "finger", "metacarpal"),
        "head": ("head", "eye", "neck"),
        "forearm": ("lowerarm",),
        "upper arm": ("upperarm", "shoulder"),
        "shin": ("lowerleg",),
        "foot": ("foot", "toe"),
        "leg": ("upperleg", "pelvis", "root"),
    }
    return next((part for part, bones in parts.items() if name in bones), "trunk")
