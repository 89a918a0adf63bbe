"""Poses that a person could take: stances, and every joint somewhere within its limits."""

from __future__ import annotations

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
    **{
        f"{finger}{i}": ((0, 0), (0, 0), (-70, 5))
        for finger in ("index", "middle", "ring", "pinky")
        for i in (1, 2, 3)
    },
    "spine1": ((-5, 25), (-15, 15), (-10, 10)),
    "spine2": ((-5, 25), (-15, 15), (-10, 10)),
    "spine3": ((-5, 15), (-15, 15), (-10, 10)),
    "neck": ((-15, 20), (-30, 30), (-15, 15)),
    "head": ((-15, 20), (-30, 30), (-10, 10)),
}
STANCES: dict[str, dict[str, tuple[int, int, int]]] = {
    # Where the draw begins, by joints of either side or of both.
    "standing": {"shoulder": (0, 0, -45)},
    "walking": {
        "shoulder": (0, 0, -45),
        "left_hip": (-25, 0, 0),
        "right_hip": (15, 0, 0),
        "right_knee": (25, 0, 0),
        "elbow": (0, -20, 0),
    },
    "sitting": {"shoulder": (0, -20, -40), "hip": (-85, 0, 10), "knee": (85, 0, 0)},
    "reaching": {"shoulder": (0, -30, 50), "elbow": (0, -30, 0)},
    "anything": {"shoulder": (0, -20, 0)},
}


def draw_pose(rng: np.random.Generator, body: BodyModel) -> np.ndarray:
    """J×3 rotation vectors of `body`, standing in a world where y points up."""
    stance = STANCES[str(rng.choice([*STANCES]))]
    strength = rng.uniform(0.15, 0.8)
    vectors = np.zeros((len(body.parents), 3))
    for name, limits in LIMITS.items():
        low, high = np.array(limits).T
        sided = f"left_{name}" in body.joint_names
        for side in ("left_", "right_") if sided else ("",):
            base = np.array(stance.get(f"{side}{name}", stance.get(name, (0, 0, 0))))
            moved = base + strength * (high - low) / 2 * rng.triangular(-1, 0, 1, 3)
            mirror = (1, -1, -1) if side == "right_" else (1, 1, 1)
            joint = body.joint(f"{side}{name}")
            vectors[joint] = np.radians(moved.clip(low, high)) * mirror
    facing = rng.normal(0, 50) if rng.random() < 0.6 else rng.uniform(-180, 180)
    tilt = rng.normal(0, 4, 2)
    turn = Rotation.from_euler("YXZ", [180 + facing, *tilt], degrees=True)
    vectors[0] = turn.as_rotvec()
    return vectors
