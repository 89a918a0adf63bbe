"""Batches of pictures or clips of people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from data.augment import photometric
from data.pairs import Split
from data.people import RenderedPeople, collate_people
from vision.tasks.loading import loader


class PeopleData(LightningDataModule):
    """Pictures of people, or clips, with what is true of them.

    Args:
        root: the folder of the data set.
        dataset: what reads it, called as `dataset(root, split, size, transform)`; for clips
            `data.people.RenderedClips`. A new data set is one file in `data/` and its class path
            here.
        size: side in pixels of the pictures; the command line sets it to what the net asks for.
            None leaves pictures as they are, which must then be of one size.
        batch_size: pictures or clips per batch.
        workers: reading processes; 0 reads in the main process.
        augment: whether colours are changed, for training only.
        also: folders of further data sets, whose training pictures are learned beside the root's.
    """

    def __init__(
        self,
        root: str,
        dataset: Callable[[str, Split, int | None, Any], Dataset] = RenderedPeople,
        size: int | None = None,
        batch_size: int = 8,
        workers: int = 0,
        augment: bool = True,
        also: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.root, self.dataset, self.size = root, dataset, size
        self.batch_size, self.workers, self.augment = batch_size, workers, augment
        if isinstance(also, str):
            raise ValueError(f"also={also}: give a list of folders, say [{also}]")
        self.also = also

    def setup(self, stage: str) -> None:
        if stage == "fit":
            moves = photometric() if self.augment else None
            roots = (self.root, *self.also)
            sets = [self.dataset(root, "train", self.size, moves) for root in roots]
            self.train_set: Dataset = ConcatDataset(sets)
        if stage in ("fit", "validate"):
            self.val_set = self.dataset(self.root, "val", self.size, None)
        if stage == "test":
            self.test_set = self.dataset(self.root, "test", self.size, None)

    def train_dataloader(self) -> DataLoader:
        return self._loader(self.train_set, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.val_set)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.test_set)

    def _loader(self, dataset: Dataset, shuffle: bool = False) -> DataLoader:
        return loader(dataset, collate_people, self.batch_size, self.workers, shuffle)
