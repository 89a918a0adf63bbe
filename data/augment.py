"""Augmentation by albumentations, the one place that names it."""

from __future__ import annotations

import os
from typing import Any, Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it asks its home page for news otherwise

Augmentation = Literal["none", "flips", "d4"]


def geometric(kind: Augmentation) -> Any | None:
    """Augmentation that moves pixels and changes none: mirrors (`flips`) or all of D4 (`d4`).

    Called with `image` and, if there are any, `target` (a second picture) and `mask`, which may be
    of other sizes: all make the same move. Seeded from torch, since albumentations seeds itself
    from the operating system; reading processes call `reseed`, or all of them would make the same
    moves.

    Raises:
        ValueError: an unknown kind.
    """
    if kind == "none":
        return None
    import albumentations as A
    import torch

    if kind == "flips":
        moves = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)]
    elif kind == "d4":
        moves = [A.D4(p=1.0)]
    else:
        raise ValueError(f"augmentation {kind}: choose none, flips or d4")
    return A.Compose(
        moves,
        additional_targets={"target": "image"},
        is_check_shapes=False,  # the target of a super-resolution is larger than its input
        seed=torch.initial_seed() % 2**32,
    )


def photometric() -> Any:
    """Augmentation that moves no pixel and changes their colours, for training on rendered people.

    Light, blur, noise and compression, such as cameras make. Seeded as `geometric`.
    """
    import albumentations as A
    import torch

    return A.Compose(
        [
            A.ColorJitter(0.3, 0.3, 0.3, 0.05, p=0.8),
            A.ToGray(p=0.05),
            A.OneOf([A.GaussianBlur((3, 5)), A.MotionBlur((3, 5))], p=0.2),
            A.ISONoise(p=0.2),
            A.ImageCompression(quality_range=(40, 95), p=0.3),
        ],
        seed=torch.initial_seed() % 2**32,
    )


def reseed(_: int) -> None:
    """`worker_init_fn` of a DataLoader: its own moves for each reading process, by its seed."""
    import torch
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    assert info is not None
    whole = getattr(info.dataset, "dataset", info.dataset)  # within a Subset, say
    for dataset in getattr(whole, "datasets", [whole]):  # several, joined
        transform = getattr(dataset, "transform", None)
        if transform is not None and hasattr(transform, "set_random_seed"):
            transform.set_random_seed(torch.initial_seed() % 2**32)
