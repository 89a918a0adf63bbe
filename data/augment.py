"""Augmentation by albumentations, the one place that names it."""

from __future__ import annotations

import os
from typing import Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks its home page for news otherwise

Augmentation = Literal["none", "flips", "d4"]


def geometric(kind: Augmentation) -> Any | None:
    """Augmentation that moves pixels and changes none: mirrors (`flips`) or all of D4 (`d4`).

    Seeded from torch, since albumentations seeds itself from the operating system; reading
    processes call `reseed`, or all of them would make the same moves.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "none":
        return None
    import albumentations as A
    import torch

    seed = torch.initial_seed() % 2**32

    if kind == "flips":
        return A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)], seed=seed)
    if kind == "d4":
        return A.Compose([A.D4(p=1.0)], seed=seed)
    raise ValueError(f"augmentation {kind}: choose none, flips or d4")


def reseed(_: int) -> None:
    """`worker_init_fn` of a DataLoader: its own moves for each reading process, by its seed."""
    import torch
    from torch.utils.data import Subset, get_worker_info

    info = get_worker_info()
    assert info is not None
    dataset = info.dataset.dataset if isinstance(info.dataset, Subset) else info.dataset
    transform = getattr(dataset, "transform", None)
    if transform is not None and hasattr(transform, "set_random_seed"):
        transform.set_random_seed(torch.initial_seed() % 2**32)
