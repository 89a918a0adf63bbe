"""The restoration task: a loaded net as Python users and the batch engine call it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.images import Picture, Pixels, write_jpeg, write_png, write_tiff
from vision.run.manifest import Manifest
from vision.run.sources import Source
from vision.run.tiles import Tiler

if TYPE_CHECKING:
    from vision.restoration.spec import Spec

TILE = 512
FULL_SCALE = {np.dtype(np.uint8): 255.0, np.dtype(np.uint16): 65535.0, np.dtype(np.float32): 1.0}
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
        fingerprint: of the weights; the engine reuses results only under the same one.
    """

    def __init__(
        self,
        net: nn.Module,
        *,
        device: str = "cpu",
        tile: int = TILE,
        ensemble: bool = False,
        fingerprint: str = "",
    ) -> None:
        self.device = torch.device(device)
        self.net = net.eval().to(self.device)
        spec: Any = net.spec
        self.spec: Spec = spec
        call = (lambda x: eightfold(self.net, x)) if ensemble else self.net
        self.tiler = Tiler(call, self.spec.scale, tile, self.device)
        self.fingerprint = f"{fingerprint} tile {tile}{' ensemble' if ensemble else ''}"

    @torch.inference_mode()
    def __call__(self, image: Pixels) -> Restoration:
        """Restore uint8, uint16 or float32 (in [0, 1]) H×W, H×W×1 or H×W×3 RGB.

        Grey pictures stay grey: a net for colour sees them three times and its channels are
        averaged. Colour passes a net for grey channel by channel.

        Raises:
            ValueError: another dtype or shape, or pixels that are not finite.
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
        values = torch.from_numpy(np.ascontiguousarray(pixels, np.float32)).permute(2, 0, 1) / full
        if not values.isfinite().all():
            raise ValueError("the picture has pixels that are NaN or infinite; replace them")
        restored, tiles = self._through(values)
        levels = restored.clamp_(0, 1).mul_(full).permute(1, 2, 0).numpy()
        if image.dtype != np.float32:
            levels = np.rint(levels, out=levels)
        done: Any = np.ascontiguousarray(levels, image.dtype)
        return Restoration(done[..., 0] if image.ndim == 2 else done, tiles)

    def _through(self, values: Tensor) -> tuple[Tensor, int]:
        """C×H×W → C×(scale·H)×(scale·W) and the tiles it took, whatever the net's channels."""
        if len(values) == self.spec.channels:
            return self.tiler(values), self.tiler.used
        if len(values) == 1:
            grey = self.tiler(values.expand(self.spec.channels, -1, -1)).mean(0, keepdim=True)
            return grey, self.tiler.used
        return torch.cat([self.tiler(channel[None]) for channel in values]), self.tiler.used


def eightfold(net: nn.Module, images: Tensor) -> Tensor:
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
    """Restore pictures for the batch engine.

    Per picture: `<name>.png` (`.tif` for float pixels) of the same depth and channels, alpha
    enlarged apart by cubic interpolation, and `<name>.before-after.jpg`. In the row: `scale`,
    `width` and `height` of the result, `tiles`, and `pooling`: `whole`, or `per tile` where a net
    that pools over the whole picture saw it in tiles, so that the result depends a little on them.
    """

    name = "restore"

    def __init__(self, predictor: RestorationPredictor, *, before_after: bool = True) -> None:
        self.predictor, self.before_after = predictor, before_after
        self.fingerprint = predictor.fingerprint

    def predict(self, pictures: list[Picture]) -> list[Restoration]:
        """One restoration per picture; ValueError for pixels without a meaning."""
        return [self._restored(picture) for picture in pictures]

    def _restored(self, picture: Picture) -> Restoration:
        result = self.predictor(picture.pixels)
        if picture.alpha is None:
            return result
        height, width = result.pixels.shape[:2]
        alpha = cv2.resize(picture.alpha, (width, height), interpolation=cv2.INTER_CUBIC)
        alpha = alpha.astype(picture.alpha.dtype)
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
        write(out / outputs[0], result.pixels)
        if self.before_after:
            outputs.append(f"{stem}.before-after.jpg")
            after = Picture(result.pixels[..., :3], name=picture.name).rgb8()
            write_jpeg(out / outputs[1], before_after(picture.rgb8(), after))
        height, width = result.pixels.shape[:2]
        shared = spec.pools_globally and result.tiles > 1
        return {
            "outputs": outputs,
            "scale": spec.scale,
            "width": width,
            "height": height,
            "tiles": result.tiles,
            "pooling": "per tile" if shared else "whole",
        }

    def finish(self, manifest: Manifest, out: Path) -> list[Path]:
        """Nothing to sum up: the manifest has it all."""
        return []


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
