"""`make bench`, third part: body models, the rasteriser, pictures of generated people; one run.

SMPL-X is decoded by ours and by the package smplx, in turn, from the same file of random numbers
(tests/bodies.py writes it), since the real ones are gated.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import roma
import smplx
import torch
from bench import console, medians, seconds
from rich.table import Table

from vision.body import SMPLX, Anny, BodyModel
from vision.body.camera import intrinsics
from vision.body.people import People
from vision.body.raster import rasterise

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from bodies import write_smplx

ROUNDS, SIDE = 7, 448


@torch.inference_mode()
def main() -> None:
    console.print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    console.print(f"Anny is there after {seconds(Anny):.2f} s")
    anny, table = Anny(), Table("body model", "code", "ms per body, 1", "ms per body, 64")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "SMPLX_NEUTRAL.npz"
        write_smplx(path)
        ours, theirs = SMPLX(path), smplx.SMPLX(folder, use_pca=False)
    columns = []
    for count in (1, 64):
        calls = {"Anny, ours": decoding(anny, count), "SMPL-X, ours": decoding(ours, count)}
        calls["SMPL-X, smplx"] = partial(theirs, **parameters(count))
        columns.append(medians(calls, ROUNDS))
    for name in columns[0]:
        each = (1000 * took[name] / n for took, n in zip(columns, (1, 64), strict=True))
        table.add_row(*name.split(", "), *(f"{ms:.1f}" for ms in each))
    console.print(table)
    still = anny.still(1).clone()
    still[:, 0] = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    vertices = anny(still, anny.neutral_shape[None], torch.tensor([[0.0, 0, 2.5]])).vertices[0]
    camera, faces = intrinsics(SIDE, SIDE).numpy(), anny.faces.numpy()
    draw = partial(rasterise, vertices.numpy(), faces, camera, SIDE, SIDE)
    people = People(SIDE, SIDE)
    took = medians({"raster": draw}, ROUNDS)["raster"]
    pictures = [seconds(partial(people.picture, [0, i])) for i in range(24)]
    console.print(f"{len(faces):,} triangles into {SIDE}×{SIDE} pixels: {1000 * took:.0f} ms")
    console.print(f"pictures of 1 to 6 people, {SIDE}×{SIDE}: {1 / np.mean(pictures):.1f} a second")


def decoding(model: BodyModel, count: int) -> partial:
    draw = torch.Generator().manual_seed(0)
    vectors = 0.3 * torch.randn(count, len(model.parents), 3, generator=draw)
    shape = model.neutral_shape.expand(count, -1)
    return partial(model, roma.rotvec_to_rotmat(vectors), shape)


def parameters(count: int) -> dict[str, torch.Tensor]:
    """Random ones, by smplx's names."""
    draw = torch.Generator().manual_seed(0)
    sizes = {"global_orient": 3, "body_pose": 63, "jaw_pose": 3, "leye_pose": 3, "reye_pose": 3}
    sizes |= {"left_hand_pose": 45, "right_hand_pose": 45, "betas": 10, "expression": 10}
    return {name: 0.3 * torch.randn(count, n, generator=draw) for name, n in sizes.items()}


if __name__ == "__main__":
    main()
