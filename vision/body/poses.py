"""Poses that a person could take: stances, and every joint somewhere within its limits."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial.transform import Rotation

from vision.body.model import BodyModel

LIMITS: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    # Degrees around x (to the left), y (up), z (ahead) of the left joint; the right one mirrors it.
    "hip": ((-100, 25), (-30, 30), (-10, 40)),
    "knee": ((0, 130), (0, 0), (0, 0)),
    "ankle": ((-25, 35), (-10, 10), (-10, 10)),
    "collar": ((0, 0), (-10, 10), (-5, 15)),
    "shoulder": ((-40, 40), (-90, 30), (-55, 80)),
    "elbow": ((-40, 40), (-130, 0), (0, 0)),
    "wrist": ((-30, 30), (-20, 20), (-50, 50)),
    "spine1": ((-5, 25), (-15, 15), (-10, 10)),
    "spine2": ((-5, 25), (-15, 15), (-10, 10)),
    "spine3": ((-5, 15), (-15, 15), (-10, 10)),
    "neck": ((-15, 20), (-30, 30), (-15, 15)),
    "head": ((-15, 20), (-30, 30), (-10, 10)),
}
CURLS = {"thumb": (-5, 40), **dict.fromkeys(("index", "middle", "ring", "pinky"), (-5, 80))}
"""Degrees by which each of a finger's three joints bends towards the palm."""
STANCES: dict[str, tuple[float, dict[str, tuple[int, int, int]]]] = {
    # How often; and where the draw begins, by joints of either side or of both.
    "standing": (0.3, {"shoulder": (0, 0, -45)}),
    "walking": (
        0.25,
        {
            "shoulder": (0, 0, -45),
            "left_hip": (-25, 0, 0),
            "right_hip": (15, 0, 0),
            "right_knee": (25, 0, 0),
        },
    ),
    "talking": (0.15, {"shoulder": (-10, -15, -40), "elbow": (0, -75, 0)}),
    "sitting": (0.15, {"shoulder": (0, -20, -30), "hip": (-85, 0, 10), "knee": (85, 0, 0)}),
    "reaching": (0.1, {"shoulder": (0, -30, 50), "elbow": (0, -40, 0)}),
    "anything": (0.05, {"shoulder": (0, -20, 0)}),
}
WIDE: dict[str, dict[str, tuple[int, int, int]]] = {
    # Stances of sports and dance; where the draw begins, in degrees, ours.
    "lunging": {
        "shoulder": (0, 0, 40),
        "elbow": (0, -10, 0),
        "left_hip": (-65, 0, 20),
        "left_knee": (75, 0, 0),
        "right_hip": (10, 0, 25),
        "right_knee": (15, 0, 0),
    },
    "crouching": {
        "shoulder": (0, -20, 20),
        "elbow": (0, -30, 0),
        "hip": (-70, 0, 25),
        "knee": (85, 0, 0),
        "spine1": (15, 0, 0),
        "spine2": (15, 0, 0),
    },
    "spreading": {
        "shoulder": (0, 0, 45),
        "elbow": (0, -10, 0),
        "hip": (0, 0, 20),
        "knee": (10, 0, 0),
    },
    "raising": {"left_shoulder": (0, -10, 75), "right_shoulder": (0, 0, -40)},
    "anything": {"shoulder": (0, -20, 0)},
}
OFTEN_WIDE = 0.25
"""The share of people who take one of them where `wide` is asked for; ours."""
SHARES = [share for share, _ in STANCES.values()]
BENT = {"elbow": (0, -25, 0)}
"""Of all stances that say nothing else."""
SWAPPED = {"left_": "right_", "right_": "left_", "": ""}


APART = 0.3
"""Of how far a finger bends, the share that is its own and not the hand's; ours."""

CurlAxes = dict[tuple[str, str], np.ndarray]


def find_curl_axes(body: BodyModel) -> CurlAxes:
    """By finger and side: 3×3, around which unit vector each of its joints bends to the palm.

    Bodies rest in other poses, so the axes are found: bones of a finger at rest bend a little
    towards the palm already. Fingers of a hand bend around its knuckles' line, by their sum.
    """
    joints = body(body.still(1), body.neutral_shape[None]).joints[0].detach().numpy()
    axes: CurlAxes = {}
    for side in ("left", "right"):
        chains = {f: joints[[body.joint(f"{side}_{f}{i}") for i in (1, 2, 3)]] for f in CURLS}
        bends = {f: np.cross(c[1] - c[0], c[2] - c[1]) for f, c in chains.items()}
        knuckles = chains["pinky"][0] - chains["index"][0]
        bend = sum(bends[finger] for finger in chains if finger != "thumb")
        knuckles = knuckles * np.sign(knuckles @ bend)
        for finger, chain in chains.items():
            around = bends[finger] if finger == "thumb" else knuckles
            bones = chain[[1, 2, 2]] - chain[[0, 1, 1]]
            bones = bones / np.linalg.norm(bones, axis=1, keepdims=True)
            square = around - (bones @ around)[:, None] * bones  # no twist about the bone
            axes[finger, side] = square / np.linalg.norm(square, axis=1, keepdims=True)
    return axes


def draw_pose(
    rng: np.random.Generator, body: BodyModel, curl_axes: CurlAxes, wide: bool = False
) -> np.ndarray:
    """J×3 rotation vectors of `body`, standing in a world where y points up.

    Most people stand, walk, talk or sit, near to how they do; a few reach for something or move
    every joint as far as it goes; with `wide` a quarter stands as in sports or dance, bent to any
    side. Shares are ours, by what photographs show.
    """
    stance, lean = STANCES[str(rng.choice([*STANCES], p=SHARES))][1], 4.0
    if wide and rng.random() < OFTEN_WIDE:
        stance, lean = WIDE[str(rng.choice([*WIDE]))], 15.0
    stance = BENT | stance
    strength, swapped = 0.1 + 0.6 * rng.beta(1, 2), rng.random() < 0.5
    vectors = np.zeros((len(body.parents), 3))
    for name, limits in LIMITS.items():
        low, high = np.array(limits).T
        sided = f"left_{name}" in body.joint_names
        for side in ("left_", "right_") if sided else ("",):
            one = SWAPPED[side] if swapped else side
            base = np.array(stance.get(f"{one}{name}", stance.get(name, (0, 0, 0))))
            moved = base + strength * (high - low) / 2 * rng.triangular(-1, 0, 1, 3)
            mirror = (1, -1, -1) if side == "right_" else (1, 1, 1)
            joint = body.joint(f"{side}{name}")
            vectors[joint] = np.radians(moved.clip(low, high)) * mirror
    grasps: dict[str, float] = {}
    for (finger, side), axes in curl_axes.items():
        low, high = CURLS[finger]
        own = rng.uniform(0, 1)
        # Fingers of a hand bend together for the most part (Santello et al., J. Neurosci. 1998).
        share = APART * own + (1 - APART) * grasps.setdefault(side, own)
        bends = share * high + strength * rng.normal(0, 12, 3)
        for i, bend in enumerate(bends.clip(low, high)):
            vectors[body.joint(f"{side}_{finger}{i + 1}")] = math.radians(bend) * axes[i]
    facing = rng.normal(0, 50) if rng.random() < 0.6 else rng.uniform(-180, 180)
    tilt = rng.normal(0, lean, 2)
    turn = Rotation.from_euler("YXZ", [180 + facing, *tilt], degrees=True)
    vectors[0] = turn.as_rotvec()
    return vectors
