"""Losses of recovered people against true ones.

All are called as `loss(net, seen, truth, body)`: what the net said of the people of the truth, in
their order, and what is true; and return their terms by name, already weighed, with their sum under
`loss`. Terms of what the truth does not know are left out. Weights are those of the papers and of
the released code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import roma
import torch
from torch import Tensor, nn

from vision.body import Body, BodyModel
from vision.body.camera import project
from vision.mesh.crops import PATCH, crop_of
from vision.mesh.osx import ANNY_HAND, WIDE
from vision.mesh.people import Truth, stand


class MeshLoss(nn.Module):
    """Base: weights by name, and what the losses of all nets share.

    Args:
        weights: of terms, in place of the default ones; 0 leaves a term out.

    Raises:
        ValueError: a weight of a term that this loss has not.
    """

    default: dict[str, float]
    every: int = 1
    """Every how-manieth vertex of a surface it looks at in training; 0: at none."""

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

    Args:
        weights: as of `MeshLoss`.
        every: of the vertices that it looks at in training: 8 is every eighth, which takes a third
            off a step on a CPU (ours).

    Raises:
        ValueError: every below 1.
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

    def __init__(self, weights: dict[str, float] | None = None, every: int = 1) -> None:
        super().__init__(weights)
        if every < 1:
            raise ValueError(f"every={every}: the loss looks at vertices; give 1 or more")
        self.every = every

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
        size = net.spec.size[1]
        own, theirs = _told(net.spec.joints, truth, body)
        turns = people.rotations[:, own] - truth.pose[:, theirs]
        known = truth.which(body.joint_names)
        joints, wanted = stood.joints[:, known], truth.joints[:, known]
        found |= {
            "offset": _sum(seen.offset - (pixel / net.step - cell)),
            "rotation": turns.abs().flatten(1).sum(1).mean(),
            "depth": (seen.depth - net.depth_number(anchor[:, 2], truth.camera)).abs().mean(),
            "place": _sum(people.place - anchor),
            "joints": _sum(_centred(joints, stood) - _centred(wanted, truth)),
            "joints_2d": _in_picture(joints, wanted, truth.camera, size),
        }
        if truth.same_shape:
            found["shape"] = _sum(people.shape - truth.shape)
        if truth.same_surface:
            off = _centred(stood.vertices, stood) - _centred(truth.vertices, truth)
            found["vertices"] = _sum(off)
            found["vertices_2d"] = _in_picture(stood.vertices, truth.vertices, truth.camera, size)
        return found


class CoordFormerLoss(MeshLoss):
    """That of CoordFormer, with its weights; points in metres, in the picture in parts of its side.

    Its prior of poses is a file that cannot be had freely, and is left out. `place` is ours, for
    depths under a known camera.
    """

    every = 0
    default = {
        "heat": 160.0,
        "joints": 200.0,
        "aligned": 360.0,
        "joints_2d": 400.0,
        "rotation": 80.0,
        "shape": 36.0,
        "acceleration": 200.0,
        "acceleration_2d": 200.0,
        "smooth": 100.0,
        "place": 50.0,
    }

    def terms(self, net: Any, seen: Any, truth: Truth, body: BodyModel) -> dict[str, Tensor]:
        size = net.spec.size[1]
        pelvis = project(truth.joints[:, :1], truth.camera)[:, 0]
        where = pelvis * net.grid / size - 0.5
        found = {"heat": focal(seen.heat, bells(seen.heat, seen.at, where))}
        if not len(truth.picture):
            return found
        people, stood = seen.people, stand(seen.people, net.spec, body)
        own, theirs = _told(net.spec.joints, truth, body)
        joints, wanted = stood.joints[:, theirs], truth.joints[:, theirs]
        turns = people.rotations[:, own] - truth.pose[:, theirs]
        centred, true = joints - joints[:, :1], wanted - wanted[:, :1]
        flat, plane = project(_ahead(joints), truth.camera), project(wanted, truth.camera)
        inside = ((plane > 0) & (plane < size)).all(-1)
        flat, plane = flat / size, plane / size
        moves = _moments(truth)
        found |= {
            "joints": (centred - true).norm(dim=-1).mean(),
            "aligned": (_fitted(centred, true) - true).norm(dim=-1).mean(),
            "joints_2d": _mean((flat - plane).norm(dim=-1), inside),
            "rotation": turns.square().sum((-1, -2)).mean(),
            "place": (seen.log_depth - net.depth_number(wanted[:, 0, 2], truth.camera))
            .abs()
            .mean(),
        }
        if truth.same_shape:
            found["shape"] = (people.shape - truth.shape).square().mean()
        if len(moves):
            found |= {
                "acceleration": _bend(centred - true, moves).norm(dim=-1).mean(),
                "acceleration_2d": _mean(
                    _bend(flat - plane, moves).norm(dim=-1), inside[moves].all(1)
                ),
                "smooth": _bend(people.rotations, moves).square().sum((-1, -2)).mean(),
            }
        return found


def bells(heat: Tensor, at: Any, where: Tensor, width: float = 1.0) -> Tensor:
    """B×g×g truth of a heat map: a bell at N places (x, y in cells), 1 at the cells `at`."""
    axis = torch.arange(heat.shape[-1], device=heat.device)
    across, down = (
        torch.exp(-((axis - part[:, None]) ** 2) / (2 * width**2)) for part in where.unbind(-1)
    )
    truth = torch.zeros_like(heat)
    for i, picture in enumerate(at[0].tolist()):
        bell = down[i, :, None] * across[i]
        truth[picture] = torch.maximum(truth[picture], bell.clamp(max=0.999))
    truth[at] = 1
    return truth


def _moments(truth: Truth) -> Tensor:
    """M×3 indices of people who are the same in three pictures one after another."""
    rows = {
        (track, picture): i
        for i, (track, picture) in enumerate(
            zip(truth.track.tolist(), truth.picture.tolist(), strict=True)
        )
    }
    found = [
        (rows[track, picture - 1], i, rows[track, picture + 1])
        for (track, picture), i in rows.items()
        if (track, picture - 1) in rows and (track, picture + 1) in rows
    ]
    return torch.tensor(found, dtype=torch.long, device=truth.picture.device).view(-1, 3)


def _bend(values: Tensor, moves: Tensor) -> Tensor:
    """Second differences over the moments."""
    before, now, after = (values[moves[:, i]] for i in range(3))
    return before - 2 * now + after


def _fitted(points: Tensor, truth: Tensor) -> Tensor:
    """N×P×3 by the similarity that fits them best to the true ones; it has no gradient."""
    # roma keeps a constant from its first call; one of inference mode could not train later.
    with torch.inference_mode(False), torch.no_grad():
        turn, shift, scale = roma.rigid_points_registration(points, truth, compute_scaling=True)
    return scale[:, None, None] * points @ turn.mT + shift[:, None]


class OSXLoss(MeshLoss):
    """That of OSX: means of absolute differences, of one weight but for joints in metres.

    Points in the crop, joints of the body as the crop shows them and boxes are counted in tokens of
    it, as the released code does. Ours: rotations are compared as matrices (there as vectors), and
    joints, in metres, weigh 10. Joints of hands count from the wrist.

    Points of the net that are no joints of the body model are left out: of SMPL-X toes, heels and
    tips of fingers. Boxes of hands are around wrist and knuckles, and are left out where fingers
    are not known, as with 3DPW. Nothing trains the points and the box of a face, which no data that
    we read tell; expression and jaw learn as shape and rotation.
    """

    every = 0
    default = {
        "rotation": 1.0,
        "shape": 1.0,
        "body": 1.0,
        "hands": 1.0,
        "boxes": 1.0,
        "joints": 10.0,
        "hand_joints": 10.0,
        "projected": 1.0,
        "place": 1.0,
    }

    def terms(self, net: Any, seen: Any, truth: Truth, body: BodyModel) -> dict[str, Tensor]:
        if not len(truth.picture):
            return {"place": seen.people.place.sum()}
        people, crop, stood = seen.people, seen.crop, stand(seen.people, net.spec, body)
        corner, scale = crop_of(truth.box)
        pixels, shown = (
            (project(joints, truth.camera) - corner[:, None]) * scale[:, None, None]
            for joints in (truth.joints, _ahead(stood.joints))
        )
        known = truth.which(body.joint_names)
        own, theirs = _told(net.spec.joints, truth, body)
        points, limbs = _told(net.points["body"], truth, body)
        mine, depth = crop.body[:, points], WIDE["body"] / 16
        off = _centred(stood.joints, stood) - _centred(truth.joints, truth)
        found = {
            "rotation": (people.rotations[:, own] - truth.pose[:, theirs])
            .abs()
            .sum((-1, -2))
            .mean(),
            "body": _point_loss(mine, pixels, truth.joints, limbs, 0, depth),
            "joints": off[:, known].abs().mean(),
            "projected": (shown - pixels)[:, known].abs().mean() / PATCH,
            # Of the pelvis: the net's own anchor may be another point.
            "place": (stood.joints[:, 0] - truth.joints[:, 0]).abs().mean(),
        }
        if truth.same_shape:
            found["shape"] = (people.shape - truth.shape).abs().mean()
        hands, boxes, turned = [], [], []
        for i, side in enumerate(("left", "right")):
            wrist = body.joint(f"{side}_wrist")
            names = [f"{side}_{name}" for name in net.points["hand"]]
            points, fingers = _told(names, truth, body)
            if not fingers:
                continue
            mine, depth = crop.hands[:, i, points], WIDE["hand"] / 16
            hands.append(_point_loss(mine, pixels, truth.joints, fingers, wrist, depth))
            if len(points) >= len(ANNY_HAND):  # all but tips: what is known has the hand's size
                whole = pixels[:, [wrist, *fingers]]
                low, high = whole.amin(1), whole.amax(1)
                boxes.append((crop.centres[:, i] - (low + high) / 2).abs().mean() / PATCH)
                boxes.append((crop.sizes[:, i] - (high - low)).abs().mean() / PATCH)
            bent, true = (
                joints[:, fingers] - joints[:, wrist, None]
                for joints in (stood.joints, truth.joints)
            )
            turned.append((bent - true).abs().mean())
        means = {"hands": hands, "boxes": boxes, "hand_joints": turned}
        return found | {name: torch.stack(parts).mean() for name, parts in means.items() if parts}


def _told(names: Sequence[str], truth: Truth, body: BodyModel) -> tuple[list[int], list[int]]:
    """Of these names those that are known joints of the body: their places here, and there."""
    here = [i for i in truth.which(names) if names[i] in body.joint_names]
    return here, [body.joint(names[i]) for i in here]


def _point_loss(
    found: Tensor, pixels: Tensor, joints: Tensor, chosen: list[int], origin: int, bin_: float
) -> Tensor:
    """N×P×3 points of a crop against true ones, x and y in tokens, z in bins from a joint."""
    flat = (found[..., :2] - pixels[:, chosen]) / PATCH
    deep = (found[..., 2] - (joints[:, chosen, 2] - joints[:, origin, 2, None])) / bin_
    return torch.cat([flat, deep[..., None]], -1).abs().mean()


def focal(logits: Tensor, truth: Tensor, alpha: float = 2, beta: float = 4) -> Tensor:
    """CornerNet's loss of a heat map (Law and Deng, ECCV 2018), over the number of ones.

    `truth` is 1 where somebody is and less elsewhere; what is near to 1 there counts little.
    """
    score = logits.float().sigmoid().clamp(1e-4, 1 - 1e-4)  # bfloat16 has no 0.9999
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
    seen, wanted = project(_ahead(points), camera), project(truth, camera)
    inside = ((wanted > 0) & (wanted < size)).all(-1)
    return _mean((seen - wanted).abs().sum(-1) * 100 / size, inside)


def _ahead(points: Tensor) -> Tensor:
    """Moved before the camera: whoever is put behind it has no place in the picture."""
    return torch.cat([points[..., :2], points[..., 2:].clamp(min=0.1)], -1)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum() / counted.sum().clamp(min=1)
