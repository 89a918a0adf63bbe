"""Image AUROC, pixel AUROC and AU-PRO, as MVTec's own evaluation defines them, and exactly.

All three are areas under one kind of curve: over every distinct score, highest first and ties
merged, the share of negatives at or above it (x) against the weighted share of positives (y),
joined by straight lines from (0, 0) to (1, 1). Weights of 1 give AUROC. For AU-PRO a defect pixel
weighs 1 / area of its component, which makes y the mean over components of the covered fraction
(Bergmann et al. 2021, IJCV 129). The curve rises only at scores of positives, so the
negatives (nearly all pixels) need no weights and no argsort, only a plain sort and two look-ups.

Why own code:
- torchmetrics' `auroc` puts scores outside [0, 1] through a sigmoid, which in float32 merges
  distinct large scores, and argsorts all pixels with eight-byte indices;
- pyaupro wants all maps in one size and does not merge ties in its exact mode;
- ADEval bins the scores between bounds that one has to guess beforehand.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]
Array = np.ndarray | torch.Tensor
# Scores of the defect-free pixels, scores of the defect pixels, areas of the latter's components.
_Part = tuple[Floats, Floats, NDArray[np.int64]]

_NAN_CURE = "look for an overflow in the net (try full precision)"


def image_auroc(scores: ArrayLike | torch.Tensor, labels: ArrayLike | torch.Tensor) -> float:
    """Area under the ROC curve of N scores (higher: more anomalous) for N labels (1: defective).

    Equal scores of a good and a defective image count one half. Raises ValueError for NaN, lengths
    that differ, labels other than 0 and 1, or if all images are good or all are defective.
    """
    ranked, defective = _scored(scores, labels)
    if defective.all() or not defective.any():
        raise ValueError(
            f"{defective.sum()} of {defective.size} images are defective: "
            "AUROC needs both kinds, so add the missing one to the test set"
        )
    return _Curve(ranked[~defective], ranked[defective]).area(np.ones(defective.sum()))


def pixel_auroc(maps: Sequence[Array], masks: Sequence[Array]) -> float:
    """Area under the ROC curve of all pixels of all images pooled.

    `maps` are H×W floats (higher: more anomalous) at ground-truth resolution, `masks` H×W with
    defects > 0; sizes may vary from image to image. Raises ValueError for NaN, sizes that do not
    match, or masks without any defect or any defect-free pixel.
    """
    pixels = _Pixels()
    pixels.extend(_split(maps, masks))
    return pixels.areas(auroc=True)["pixel_auroc"]


def au_pro(
    maps: Sequence[Array], masks: Sequence[Array], limits: Sequence[float] = (0.3, 0.05)
) -> dict[float, float]:
    """Area under the per-region overlap curve up to each false positive rate of `limits`.

    Components are joined by 8-connectivity; the false positive rate is over all defect-free pixels,
    those of defective images included; the curve is cut at the limit by linear interpolation and
    its area divided by the limit. Result: {limit: area in [0, 1]}. Inputs and errors are those
    of `pixel_auroc`, and ValueError for a limit outside (0, 1].
    """
    limits = tuple(limits)
    pixels = _Pixels()
    pixels.extend(_split(maps, masks))
    areas = pixels.areas(limits)
    return {limit: areas[_key(limit)] for limit in limits}


class AnomalyMetrics:
    """Collects scores and maps batch by batch, and computes all metrics in one sort at the end.

    Maps are kept as float32: 4 bytes per pixel, as much again while `compute` runs, and 8 bytes per
    defect pixel. A set of 640 images of 400×300 takes about 0.9 GB at the peak and 3 s to
    compute. The masks themselves are not kept.
    """

    def __init__(self, limits: Sequence[float] = (0.3, 0.05)) -> None:
        self.limits = tuple(limits)
        for limit in self.limits:
            _check_limit(limit)
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._scores: list[Floats] = []
        self._labels: list[NDArray[np.bool_]] = []
        self._count = 0
        self._pixels: _Pixels | None = None

    def update(
        self,
        scores: ArrayLike | torch.Tensor,
        labels: ArrayLike | torch.Tensor,
        maps: Sequence[Array] | torch.Tensor | None = None,
        masks: Sequence[Array] | torch.Tensor | None = None,
    ) -> None:
        """Add B images: scores (B), labels (B; 1: defective) and, for pixel metrics, B maps and
        masks as in `pixel_auroc`.

        Raises ValueError, and adds nothing, if the parts do not match, if maps and masks come with
        some images only, or if a mask contradicts its label: a defective image without its mask
        would be counted as defect-free pixels.
        """
        new_scores, defective = _scored(scores, labels, self._count)
        with_masks = maps is not None and masks is not None
        if with_masks != (maps is not None or masks is not None) or (
            self._count and with_masks != (self._pixels is not None)
        ):
            raise ValueError(
                "maps and masks came with some images only: pass both with every image, or neither"
            )
        if maps is not None and masks is not None:
            parts = _split(maps, masks, np.float32, self._count)
            self._check_labels(defective, parts)
            self._pixels = self._pixels or _Pixels()
            self._pixels.extend(parts)
        self._scores.append(new_scores)
        self._labels.append(defective)
        self._count += defective.size

    def compute(self) -> dict[str, float]:
        """`image_auroc`, and if masks were given `pixel_auroc`, `au_pro_0.3`, `au_pro_0.05`.

        Raises ValueError if there are no images, or only good or only defective ones.
        """
        if not self._count:
            raise ValueError("no image was added: call update() before compute()")
        scores, labels = np.concatenate(self._scores), np.concatenate(self._labels)
        metrics = {"image_auroc": image_auroc(scores, labels)}
        if self._pixels is not None:
            metrics |= self._pixels.areas(self.limits, auroc=True)
        return metrics

    def _check_labels(self, defective: NDArray[np.bool_], parts: list[_Part]) -> None:
        if len(parts) != defective.size:
            raise ValueError(f"{len(parts)} maps for {defective.size} labels: pass one per image")
        for index, (label, (_, defect, _)) in enumerate(zip(defective, parts, strict=True)):
            if label != bool(defect.size):
                kind, mask = ("defective", "empty") if label else ("good", "not empty")
                raise ValueError(
                    f"image {self._count + index} is labelled {kind} but its mask is {mask}: "
                    "correct one of them, or leave maps and masks out for all images"
                )


class _Pixels:
    """The pixels of all images, parted by the ground truth: all that the pixel metrics need."""

    def __init__(self) -> None:
        self._parts: list[_Part] = []

    def extend(self, parts: list[_Part]) -> None:
        self._parts += parts

    def areas(self, limits: Sequence[float] = (), auroc: bool = False) -> dict[str, float]:
        """Pixel AUROC if asked for, and AU-PRO up to each limit, by name."""
        for limit in limits:
            _check_limit(limit)
        if not any(defect.size for _, defect, _ in self._parts):
            raise ValueError(
                f"no mask of {len(self._parts)} marks a defect: "
                "add defective images with their masks, or leave the pixel metrics out"
            )
        good, defect, area = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        if not good.size:
            raise ValueError(
                "the masks mark every pixel as defect: add good images, or check the masks"
            )
        curve = _Curve(good, defect)
        areas = {"pixel_auroc": curve.area(np.ones(defect.size))} if auroc else {}
        return areas | {_key(limit): curve.area(1 / area, limit) for limit in limits}


class _Curve:
    """Share of negatives against weighted share of positives, over all distinct scores.

    Between two scores of positives y stands still, so the corners before and after each of them
    describe the whole curve: negatives above it, then negatives above or tied with it.
    `negatives` is sorted in place.
    """

    def __init__(self, negatives: Floats, positives: Floats) -> None:
        negatives.sort()
        self._order = np.argsort(positives)[::-1]
        ranked = positives[self._order]
        self._last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), ranked.size - 1)
        ascending = ranked[self._last][::-1]  # searchsorted is much faster for ordered queries
        above = negatives.size - np.searchsorted(negatives, ascending, side="right")[::-1]
        at_least = negatives.size - np.searchsorted(negatives, ascending, side="left")[::-1]
        self._x = _corners(above, at_least, negatives.size)

    def area(self, weights: NDArray[np.float64], limit: float = 1.0) -> float:
        """Area up to x = limit, divided by limit."""
        covered = np.cumsum(weights[self._order])[self._last]
        y = _corners(np.append(0, covered[:-1]), covered, covered[-1])
        inside = int(np.searchsorted(self._x, limit, side="right"))
        crossing = slice(inside - 1, inside + 1)
        at_limit = np.interp(limit, self._x[crossing], y[crossing])
        x, y = np.append(self._x[:inside], limit), np.append(y[:inside], at_limit)
        return float(np.trapezoid(y, x) / limit)


def _corners(before: NDArray[Any], after: NDArray[Any], total: float) -> NDArray[np.float64]:
    """0, then before and after of each step in turn, then the total; as shares of the total."""
    steps = np.column_stack([before, after]).ravel()
    return np.concatenate([[0.0], steps, [total]]) / total


def _scored(
    scores: ArrayLike | torch.Tensor, labels: ArrayLike | torch.Tensor, first: int = 0
) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of B images, and which of them are defective; `first` numbers the first of them."""
    checked, kinds = _array(scores), _array(labels)
    if checked.ndim != 1 or checked.shape != kinds.shape:
        raise ValueError(
            f"scores of shape {checked.shape} and labels of shape {kinds.shape} do not match: "
            "pass one of each per image"
        )
    if np.isnan(checked).any():
        raise ValueError(f"score of image {first + np.isnan(checked).argmax()} is NaN: {_NAN_CURE}")
    if not np.isin(kinds, (0, 1)).all():
        raise ValueError("labels other than 0 and 1 found: pass 0 for good and 1 for defective")
    return checked, kinds == 1


def _split(
    maps: Sequence[Array] | torch.Tensor,
    masks: Sequence[Array] | torch.Tensor,
    dtype: type[np.floating] | None = None,
    first: int = 0,
) -> list[_Part]:
    """Part each map by its mask; `first` is the number of the first image, for messages."""
    if len(maps) != len(masks):
        raise ValueError(f"{len(maps)} maps for {len(masks)} masks: pass one mask per map")
    return [
        _split_one(np.asarray(_array(scores), dtype), _array(mask) > 0, index)
        for index, (scores, mask) in enumerate(zip(maps, masks, strict=True), start=first)
    ]


def _split_one(scores: Floats, defect: NDArray[np.bool_], index: int) -> _Part:
    if scores.ndim != 2 or scores.shape != defect.shape:
        raise ValueError(
            f"map {index} of shape {scores.shape} does not fit its mask of shape {defect.shape}: "
            "pass both as H×W, the map resized to the mask"
        )
    if np.isnan(scores).any():
        raise ValueError(f"map {index} holds NaN: {_NAN_CURE}")
    if not defect.any():
        return scores.ravel().copy(), scores[defect], np.zeros(0, np.int64)
    _, components = cv2.connectedComponents(defect.astype(np.uint8), connectivity=8)
    members = components[defect]
    return scores[~defect], scores[defect], np.bincount(members)[members]


def _array(values: ArrayLike | torch.Tensor) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:  # unknown to numpy
            values = values.float()
    return np.asarray(values)


def _check_limit(limit: float) -> None:
    if not 0 < limit <= 1:
        raise ValueError(f"AU-PRO limit {limit} is no false positive rate: choose one in (0, 1]")


def _key(limit: float) -> str:
    return f"au_pro_{limit}"
