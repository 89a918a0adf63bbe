"""Where the region maps of pictures come from: a folder of them, SAM, or superpixels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.images import ImageError, Picture, show
from data.regions import I32, LARGEST, at_most, read_regions, resized, superpixels

RegionSource = Callable[[Picture], I32]
"""A picture → its H×W labels ≥ 0."""


def region_source(wanted: str, device: str = "cpu") -> RegionSource:
    """What `--regions` names: `superpixels`, `sam:FOLDER` with SAM's weights, or a folder of maps.

    Raises:
        ValueError: no such folder, no weights in it, or SAM's library is not installed.
    """
    if wanted == "superpixels":
        return lambda picture: superpixels(picture.rgb8())
    if wanted.startswith("sam:"):
        return Sam(Path(wanted.removeprefix("sam:")), device)
    if not Path(wanted).is_dir():
        raise ValueError(
            f"--regions {wanted}: no such folder; give one of region maps, superpixels, or"
            " sam:FOLDER with the weights of SAM"
        )
    return RegionFolder(Path(wanted))


def fingerprint(wanted: str) -> str:
    """Of what `--regions` names: another one if a map or SAM's weights change."""
    if wanted == "superpixels":
        return wanted
    folder = Path(wanted.removeprefix("sam:"))
    stats = {path: path.stat() for path in sorted(folder.rglob("*")) if path.is_file()}
    files = [(str(path.relative_to(folder)), s.st_size, s.st_mtime_ns) for path, s in stats.items()]
    return f"{wanted} {hashlib.sha256(repr(files).encode()).hexdigest()[:16]}"


class RegionFolder:
    """FOLDER/<name of the picture>.nii.gz or .png (`data.regions.read_regions`).

    Of in/a/1.jpg the map is FOLDER/in/a/1.png, else FOLDER/a/1.png, else FOLDER/1.png; of the frame
    clip.mp4#12, FOLDER/clip.mp4#12.png.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, picture: Picture) -> I32:
        name = Path(picture.name)
        parts = [p for p in name.parts[:-1] if p not in (name.anchor, "..")]
        last = name.name if "#" in name.name else name.stem
        for first in range(len(parts) + 1):
            stem = self.folder.joinpath(*parts[first:], last)
            for suffix in (".nii.gz", ".png"):
                path = stem.with_name(stem.name + suffix)
                if path.is_file():
                    return read_regions(path)
        raise ImageError(
            f"{picture.name}: has no region map; add {show(self.folder / last)}.nii.gz or .png, or"
            " leave --regions out for superpixels"
        )


class Sam:
    """Segment Anything by its automatic mask generation, default settings, as in RAT's paper.

    Args:
        folder: weights as `transformers` saves them (config.json, model.safetensors); nothing is
            downloaded.
        device: where it runs.
    """

    def __init__(self, folder: Path, device: str) -> None:
        try:
            from transformers import SamImageProcessor, SamModel, pipeline
        except ImportError as error:
            raise ValueError("--regions sam: install visionmend[sam] first") from error
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"--regions sam:{folder}: holds no config.json; give a folder with the weights of"
                " SAM as transformers saves them, say a download of facebook/sam-vit-base"
            )
        options: dict[str, Any] = {"local_files_only": True}
        model = SamModel.from_pretrained(folder, use_safetensors=True, **options)
        processor = SamImageProcessor.from_pretrained(folder, **options)
        self.masks: Any = pipeline(
            "mask-generation", model=model, image_processor=processor, device=device
        )

    def __call__(self, picture: Picture) -> I32:
        from PIL import Image

        rgb = picture.rgb8()
        small = at_most(rgb, LARGEST)  # SAM sees no more, and each mask is as large as its picture
        found = self.masks(Image.fromarray(small))["masks"]
        labels = labelled([np.asarray(mask, bool) for mask in found], small.shape[:2])
        return resized(labels, rgb.shape)


def labelled(masks: Sequence[NDArray[np.bool_]], size: tuple[int, ...]) -> I32:
    """Masks H×W → H×W labels, as RAT's maps are made.

    The largest mask is painted first, with 1, so that small regions lie on top of large ones; what
    no mask covers gets the number of masks plus 1.
    """
    labels = np.full(size, len(masks) + 1, np.int32)
    for number, mask in enumerate(sorted(masks, key=lambda mask: -np.count_nonzero(mask)), 1):
        labels[mask] = number
    return labels
