"""Batches of pairs for the nets that restore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from data.augment import Augmentation, geometric
from data.paired import Paired
from data.pairs import Pair, PairDataset, Split, collate
from data.regions import superpixels
from vision.tasks.loading import loader


class RestorationData(LightningDataModule):
    """Pairs of input and target: crops of them to learn from, whole pictures to measure on.

    Args:
        root: the folder of the data set.
        dataset: what reads it, called as `dataset(root, split, scale, patch, transform)`. The
            default takes folders of pairs. A new data set is one file in `data/` and its class
            path here.
        scale: of the net; the command line sets it.
        regions: whether the net wants region maps; the command line sets it. Pictures of a data
            set without any get superpixels.
        patch: side in pixels of the crops of the input; None takes pictures whole.
        batch_size: crops per batch; validation takes one picture at a time.
        repeat: how often an epoch takes each picture, a crop of its own each time.
        workers: reading processes; 0 reads in the main process.
        augment: `none`, `flips` or `d4`, for training only.
        swap: learn to make the input from the target, as MPGNet does.
    """

    def __init__(
        self,
        root: str,
        dataset: Callable[[str, Split, int, int | None, Any], PairDataset] = Paired,
        scale: int = 1,
        regions: bool = False,
        patch: int | None = 64,
        batch_size: int = 8,
        repeat: int = 1,
        workers: int = 0,
        augment: Augmentation = "d4",
        swap: bool = False,
    ) -> None:
        super().__init__()
        if repeat < 1:
            raise ValueError(f"repeat={repeat}: give 1 or more")
        if swap and scale != 1:
            raise ValueError("swap: what a net that enlarges learns from cannot be swapped")
        self.root, self.dataset, self.scale, self.regions = root, dataset, scale, regions
        self.patch, self.batch_size, self.repeat = patch, batch_size, repeat
        self.workers, self.augment, self.swap = workers, augment, swap

    def setup(self, stage: str) -> None:
        if stage == "fit":
            moves = geometric(self.augment)
            plain = self.dataset(self.root, "train", self.scale, self.patch, moves)
            self.train_set = self._dressed(plain, self.repeat)
        if stage in ("fit", "validate"):
            plain = self.dataset(self.root, "val", self.scale, None, None)
            self.val_set = self._dressed(plain)
        if stage == "test":
            plain = self.dataset(self.root, "test", self.scale, None, None)
            self.test_set = self._dressed(plain)

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_set, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val_set, 1)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_set, 1)

    def _dressed(self, plain: PairDataset, repeat: int = 1) -> Dressed:
        return Dressed(plain, repeat, self.regions, self.swap, self.scale)

    def _loader(self, dataset: Dataset, batch_size: int, shuffle: bool = False) -> DataLoader:
        whole = shuffle and len(dataset) >= batch_size  # type: ignore[arg-type]
        return loader(dataset, collate, batch_size, self.workers, shuffle, drop_last=whole)


class Dressed(Dataset[Pair]):
    """Pairs as the net wants them: repeated, swapped, with region maps."""

    def __init__(
        self, dataset: PairDataset, repeat: int, regions: bool, swap: bool, scale: int
    ) -> None:
        self.dataset, self.repeat, self.regions, self.swap = dataset, repeat, regions, swap
        self.scale = scale

    def __len__(self) -> int:
        return self.repeat * len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        pair = self.dataset[index % len(self.dataset)]
        if self.swap:
            pair["input"], pair["target"] = pair["target"], pair["input"]
        if self.regions and "region" not in pair:
            levels = (pair["input"].clamp(0, 1) * 255).round().byte()
            rgb = levels.expand(3, -1, -1).permute(1, 2, 0).numpy()
            labels = torch.from_numpy(superpixels(rgb))[None].long()
            # Of the size of the target.
            labels = labels.repeat_interleave(self.scale, 1).repeat_interleave(self.scale, 2)
            pair["region"] = labels
        return pair
