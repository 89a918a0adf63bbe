"""docs/inspection.png: generated parts, their maps and overlays, from what `make demo` wrote.

make demo && .venv/bin/python scripts/readme_picture.py
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

from data.images import read, read_rgb, resize, write_png
from vision.report.overlay import heat

SIDE, GAP = 200, 8


def main(out: Path = Path("demo/report"), target: Path = Path("docs/inspection.png")) -> None:
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    by_score = sorted(rows, key=lambda row: row["score"])
    good = [r for r in by_score if "good" in Path(r["input"]).parts]
    bad = [r for r in by_score if "good" not in Path(r["input"]).parts]
    # The middle good part, and the middle and the clearest defective one: no picked winners.
    chosen = [good[len(good) // 2], bad[len(bad) // 2], bad[-1]]
    strips = []
    for row in chosen:
        map_path, overlay_path = (out / name for name in row["outputs"][:2])
        map_ = read(map_path).pixels[..., 0].astype(np.float32) / np.float32(65535)
        tiles = [read_rgb(Path(row["input"])), heat(map_), read_rgb(overlay_path)]
        tiles = [resize(tile, SIDE) for tile in tiles]
        gap = np.full((SIDE, GAP, 3), 255, np.uint8)
        strip = np.hstack([tiles[0], gap, tiles[1], gap, tiles[2]])
        label = np.full((28, strip.shape[1], 3), 255, np.uint8)
        text = f"{row['verdict']}, score {row['score']:.2f}"
        cv2.putText(
            label, text, (2, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA
        )
        strips.append(np.vstack([strip, label]))
    space = np.full((strips[0].shape[0], 3 * GAP, 3), 255, np.uint8)
    write_png(target, np.hstack([strips[0], space, strips[1], space, strips[2]]))
    print(target)


if __name__ == "__main__":
    main()
