"""Batches for the tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from data.augment import Augmentation, geometric
from data.inspection import InspectionDataset, Split, collate
from data.opening import open_dataset
from vision.tasks.loading import loader

MANY = 40
"""Good pictures of which a fifth is enough for a threshold; ours."""


class AnomalyData(LightningDataModule):
    """Good pictures to learn from, good pictures held out to calibrate on, pictures to test.

    Args:
        root: the folder of the data set.
        dataset: what reads it, called as `dataset(root, split, size, transform)`. The default takes
            MVTec AD's layout or a plain folder of good pictures, whichever it finds. A new data set
            is one file in `data/` and its class path here.
        size: side in pixels of the pictures; the command line sets it to what the net asks for.
        batch_size: pictures per batch.
        workers: reading processes; 0 reads in the main process.
        held_out: share of the good training pictures kept from training, for the validation loss
            and the threshold.
        leave_out: of fewer than MANY good pictures hold none out: each is judged by what the others
            teach. Only for nets that do not learn, and then one picture is enough.
        augment: `none`, `flips` or `d4`, for training only.
        seed: of the held-out draw.
    """

    def __init__(
        self,
        root: str,
        dataset: Callable[[str, Split, int, Any], InspectionDataset] = open_dataset,
        size: int = 256,
        batch_size: int = 8,
        workers: int = 0,
        held_out: float = 0.2,
        augment: Augmentation = "none",
        seed: int = 0,
        leave_out: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < held_out < 1:
            raise ValueError(f"held_out={held_out}: give a share in (0, 1), say 0.2")
        self.root, self.dataset, self.size = root, dataset, size
        self.batch_size, self.workers = batch_size, workers
        self.held_out, self.augment, self.seed = held_out, augment, seed
        self.leave_out = leave_out

    def setup(self, stage: str) -> None:
        if stage in ("fit", "validate"):
            plain = self.dataset(self.root, "train", self.size, None)
            moved = self.dataset(self.root, "train", self.size, geometric(self.augment))
            self.few = self.leave_out and len(plain) < MANY
            if self.few:
                self.train_set = self.good_set = self.held_out_set = Subset(
                    plain, range(len(plain))
                )
                return
            order = np.random.default_rng(self.seed).permutation(len(plain))
            count = max(4, round(self.held_out * len(plain)))
            if len(plain) - count < 1:
                raise ValueError(
                    f"{self.root}: {len(plain)} good pictures are too few to learn from and to"
                    " hold some out; give 5 or more"
                )
            self.train_set = Subset(moved, sorted(order[count:].tolist()))
            self.good_set = Subset(plain, self.train_set.indices)
            self.held_out_set = Subset(plain, sorted(order[:count].tolist()))
        if stage == "test":
            self.test_set = self.dataset(self.root, "test", self.size, None)

    @property
    def good_paths(self) -> list[Path]:
        """Files of all good pictures but those to test on."""
        records = self.dataset(self.root, "train", self.size, None).records
        return [record.image for record in records]

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.held_out_set)

    def good_dataloader(self) -> DataLoader:
        """The training pictures as they are, in order: what a memory is filled from."""
        return self._loader(self.good_set)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_set)

    def _loader(self, dataset: Dataset, shuffle: bool = False) -> DataLoader:
        return loader(dataset, collate, self.batch_size, self.workers, shuffle)
