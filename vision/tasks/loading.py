"""How all tasks read their data sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader, Dataset

from data.augment import reseed


def loader(
    dataset: Dataset, collate: Callable[[list[Any]], Any], batch_size: int, workers: int,
    shuffle: bool = False, drop_last: bool = False,
) -> DataLoader:  # fmt: skip
    """Batches of a data set; with `shuffle` for training, in which reading processes stay."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=reseed,
        persistent_workers=shuffle and workers > 0,
    )
