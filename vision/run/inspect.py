"""The inspection task of the batch engine: anomaly maps, overlays, scores.csv, report.html."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from data.images import Picture, write_jpeg, write_png
from vision.report.html import write_report
from vision.report.overlay import heat, overlay
from vision.run.engine import Finished
from vision.run.manifest import Manifest
from vision.run.sources import Source

THUMBNAIL = 256
"""Longest side of the pictures in the report."""


@dataclass(frozen=True)
class Inspection:
    """What a predictor found in one picture.

    `score` in [0, 1) is calibrated: 0.5 is the threshold. `verdict` is "good" or "defect". `map`
    is float32 H×W at the picture's own resolution, calibrated like the score.
    """

    score: float
    verdict: str
    map: NDArray[np.float32]


class Predictor(Protocol):
    """What `InspectJob` needs of a loaded detector."""

    fingerprint: str
    """Of weights and options; the same fingerprint gives the same inspections."""

    def predict(self, images: list[NDArray[np.uint8]]) -> list[Inspection]:
        """Inspect RGB pictures, uint8 H×W×3, of any sizes."""
        ...


class InspectJob:
    """Score pictures and show where they deviate.

    Per picture: `<name>.map.png` (16 bit, 65535 × the calibrated map, so 32768 is the threshold)
    and `<name>.overlay.jpg`, in this order in the row's `outputs`, and `score`, `verdict`,
    `width`, `height` in the row. Small pictures for the report go to OUT/.thumbs, so that the
    report of a later call needs neither the inputs nor the large outputs again.
    """

    name = "inspect"
    clip = 1

    def __init__(
        self,
        predictor: Predictor,
        *,
        report_pictures: int = 500,
        title: str = "Inspection report",
    ) -> None:
        self.predictor = predictor
        self.fingerprint = predictor.fingerprint
        self.report_pictures = report_pictures
        self.title = title

    def predict(self, pictures: list[Picture]) -> list[Inspection]:
        """One inspection per picture. ValueError (ImageError) for pixels without a meaning."""
        return self.predictor.predict([picture.rgb8() for picture in pictures])

    def write(
        self, result: Inspection, picture: Picture, source: Source, out: Path
    ) -> dict[str, Any]:
        """Write map, overlay and thumbnails; ValueError if the result is not finite."""
        rgb = picture.rgb8()
        height, width = rgb.shape[:2]
        assert result.map.shape == (height, width), f"{result.map.shape} for {height}×{width}"
        if not (math.isfinite(result.score) and np.isfinite(result.map).all()):
            raise ValueError(
                f"{picture.name}: its anomaly score is not a finite number; look for"
                " an overflow in the net, or train again"
            )
        stem = source.relative.as_posix()
        outputs = [f"{stem}.map.png", f"{stem}.overlay.jpg"]
        thumbnails = [f".thumbs/{stem}.{kind}.jpg" for kind in ("image", "map", "overlay")]
        for folder in {(out / name).parent for name in outputs + thumbnails}:
            folder.mkdir(parents=True, exist_ok=True)
        levels = np.rint(result.map.clip(0, 1) * 65535).astype(np.uint16)
        write_png(out / outputs[0], levels)
        write_jpeg(out / outputs[1], overlay(rgb, result.map))
        small, small_map = _thumbnails(rgb, result.map)
        shown = (small, heat(small_map), overlay(small, small_map))
        for name, pixels in zip(thumbnails, shown, strict=True):
            write_jpeg(out / name, pixels, quality=85)
        return {
            "outputs": outputs,
            "score": float(result.score),
            "verdict": result.verdict,
            "width": width,
            "height": height,
            "thumbnails": thumbnails,
        }

    def finish(self, manifest: Manifest, out: Path) -> Finished:
        """Write scores.csv (a line per row of the manifest) and report.html."""
        table, report = out / "scores.csv", out / "report.html"
        try:
            _write_csv(table, manifest)
            write_report(
                report, manifest.rows(), title=self.title, pictures=self.report_pictures, out=out
            )
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"{manifest.path}: a row is not as `inspect` writes it ({error}); move the file"
                " away, or choose another OUT (-o)"
            ) from error
        return Finished([table, report])


def _thumbnails(
    rgb: NDArray[np.uint8], map: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Picture and map, at most THUMBNAIL pixels on the longest side."""
    height, width = map.shape
    scale = THUMBNAIL / max(height, width)
    if scale >= 1:
        return rgb, map
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
    # The maximum of each cell, not its mean: a defect of a few pixels must not fade away.
    cell = math.ceil(1 / scale)
    peaks = cv2.dilate(map, np.ones((cell, cell), np.uint8))
    small_map = cv2.resize(peaks, size, interpolation=cv2.INTER_NEAREST)
    return small, small_map.astype(np.float32, copy=False)


def _write_csv(path: Path, manifest: Manifest) -> None:
    """Columns input, score, verdict, map, overlay, error; file names keep their exact bytes."""
    partial = path.with_name(".scores.partial")
    with open(partial, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(["input", "score", "verdict", "map", "overlay", "error"])
        for row in manifest.rows():
            map, overlay = row["outputs"] or ("", "")
            figures = (row.get("score", ""), row.get("verdict", ""))
            writer.writerow([row["input"], *figures, map, overlay, row["error"] or ""])
    os.replace(partial, path)
