"""Intrinsics: those of cameras pass, all others are named with a cure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from data.cameras import check_intrinsics

GOOD = [[500.0, 0, 320], [0, 510, 240], [0, 0, 1]]


@pytest.mark.parametrize(
    "camera",
    [
        GOOD,
        [[500, 0, 320], [0, 500, 240], [0, 0, 1]],
        [[500, 0.7, 320], [1e-14, 500, 240], [0, 1e-12, 1 + 1e-9]],  # a calibration's
        [[9.0, 0, 32], [0, 9, 32], [0, 0, 1]],  # a fisheye's of 64 pixels
        [[5000.0, 0, -700], [0, 5000, 90], [0, 0, 1]],  # a piece beside the middle
        [[500.0, 0, 0], [0, 500, 240], [0, 0, 1]],
    ],
)
def test_cameras_pass(camera: Any) -> None:
    check_intrinsics(np.array(camera), "a.pkl")
    check_intrinsics(np.array(camera, np.float32), "a.pkl")


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (np.zeros((3, 3)), r"a.pkl: intrinsics end in the row \[0.0, 0.0, 0.0\], not in 0, 0, 1;"),
        (np.array(GOOD).T, r"end in the row \[320.0, 240.0, 1.0\]"),
        (np.diag([-500.0, 500, 1]), r"the focal lengths -500 and 500, which are not above 0"),
        (np.diag([500.0, 0, 1]), r"the focal lengths 500 and 0, which are not above 0"),
        (np.eye(3), r"the focal lengths 1 and 1, which no camera has in pixels; give \[\[fx, 0,"),
        ([[1.2, 0, 0.5], [0, 1.6, 0.5], [0, 0, 1]], "focal lengths 1.2 and 1.6, which no camera"),
        ([[500, 0, 0.5], [0, 500, 0.5], [0, 0, 1]], r"look at the pixel \(0.5, 0.5\), the corner"),
        ([[500, 0, 9], [500, 500, 9], [0, 0, 1]], "have 500 below the first focal length, not 0"),
        ([[500, 0, 1e30], [0, 500, 9], [0, 0, 1]], r"have 1e\+30, which no camera has in pixels"),
        ([[500, -1e9, 9], [0, 500, 9], [0, 0, 1]], r"have 1e\+09, which no camera has in pixels"),
        ([[np.nan, 0, 9], [0, 500, 9], [0, 0, 1]], "have numbers that are not finite"),
        ([[500, 0, np.inf], [0, 500, 9], [0, 0, 1]], "have numbers that are not finite"),
        (np.eye(4), r"are \(4, 4\) float64, not 3×3 numbers"),
        (np.full((3, 3), None), r"are \(3, 3\) object, not 3×3 numbers"),
    ],
)
def test_what_is_no_camera_is_named(camera: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check_intrinsics(np.array(camera), "a.pkl")
    assert str(error.value).isprintable()
    assert "in pixels from the upper left corner" in str(error.value)
