"""What all nets that recover people give, and how a body model turns it into surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import roma
import torch
from torch import Tensor

from vision.body import AnnyMakeHuman, Body, BodyModel, create
from vision.body.smpl import BODY, HANDS, SMPLX

BodyName = Literal["anny", "anny_makehuman", "smplx", "smpl"]
SHARED = (*BODY, *HANDS)
"""Joints that Anny and SMPL-X both have: 22 of the body, 15 of each hand."""


@dataclass(frozen=True)
class MeshSpec:
    """What the engine has to know of a net that recovers people, without knowing its name.

    Attributes:
        body: the model its numbers are of, by its name in `vision.body.create`.
        joints: whose rotations it gives; the others stay as they are at rest.
        reads: `pictures` whole, `crops` (whole pictures and boxes of people, which it cuts out) or
            `clips` (so many pictures one after another).
        size: height and width of the picture, or of a crop, in pixels.
        anchor: the joint that `People.place` is the place of; None: the origin of SMPL's own
            coordinates, which lies near the pelvis.
        frames: of a clip.
        hands_from_relaxed: whether rotations of hands count from SMPL-X's relaxed hands (rotation
            vectors are added, as smplx does), and not from flat ones.
        about_bones: whether rotations turn about the axes of each bone, as the body has them
            (`axes`), and not about axes that are parallel to the world's at rest.
        betas: how many shapes of SMPL-X or SMPL its numbers are of; Anny's are always six.
        expressions: how many of SMPL-X; they follow the betas.
        anew: how the names of those tensors begin that it learns anew when it starts from weights
            that lack them.
    """

    body: BodyName
    joints: tuple[str, ...]
    reads: Literal["pictures", "crops", "clips"]
    size: tuple[int, int]
    anchor: str | None = "pelvis"
    frames: int = 1
    hands_from_relaxed: bool = False
    about_bones: bool = False
    betas: int = 10
    expressions: int = 10
    anew: tuple[str, ...] = ()

    @property
    def sees(self) -> int | None:
        """Side of the square pictures that the net takes; None: any, it cuts crops out of them."""
        return None if self.reads == "crops" else self.size[0]

    def create_body(self, folder: Path | None = None) -> BodyModel:
        """The model that its numbers are of; see `vision.body.create`."""
        return create(self.body, folder, betas=self.betas, expressions=self.expressions)


class People(NamedTuple):
    """N people of a batch of pictures (of all frames of all clips, one clip after another).

    Attributes:
        picture: N, int64, which picture of the batch each is in.
        score: N in [0, 1].
        rotations: N×R×3×3 against each joint's parent, by `MeshSpec.joints`; the first turns the
            whole body, in the camera's view.
        shape: N×S, as the body model takes it.
        place: N×3 in metres before the camera, of the spec's anchor.
    """

    picture: Tensor
    score: Tensor
    rotations: Tensor
    shape: Tensor
    place: Tensor

    def take(self, chosen: Tensor) -> People:
        """Some of them, by index or mask."""
        return People(*(field[chosen] for field in self))


def pose_of(people: People, spec: MeshSpec, body: BodyModel) -> Tensor:
    """N×J×3×3 rotations of all joints of `body`."""
    pose = body.still(len(people.rotations)).to(people.rotations.dtype)
    rotations = people.rotations
    if spec.hands_from_relaxed:
        rotations = _from_relaxed(rotations, spec, body)
    where = [body.joint(name) for name in spec.joints]
    if spec.about_bones:
        assert isinstance(body, AnnyMakeHuman), "no other model's bones have axes"
        axes = body.axes(people.shape)[:, where].to(rotations.dtype)
        rotations = axes @ rotations @ axes.mT
    return torch.index_copy(pose, 1, torch.tensor(where, device=pose.device), rotations)


def stand(people: People, spec: MeshSpec, body: BodyModel) -> Body:
    """Surfaces and joints of N people before the camera.

    Raises:
        ValueError: a body model that takes other shapes than the net gives.
    """
    given, taken = people.shape.shape[1], len(body.neutral_shape)
    if given != taken:
        raise ValueError(
            f"the net's shapes have {given} numbers, those of {type(body).__name__} {taken}; take"
            " the body of net.spec.create_body, and give its MeshSpec the net's betas and"
            " expressions"
        )
    centred = body(pose_of(people, spec, body), people.shape)
    if spec.anchor is None:
        shift = people.place + body.pelvis(people.shape)
    else:
        shift = people.place - centred.joints[:, body.joint(spec.anchor)]
    return Body(*(points + shift[:, None] for points in centred))


def _from_relaxed(rotations: Tensor, spec: MeshSpec, body: BodyModel) -> Tensor:
    assert isinstance(body, SMPLX), "no other model has relaxed hands"
    means = roma.rotmat_to_rotvec(body.hand_means.flatten(0, 1))  # 30×3, left and right
    named = dict(zip(HANDS, means, strict=True))
    add = torch.stack([named.get(name, torch.zeros_like(means[0])) for name in spec.joints])
    moved = roma.rotvec_to_rotmat(roma.rotmat_to_rotvec(rotations) + add)
    hands = torch.tensor([name in named for name in spec.joints], device=rotations.device)
    return torch.where(hands[:, None, None], moved, rotations)


class Truth(NamedTuple):
    """What is true of N people of a batch, in the camera's view, in metres and pixels.

    Attributes:
        picture: N, int64, which picture of the batch each is in.
        pose: N×J×3×3 and joints N×J×3, of the joints of the net's body model.
        shape: N×S, as the body model that the data are true of takes it.
        vertices: N×V×3, of that model; V is 0 where its files are not there.
        box: N×4 left, top, right, bottom of what shows.
        camera: N×3×3, of each person's picture.
        track: N, int64, the same for one person in all frames of a clip.
        known: names of the joints whose pose and place are known; None: all of them.
        same_shape, same_surface: whether the shapes, and the vertices, of the net can be compared
            with these.
    """

    picture: Tensor
    pose: Tensor
    shape: Tensor
    vertices: Tensor
    joints: Tensor
    box: Tensor
    camera: Tensor
    track: Tensor
    known: tuple[str, ...] | None = None
    same_shape: bool = True
    same_surface: bool = True

    def take(self, chosen: Tensor) -> Truth:
        """Some of them, by index or mask."""
        fields: list[Any] = [f[chosen] if isinstance(f, Tensor) else f for f in self]
        return Truth(*fields)

    def which(self, names: Sequence[str]) -> list[int]:
        """Places of the joints that are known among these."""
        return [i for i, name in enumerate(names) if self.known is None or name in self.known]
