"""What every data set of restoration shares: pairs of an input and the target it should become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from data.images import FULL_SCALE, Pixels, read, show
from data.inspection import Transform
from data.regions import read_regions

Split = Literal["train", "val", "test"]
SPLITS = ("train", "val", "test")
F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
Box = tuple[slice, slice]


class Pair(TypedDict):
    """What a data set returns for one picture.

    `input` float32 C×h×w, white 1, noise not clipped; `target` float32 C×(s·h)×(s·w) in [0, 1];
    `region` int64 1×(s·h)×(s·w), the label of each pixel's region, absent from data sets without
    region maps; `path` of the input, or of the clean picture it is made from; `index`.
    """

    input: Tensor
    target: Tensor
    region: NotRequired[Tensor]
    path: str
    index: int


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair; they are one and the same where the input is made from the target."""

    input: Path
    target: Path
    region: Path | None = None


class PairDataset(Dataset[Pair]):
    """Pairs of files.

    Args:
        files: of each pair.
        split: `train` crops, moves and adds noise at random, from torch's global generator; `val`
            and `test` give whole pictures, whose noise depends on the index alone.
        scale: how many times larger the target is.
        patch: side in pixels of the input of a random crop; None takes whole pictures.
        transform: called in training as albumentations are, `transform(image=input,
            target=target, mask=region)` with float32 h×w×C, the mask only where there is one,
            int32; it must move all alike, as those of `data.augment.geometric` do.
        grey: one channel: colour becomes its luma (BT.601), grey stays the value it is. Otherwise
            three, RGB; grey is replicated.

    Pictures of 8 bits are divided by 255, of 16 bits by 65535; alpha is ignored. When the sample is
    asked for, damaged files raise `ImageError`, sizes that do not fit ValueError.
    """

    def __init__(
        self,
        files: Sequence[PairFiles],
        split: Split,
        scale: int = 1,
        patch: int | None = None,
        transform: Transform | None = None,
        grey: bool = False,
    ) -> None:
        check_split(split)
        if scale < 1:
            raise ValueError(f"scale {scale}: give how many times larger the target is, 1 or more")
        if patch is not None and patch < 1:
            raise ValueError(f"patch {patch}: give the side of a crop in pixels, say 64, or None")
        known = getattr(transform, "additional_targets", None)  # of albumentations
        if known is not None and "target" not in known:
            raise ValueError(
                "the transform would move the input alone; take one of data.augment.geometric, or "
                'give it additional_targets={"target": "image"}'
            )
        self.files = tuple(files)
        self.split, self.scale, self.patch = split, scale, patch
        self.transform = transform if split == "train" else None
        self.grey = grey

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        index = range(len(self))[index]
        # Noise of a whole picture needs more numbers than torch draws fast, so torch seeds NumPy.
        seed = int(torch.randint(2**62, ())) if self.split == "train" else index
        image, target, region = self._read(self.files[index], np.random.default_rng(seed))
        if self.transform is not None:
            image, target, region = self._move(image, target, region)
        pair = Pair(
            input=_tensor(image),
            target=_tensor(target),
            path=str(self.files[index].input),
            index=index,
        )
        if region is not None:
            pair["region"] = torch.from_numpy(region[None].astype(np.int64))
        return pair

    def _read(self, files: PairFiles, rng: Generator) -> tuple[F32, F32, I32 | None]:
        """Input h×w×C, target s·h×s·w×C and region map s·h×s·w of the whole picture or a crop."""
        image, target = self._pixels(files.input), self._pixels(files.target)
        height, width = image.shape[:2]
        wanted = (self.scale * height, self.scale * width)
        _same_size("target", files.target, target.shape, files.input, wanted, self.scale)
        box = self._box(height, width, files.input, rng)
        large = enlarge(box, self.scale)
        region = None
        if files.region is not None:
            region = read_regions(files.region)
            _same_size("region map", files.region, region.shape, files.input, wanted, self.scale)
            region = region[large]
        return unit(image[box]), unit(target[large]), region

    def _pixels(self, path: Path, eight: bool = False) -> Pixels:
        """A picture H×W×1 or ×3 as `grey` asks, at its own depth or at 8 bits."""
        picture = read(path)
        pixels: Any = picture.rgb8() if eight else picture.pixels
        if self.grey and pixels.shape[2] == 3:
            pixels = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))[..., None]
        elif not self.grey:
            pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        return pixels

    def _box(self, height: int, width: int, path: Path, rng: Generator) -> Box:
        """Rows and columns of the input to take: a random crop in training, otherwise all."""
        if self.patch is None or self.split != "train":
            return slice(0, height), slice(0, width)
        side = self.patch
        if min(height, width) < side:
            raise ValueError(
                f"{show(path)}: its input of {width}×{height} is smaller than a patch of {side}; "
                "choose a smaller patch, or take the picture out"
            )
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        return slice(top, top + side), slice(left, left + side)

    def _move(
        self, image: F32, target: F32, region: I32 | None
    ) -> tuple[F32, F32, NDArray[Any] | None]:
        assert self.transform is not None
        masks = {} if region is None else {"mask": region}
        moved = self.transform(image=image, target=target, **masks)
        image, target = moved["image"], moved["target"]
        if image.dtype != np.float32 or target.dtype != np.float32:
            raise ValueError(
                f"the transform returned {image.dtype} and {target.dtype}; it must keep float32"
            )
        if target.shape[:2] != tuple(self.scale * side for side in image.shape[:2]):
            raise ValueError(
                f"the transform returned an input {image.shape} and a target {target.shape}; it "
                "must move both alike"
            )
        return image, target, moved.get("mask")


def collate(pairs: Sequence[Pair]) -> dict[str, Any]:
    """A batch: input, target and region, if there are any, stacked; path and index lists.

    ValueError if the sizes differ.
    """
    batch: dict[str, Any] = {key: [pair[key] for pair in pairs] for key in pairs[0]}  # type: ignore[literal-required]
    for key in ("input", "target", "region"):
        if key not in batch:
            continue
        shapes = [tuple(tensor.shape) for tensor in batch[key]]
        other = next((shape for shape in shapes if shape != shapes[0]), None)
        if other is not None:
            raise ValueError(
                f"this batch holds {key}s of sizes {shapes[0]} and {other}; set patch, or for "
                "whole pictures batch_size 1, or augment flips, which turns none"
            )
        batch[key] = torch.stack(batch[key])
    return batch


def check_split(split: str) -> None:
    """ValueError if there is no such split."""
    if split not in SPLITS:
        raise ValueError(f'split "{split}" does not exist; ask for "train", "val" or "test"')


def check_root(root: str | Path, split: str, layout: str) -> Path:
    """The folder as a Path; ValueError if it is missing, not a folder, or the split unknown."""
    check_split(split)
    root = Path(root)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise ValueError(f"{show(root)} {what}; give a folder laid out as {layout}")
    return root


def _same_size(
    what: str, path: Path, shape: tuple[int, ...], other: Path, wanted: tuple[int, int], scale: int
) -> None:
    if shape[:2] != wanted:
        height, width = (side // scale for side in wanted)
        raise ValueError(
            f"{what} {show(path)} is {shape[1]}×{shape[0]} but its input {show(other)} is "
            f"{width}×{height}; at scale {scale} it must be {wanted[1]}×{wanted[0]}"
        )


def enlarge(box: Box, scale: int) -> Box:
    """Rows and columns of the input as those of the target."""
    rows, columns = (slice(scale * part.start, scale * part.stop) for part in box)
    return rows, columns


def unit(pixels: Pixels) -> F32:
    """Pixels as float32 with white 1."""
    return pixels.astype(np.float32) / np.float32(FULL_SCALE[pixels.dtype])


def _tensor(image: F32) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
