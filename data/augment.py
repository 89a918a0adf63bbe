"""Augmentation by albumentations, the one place that names it."""

from __future__ import annotations

import os
from typing import Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks its home page for news otherwise

Augmentation = Literal["none", "flips", "d4"]


def geometric(kind: Augmentation) -> Any | None:
    """Augmentation that moves pixels and changes none: mirrors (`flips`) or all of D4 (`d4`).

    Draws from albumentations' own generator, which Lightning's worker seeding reaches.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "none":
        return None
    import albumentations as A

    if kind == "flips":
        return A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])
    if kind == "d4":
        return A.Compose([A.D4(p=1.0)])
    raise ValueError(f"augmentation {kind}: choose none, flips or d4")
