"""docs/jobs.png: what each of the three commands does with what comes with the package.

    python scripts/readme_picture.py

`restore` enlarges a photograph that was made smaller by MATLAB's bicubic (coffee, from
scikit-image, CC0); `inspect` has seen four good generated parts and gets one with a crack; `mesh`
gets a generated picture that no net was trained on.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage import data as free

import vision
from data.degrade import U8, bicubic
from data.images import read_rgb, resize, write_png
from data.synthetic import make_bad, make_good
from vision.body.people import People
from vision.cli import infer
from vision.report.mesh import overlay

SIDE, GAP = 240, 8
GOOD, CRACK = 4, 5


def main(target: Path = Path("docs/jobs.png")) -> None:
    jobs = {"restore": restored(), "inspect": inspected(), "mesh": recovered()}
    gap = np.full((SIDE, GAP, 3), 255, np.uint8)
    panels = []
    for job, pair in jobs.items():
        before, after = (resize(image, SIDE) for image in pair)
        panel = np.hstack([before, gap[:, : GAP // 4], after])
        label = np.full((28, panel.shape[1], 3), 255, np.uint8)
        where = ((panel.shape[1] - 9 * len(job)) // 2, 20)
        cv2.putText(label, job, where, cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40,) * 3, 1, cv2.LINE_AA)
        panels.append(np.vstack([panel, label]))
    space = np.full((len(panels[0]), 2 * GAP, 3), 255, np.uint8)
    write_png(target, np.hstack([panels[0], space, panels[1], space, panels[2]]))
    print(target)


def restored() -> tuple[U8, U8]:
    truth = free.coffee()[100:340, 150:390]
    small = bicubic(truth, 0.5)
    restore: Any = vision.load("hat_light_x2")
    larger = cv2.resize(small, truth.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return np.asarray(larger, np.uint8), restore(small).pixels


def inspected() -> tuple[U8, U8]:
    with tempfile.TemporaryDirectory() as folder:
        good, part, out = (Path(folder) / name for name in ("good", "part.png", "out"))
        good.mkdir()
        for i in range(GOOD):
            write_png(good / f"{i}.png", make_good("flange", 0, "train", i))
        write_png(part, make_bad("flange", 0, CRACK)[0])
        if infer(["inspect", str(part), "--train-on", str(good), "-o", str(out)]):
            raise SystemExit("inspect failed")
        drawn = next(out.rglob("*overlay*.*"))
        return read_rgb(part), read_rgb(drawn)


def recovered() -> tuple[U8, U8]:
    image, _ = People(448, 448, most=3, farthest=3.5).picture([0, 2, 2])
    recover: Any = vision.load("multihmr_s_anny")
    found = recover(image)
    faces = recover.body.faces.cpu().numpy()
    return image, overlay(image, [*found.vertices], faces, found.camera)


if __name__ == "__main__":
    main()
