"""Losses of recovered people against true ones.

All are called as `loss(net, seen, truth, body)`: what the net said of the people of the truth, in
their order, and what is true; and return their terms by name, already weighed, with their sum under
`loss`. Weights are those of the papers and of released code (`facts` in docs/mesh.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vision.body import Body, BodyModel
from vision.body.camera import project
from vision.mesh.people import Truth, stand


class MeshLoss(nn.Module):
    """Base: weights by name, and what the losses of all nets share.

    Args:
        weights: of terms, in place of the default ones; 0 leaves a term out.

    Raises:
        ValueError: a weight of a term that this loss has not.
    """

    default: dict[str, float]

    def __init__(self, weights: dict[str, float] | None = None) -> None:
        super().__init__()
        unknown = {*(weights or {})} - {*self.default}
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no term {', '.join(sorted(unknown))}; its terms are"
                f" {', '.join(self.default)}"
            )
        self.weights = {**self.default, **(weights or {})}

    def forward(self, net: Any, seen: Any, truth: Truth, body: BodyModel) -> dict[str, Tensor]:
        terms = self.terms(net, seen, truth, body)
        weighed = {name: self.weights[name] * value for name, value in terms.items()}
        return {**weighed, "loss": torch.stack([*weighed.values()]).sum()}

    def terms(self, net: Any, seen: Any, truth: Truth, body: BodyModel) -> dict[str, Tensor]:
        raise NotImplementedError


class MultiHMRLoss(MeshLoss):
    """That of Multi-HMR: sums of absolute differences over axes, means over points and people.

    Points in the picture count where their true place is inside it. They are divided by the side of
    the picture over 100, as if all nets saw pictures of 100 pixels, so that nets of all sizes weigh
    them alike; ours, where the released code takes pixels from the tenth epoch on.
    """

    default = {
        "heat": 10.0,
        "fov": 1.0,
        "offset": 1.0,
        "rotation": 0.1,
        "shape": 1.0,
        "depth": 1.0,
        "place": 1.0,
        "joints": 100.0,
        "vertices": 100.0,
        "joints_2d": 1.0,
        "vertices_2d": 1.0,
    }

    def terms(self, net: Any, seen: Any, truth: Truth, body: BodyModel) -> dict[str, Tensor]:
        heat = torch.zeros_like(seen.heat)
        heat[seen.at] = 1
        found = {"heat": focal(seen.heat, heat)}
        if seen.fov is not None:  # of the variant for Anny, whose weight is not published: ours
            true = 2 * (net.spec.size[1] / 2 / seen.camera[:, 0, 0]).atan()
            found["fov"] = (seen.fov - true).abs().mean()
        if not len(truth.picture):
            return found
        people, stood = seen.people, stand(seen.people, net.spec, body)
        anchor = truth.joints[:, body.joint(net.spec.anchor)]
        pixel = project(anchor[:, None], truth.camera)[:, 0]
        cell = torch.stack([seen.at[2], seen.at[1]], -1) + 0.5
        joints = [body.joint(name) for name in net.spec.joints]
        size = net.spec.size[1]
        found |= {
            "offset": _sum(seen.offset - (pixel / net.step - cell)),
            "rotation": (people.rotations - truth.pose[:, joints]).abs().flatten(1).sum(1).mean(),
            "shape": _sum(people.shape - truth.shape),
            "depth": (seen.depth - net.depth_number(anchor[:, 2], truth.camera)).abs().mean(),
            "place": _sum(people.place - anchor),
            "joints": _sum(_centred(stood.joints, stood) - _centred(truth.joints, truth)),
            "vertices": _sum(_centred(stood.vertices, stood) - _centred(truth.vertices, truth)),
            "joints_2d": _in_picture(stood.joints, truth.joints, truth.camera, size),
            "vertices_2d": _in_picture(stood.vertices, truth.vertices, truth.camera, size),
        }
        return found


def focal(logits: Tensor, truth: Tensor, alpha: float = 2, beta: float = 4) -> Tensor:
    """CornerNet's loss of a heat map (Law and Deng, ECCV 2018), over the number of ones.

    `truth` is 1 where somebody is and less elsewhere; what is near to 1 there counts little.
    """
    score = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    there = truth.eq(1)
    right = ((1 - score) ** alpha * score.log())[there].sum()
    wrong = ((1 - truth) ** beta * score**alpha * (1 - score).log())[~there].sum()
    return -(right + wrong) / there.sum().clamp(min=1)


def _sum(difference: Tensor) -> Tensor:
    """Of absolute values over the last axis, mean over all others."""
    return difference.abs().sum(-1).mean()


def _centred(points: Tensor, of: Body | Truth) -> Tensor:
    return points - of.joints[:, :1]


def _in_picture(points: Tensor, truth: Tensor, camera: Tensor, size: int) -> Tensor:
    """Difference in the picture, in hundredths of its side, where the true points lie in it."""
    # Somebody who is put behind the camera or into it has no place in the picture.
    ahead = torch.cat([points[..., :2], points[..., 2:].clamp(min=0.1)], -1)
    seen, wanted = project(ahead, camera), project(truth, camera)
    inside = ((wanted > 0) & (wanted < size)).all(-1)
    difference = (seen - wanted).abs().sum(-1) * 100 / size
    return (difference * inside).sum() / inside.sum().clamp(min=1)
