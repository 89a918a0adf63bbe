"""The restoration task: a loaded net as Python users and the batch engine call it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.images import FULL_SCALE, Picture, Pixels, check_unit, write_jpeg, write_png, write_tiff
from data.regions import superpixels
from vision.layers.pooling import GlobalPool
from vision.run.engine import Finished
from vision.run.manifest import Manifest
from vision.run.regions import RegionSource
from vision.run.sources import Source
from vision.run.tiles import Tiler

if TYPE_CHECKING:
    from vision.restoration.spec import Spec

TILE = 512
BEFORE_AFTER = 1024
"""Longest side of the picture that shows before and after."""


@dataclass(frozen=True)
class Restoration:
    """What a net made of a picture: `pixels` of its depth and channels; in how many `tiles`."""

    pixels: Pixels
    tiles: int


class RestorationPredictor:
    """Pictures in, `Restoration`s out.

    Args:
        net: has a `spec`, and maps B×C×H×W in [0, 1] to the same, `spec.scale` times as large.
        device: where it runs.
        tile: side in pixels of the input above which it is restored in tiles; 0 for whole.
        ensemble: the mean over the eight ways to mirror and turn the picture, which takes eight
            times as long (the "+" of published tables).
        share_pooling: whether the tiles of a picture share what a net pools over all pixels, in a
            second pass over them; else each tile pools for itself. A net that sums over the pixels
            (`Spec.sums_globally`) shares always.
        precision: `bf16` for mixed bfloat16, faster on GPUs made for it, and less exact. There is
            no float16, since activations of HAT leave its range.
        fingerprint: of the weights; the engine reuses results only under the same one.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        device: str = "cpu",
        tile: int = TILE,
        ensemble: bool = False,
        share_pooling: bool = False,
        precision: Literal["fp32", "bf16"] = "fp32",
        fingerprint: str = "",
    ) -> None:
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision {precision}: choose fp32 or bf16")
        self.device, self.precision = torch.device(device), precision
        self.net = net.eval().to(self.device)
        spec: Any = net.spec
        self.spec: Spec = spec
        self.shares = share_pooling or self.spec.sums_globally
        if self.shares and not any(isinstance(m, GlobalPool) for m in self.net.modules()):
            raise ValueError(
                f"--pooling shared: {type(net).__name__} pools nothing that tiles could share;"
                " leave it out"
            )
        call = (lambda x: eightfold(self._net, x)) if ensemble else self._net
        pools = self.net if self.shares else None
        self.tiler = Tiler(call, self.spec.scale, tile, self.device, pools)
        how = f" tile {tile}{' ensemble' if ensemble else ''}{' shared' if self.shares else ''}"
        how += f" {precision}" if precision != "fp32" else ""
        self.fingerprint = fingerprint + how

    @torch.inference_mode()
    def __call__(self, image: Pixels, regions: NDArray[np.integer] | None = None) -> Restoration:
        """Restore uint8, uint16 or float32 (in [0, 1]) H×W, H×W×1 or H×W×3 RGB.

        Grey pictures stay grey: a net for colour sees them three times and its channels are
        averaged. Colour passes a net for grey channel by channel. Results are clipped to the full
        scale, so floats to [0, 1].

        Args:
            image: the picture.
            regions: H×W labels ≥ 0, for a net that attends within regions, or of the size of the
                result, as published maps for nets that enlarge are; by default superpixels
                (`data.regions.superpixels`). Other nets do not look at it.

        Raises:
            ValueError: another dtype or shape; floats that are not finite or clearly not in [0, 1];
                a net that gives such as are not finite.
        """
        if image.dtype not in FULL_SCALE or image.ndim not in (2, 3) or not image.size:
            raise ValueError(
                f"a picture of {image.dtype} {image.shape}; give uint8, uint16 or float32, H×W×3 in"
                " RGB order or H×W"
            )
        pixels = image[..., None] if image.ndim == 2 else image
        channels = pixels.shape[2]
        if channels not in (1, 3):
            raise ValueError(f"a picture of {channels} channels; give 1 or 3, and alpha apart")
        full = FULL_SCALE[image.dtype]
        values = torch.from_numpy(np.divide(pixels, full, dtype=np.float32)).permute(2, 0, 1)
        if image.dtype == np.float32:
            check_unit(image)
        labels = self._labels(image, regions) if self.spec.regions else values[:0]
        restored, tiles = self._through(values, labels)
        if not restored.sum().isfinite():  # without a copy, which may be gigabytes
            raise ValueError(
                "the net gave pixels that are not finite; its weights are damaged, or use"
                " --precision fp32"
            )
        levels = restored.clamp_(0, 1).mul_(full).permute(1, 2, 0).numpy()
        if image.dtype != np.float32:
            levels = np.rint(levels, out=levels)
        done: Any = np.ascontiguousarray(levels, image.dtype)
        return Restoration(done[..., 0] if image.ndim == 2 else done, tiles)

    def _labels(self, image: Pixels, regions: NDArray[np.integer] | None) -> Tensor:
        """1×H×W; float, as they go through tiles and turns as one more channel."""
        if regions is None:
            pixels: Any = np.atleast_3d(image)
            regions = superpixels(Picture(pixels).rgb8())
        scale, (height, width) = self.spec.scale, image.shape[:2]
        if regions.shape == (scale * height, scale * width):
            regions = regions[::scale, ::scale]
        if regions.shape != image.shape[:2]:
            raise ValueError(
                f"a region map of {regions.shape} for a picture of {image.shape[:2]}; make it of"
                " the size of the picture"
            )
        # Numbers without gaps, since float32 tells no two large ones apart.
        numbers = np.unique(regions, return_inverse=True)[1].reshape(regions.shape)
        return torch.from_numpy(numbers.astype(np.float32))[None]

    def _through(self, values: Tensor, labels: Tensor) -> tuple[Tensor, int]:
        """C×H×W → C×(scale·H)×(scale·W) and the tiles it took, whatever the net's channels."""

        def through(channels: Tensor) -> Tensor:
            return self.tiler(torch.cat([channels, labels]) if len(labels) else channels)

        if len(values) == self.spec.channels:
            restored = through(values)
        elif len(values) == 1:
            restored = through(values.expand(self.spec.channels, -1, -1)).mean(0, keepdim=True)
        else:
            restored = torch.cat([through(channel[None]) for channel in values])
        return restored, self.tiler.used

    def _net(self, x: Tensor) -> Tensor:
        """B×C×h×w → restored; with a region map as one more channel, where the net wants it."""
        parts = (x[:, :-1], x[:, -1:].long()) if self.spec.regions else (x,)
        half = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.net(*parts).float()


def eightfold(net: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The mean of what `net` makes of the eight mirrored and turned B×C×H×W pictures."""
    total: Tensor | None = None
    for turns in range(4):
        for mirrored in (False, True):
            moved = images.rot90(turns, (2, 3))
            moved = moved.flip(3) if mirrored else moved
            restored = net(moved.contiguous())
            restored = restored.flip(3) if mirrored else restored
            restored = restored.rot90(-turns, (2, 3))
            total = restored if total is None else total + restored
    assert total is not None
    return total / 8


class RestoreJob:
    """Restore pictures for the batch engine, `regions` giving the maps of a net that wants them.

    Per picture: `<name>.png` (`.tif` for float pixels) of the same depth and channels, alpha
    enlarged apart by cubic interpolation (grey with alpha becomes RGBA), and
    `<name>.before-after.jpg`. In the row: `scale`, `width` and `height` of the result, `tiles`, and
    `pooling`: `whole`, or where a net that pools over the whole picture saw it in tiles, `per tile`
    or `shared`; its result then depends a little on the tiles. `regions` likewise, of a net that
    attends within regions.
    """

    name = "restore"
    clip = 1

    def __init__(
        self,
        predictor: RestorationPredictor,
        *,
        before_after: bool = True,
        regions: RegionSource | None = None,
    ) -> None:
        self.predictor, self.before_after, self.regions = predictor, before_after, regions
        self.fingerprint = predictor.fingerprint

    def predict(self, pictures: list[Picture]) -> list[Restoration]:
        """One restoration per picture; ValueError for pixels without a meaning."""
        return [self._restored(picture) for picture in pictures]

    def _restored(self, picture: Picture) -> Restoration:
        regions = self.regions(picture) if self.regions else None
        result = self.predictor(picture.pixels, regions)
        if picture.alpha is None:
            return result
        height, width = result.pixels.shape[:2]
        alpha = cv2.resize(picture.alpha, (width, height), interpolation=cv2.INTER_CUBIC)
        alpha = alpha.clip(0, FULL_SCALE[picture.alpha.dtype]).astype(picture.alpha.dtype)
        colour = np.broadcast_to(result.pixels, (height, width, 3))
        return replace(result, pixels=np.dstack([colour, alpha]))

    def write(
        self, result: Restoration, picture: Picture, source: Source, out: Path
    ) -> dict[str, Any]:
        """Write the picture, and before beside after."""
        stem, spec = source.relative.as_posix(), self.predictor.spec
        suffix, write = (
            (".tif", write_tiff) if result.pixels.dtype == np.float32 else (".png", write_png)
        )
        outputs = [stem + suffix]
        (out / outputs[0]).parent.mkdir(parents=True, exist_ok=True)
        if self.before_after:  # first, so that what fails here leaves no result behind
            outputs.append(f"{stem}.before-after.jpg")
            after = Picture(result.pixels[..., :3], name=picture.name).rgb8()
            write_jpeg(out / outputs[1], before_after(picture.rgb8(), after))
        write(out / outputs[0], result.pixels)
        height, width = result.pixels.shape[:2]
        tiled = spec.pools_globally and result.tiles > 1
        pooling = "shared" if self.predictor.shares else "per tile"
        return {
            "outputs": outputs,
            "scale": spec.scale,
            "width": width,
            "height": height,
            "tiles": result.tiles,
            "pooling": pooling if tiled else "whole",
            **({"regions": "per tile" if result.tiles > 1 else "whole"} if spec.regions else {}),
        }

    def finish(self, manifest: Manifest, out: Path) -> Finished:
        """Nothing to sum up: the manifest has it all."""
        return Finished()


def before_after(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The left half of the one and the right half of the other, at the size of the latter.

    The pixels of the picture before are repeated, so that they are seen as they are.
    """
    height, width = after.shape[:2]
    shown = cv2.resize(before, (width, height), interpolation=cv2.INTER_NEAREST)
    shown[:, width // 2 :] = after[:, width // 2 :]
    shown[:, width // 2 : width // 2 + max(1, width // 512)] = 255
    shrink = BEFORE_AFTER / max(height, width)
    if shrink < 1:
        size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
        shown = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(shown, np.uint8)
