"""Draws docs/people.png: generated pictures, and what is true of the people in them over each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from data.images import write_png
from vision.body.people import People
from vision.report.mesh import overlay, seen_from

SIDE, SEEDS = 320, (2, 6, 8)


def main() -> None:
    people = People(SIDE, SIDE)
    columns = []
    for seed in SEEDS:
        image, crowd = people.picture([0, seed])
        given = (torch.from_numpy(a) for a in (crowd.pose, crowd.shape, crowd.translation))
        vertices = [*people.body(*given).vertices.numpy()]
        drawn = overlay(image, vertices, people.faces, crowd.camera)
        top = seen_from("top", vertices, people.faces, SIDE, SIDE)
        columns.append(np.concatenate([image, drawn, top]))
    target = Path("docs/people.png")
    write_png(target, np.concatenate(columns, 1))
    print(target)


if __name__ == "__main__":
    main()
