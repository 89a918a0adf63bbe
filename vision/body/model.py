"""What all body models share: parameters in, a posed surface and named joints out."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from vision.layers.precision import exact


class Body(NamedTuple):
    """Posed people, in metres.

    Attributes:
        vertices: B×V×3.
        joints: B×J×3, by `BodyModel.joint_names`; the first is the pelvis.
    """

    vertices: Tensor
    joints: Tensor


class Rest(NamedTuple):
    """Bodies before a pose turns them, in the model's own coordinates, in metres.

    Attributes:
        vertices: B×V×3.
        joints: B×J×3.
        facing: B×J×3×3, by which every joint turns what hangs on it before the pose does; None:
            not at all.
    """

    vertices: Tensor
    joints: Tensor
    facing: Tensor | None = None


class BodyModel(nn.Module):
    """Pose, shape and place of people → their surfaces. Differentiable, in batches, on any device.

    Where nothing turns them all models have y up, face z and have the pelvis at `translation`, but
    their limbs differ: SMPL and SMPL-X stand in a T, Anny in an A with bent elbows. So rotations of
    one are no pose of the other. In a camera's view (y down, looking along z) a person who stands
    and looks into the camera is turned by half around x.

    Decodes in the precision of its own numbers, within `torch.autocast` too, whose bfloat16 moves
    vertices by centimetres.

    Attributes:
        faces: F×3 indices of vertices, counter-clockwise seen from outside.
        joint_names: J names; those that SMPL-X has too bear its names.
        parents: which joint each hangs from; −1 for the first.
        shape_names: what the numbers of a shape are.
        neutral_shape: the shape of an average person.
        weights: V×J, how much each vertex follows each joint.
    """

    BY_VERTEX: ClassVar[tuple[str, ...]] = ()
    SHAPES: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that have a row for each vertex, and of those that are K×3V."""

    faces: Tensor
    neutral_shape: Tensor
    weights: Tensor
    joint_names: tuple[str, ...]
    parents: tuple[int, ...]
    shape_names: tuple[str, ...]

    def __init__(
        self, joint_names: Sequence[str], parents: Sequence[int], arrays: Mapping[str, Tensor]
    ) -> None:
        super().__init__()
        self.joint_names, self.parents = tuple(joint_names), tuple(parents)
        self.chain = Chain(self.parents)
        for name, array in arrays.items():
            self.register_buffer(name, array, persistent=False)

    def forward(self, pose: Tensor, shape: Tensor, translation: Tensor | None = None) -> Body:
        """B×J×3×3 rotations, each against its parent, B×S shape, B×3 place of the pelvis.

        Rotations turn about axes that are parallel to the world's where nothing is turned, as
        SMPL's do; the first turns the whole body.
        """
        with exact(pose.device):
            place = None if translation is None else self._own(translation)
            return self._decode(self._own(pose), self._own(shape), place)

    def at_rest(self, shape: Tensor) -> Rest:
        """B×S shapes → the bodies that poses turn, without corrections for a pose."""
        with exact(shape.device):
            return self._at_rest(self._own(shape))

    def pelvis(self, shape: Tensor) -> Tensor:
        """B×S shapes → B×3, where the pelvis lies in the model's own coordinates."""
        return self.at_rest(shape).joints[:, 0]

    def _own(self, numbers: Tensor) -> Tensor:
        return numbers.to(self.weights.dtype)

    def _decode(self, pose: Tensor, shape: Tensor, translation: Tensor | None) -> Body:
        return self._posed(pose, self._at_rest(shape), translation)

    def _at_rest(self, shape: Tensor) -> Rest:
        raise NotImplementedError

    def still(self, count: int) -> Tensor:
        """The pose in which nothing turns, for so many: B×J×3×3."""
        eye = torch.eye(3, dtype=self.weights.dtype, device=self.weights.device)
        return eye.expand(count, len(self.parents), 3, 3)

    def _posed(self, pose: Tensor, rest: Rest, translation: Tensor | None) -> Body:
        vertices, heads, facing = rest
        parents = list(self.parents[1:])
        offsets = heads[:, 1:] - heads[:, parents]
        if facing is not None:
            offsets = (facing[:, parents] @ offsets[..., None])[..., 0]
        place = torch.zeros_like(heads[:, 0]) if translation is None else translation
        turned, joints = self.chain.pose(pose, torch.cat([place[:, None], offsets], 1))
        turns = turned if facing is None else turned @ facing
        return Body(skin(vertices, heads, self.weights, turns, joints), joints)

    def thinned(self, every: int) -> Self:
        """The same body with every so-manieth vertex alone, or with none (0); it has no faces.

        For losses: to decode all of the surface takes half of a training step on a CPU. Joints and
        shapes stay those of the whole body.
        """
        if every == 1:
            return self
        thin = copy.copy(self)
        arrays = dict(self._buffers)
        for name in ("weights", *self.BY_VERTEX):
            array = getattr(self, name)
            arrays[name] = array[::every].contiguous() if every else array[:0]
        for name in self.SHAPES:
            rows = getattr(self, name).unflatten(1, (-1, 3))  # K×V×3
            rows = rows[:, ::every] if every else rows[:, :0]
            arrays[name] = rows.flatten(1).contiguous()
        thin._buffers = arrays | {"faces": self.faces[:0]}
        return thin

    def part(self, *words: str) -> Tensor:
        """Vertices that follow, above all, a joint whose name contains one of these words."""
        named = [any(word in name for word in words) for name in self.joint_names]
        return torch.tensor(named, device=self.weights.device)[self.weights.argmax(1)].nonzero()[
            :, 0
        ]

    def joint(self, name: str) -> int:
        """Index of a joint.

        Raises:
            ValueError: a name that this model lacks.
        """
        if name not in self.joint_names:
            raise ValueError(f"{type(self).__name__} has no joint {name}")
        return self.joint_names.index(name)


class Chain:
    """Joints hanging from joints, walked level by level."""

    def __init__(self, parents: Sequence[int]) -> None:
        assert parents[0] < 0 <= min(parents[1:], default=0), "one root, in the first place"
        depths = [0]
        for parent in parents[1:]:
            depths.append(depths[parent] + 1)
        levels = [[0]]
        self.levels: list[tuple[list[int], list[int]]] = []
        """Joints, and where each one's parent stands in the level above."""
        for depth in range(1, max(depths) + 1):
            joints = [joint for joint, d in enumerate(depths) if d == depth]
            self.levels.append((joints, [levels[-1].index(parents[joint]) for joint in joints]))
            levels.append(joints)
        walked = [joint for level in levels for joint in level]
        self.order = [walked.index(joint) for joint in range(len(parents))]

    def pose(self, rotations: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Global rotations B×J×3×3 and places B×J×3 of the joints.

        Of rotations against their parents, and B×J×3 offsets from the parents where nothing turns;
        the first offset is the place of the root.
        """
        turned, placed = [rotations[:, :1]], [offsets[:, :1]]
        for joints, above in self.levels:
            parent = turned[-1][:, above]
            placed.append(placed[-1][:, above] + (parent @ offsets[:, joints, :, None])[..., 0])
            turned.append(parent @ rotations[:, joints])
        return torch.cat(turned, 1)[:, self.order], torch.cat(placed, 1)[:, self.order]


def skin(rest: Tensor, heads: Tensor, weights: Tensor, turns: Tensor, joints: Tensor) -> Tensor:
    """Every vertex follows its joints, by weights V×J.

    B×V×3 vertices and B×J×3 joints at rest, B×J×3×3 by which each joint turns what hangs on it, and
    B×J×3 where it is then → B×V×3.
    """
    shift = joints - (turns @ heads[..., None])[..., 0]
    moves = torch.cat([turns, shift[..., None]], -1)  # B×J×3×4
    # A product for each of the 12 numbers of a move, so that all that follows lies in long rows.
    moves = moves.flatten(2).mT @ weights.T  # B×12×V
    x, y, z = rest.unbind(-1)  # B×V
    rows = moves.unflatten(1, (3, 4)).unbind(1)
    return torch.stack([r[:, 0] * x + r[:, 1] * y + r[:, 2] * z + r[:, 3] for r in rows], -1)
