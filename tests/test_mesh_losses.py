"""Losses of nets that recover people: the truth costs nothing, errors what they do by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from vision.backbones import Backbone
from vision.body import Anny, BodyModel
from vision.body.camera import intrinsics, project
from vision.mesh import OSX, CoordFormer, CoordFormerLoss, OSXLoss
from vision.mesh.coordformer import ClipPeople
from vision.mesh.crops import PATCH, crop_of
from vision.mesh.losses import bells, focal
from vision.mesh.osx import OSXPeople
from vision.mesh.people import People, Truth

SIZE, FRAMES = 64, 4
UP = torch.diag(torch.tensor([1.0, -1, -1]))


@pytest.fixture(scope="module")
def body() -> Anny:
    return Anny()


def walking(body: BodyModel, frames: int = FRAMES) -> Truth:
    """One who moves to the right, a tenth of a metre more in each frame."""
    pose, shape = body.still(frames).clone(), body.neutral_shape.expand(frames, -1)
    pose[:, 0] = UP
    across = torch.arange(frames).cumsum(0) / 10
    place = torch.stack([across, torch.zeros(frames), torch.full((frames,), 5.0)], 1)
    vertices, joints = body(pose, shape, place)
    whole = torch.tensor([10.0, 5, 50, 60]).expand(frames, 4)
    camera = intrinsics(SIZE, SIZE).expand(frames, 3, 3)
    track = torch.zeros(frames, dtype=torch.long)
    return Truth(torch.arange(frames), pose, shape, vertices, joints, whole, camera, track)


def told(truth: Truth, body: BodyModel, joints: tuple[str, ...]) -> People:
    """The truth, as a net would say it."""
    own = [body.joint(name) for name in joints]
    score, place = torch.ones(len(truth.pose)), truth.joints[:, 0]
    return People(truth.picture, score, truth.pose[:, own], truth.shape, place)


@pytest.fixture(scope="module")
def clips() -> CoordFormer:
    backbone = Backbone("resnet18", "none", frozen=False)
    small = {"dim": 32, "heads": 2, "mlp": 48, "depth": 1}
    return CoordFormer(backbone, FRAMES, SIZE, 16, body="anny", shape=6, **small)


def seen_by(net: CoordFormer, truth: Truth, body: BodyModel) -> ClipPeople:
    people = told(truth, body, net.spec.joints)
    pixels = project(truth.joints[:, :1], truth.camera)[:, 0]
    (picture, row, column), chosen = net.assign(truth.picture, pixels, truth.box)
    assert len(chosen) == len(truth.picture)
    depth = net.depth_number(people.place[:, 2], truth.camera)
    return ClipPeople(people, torch.zeros(FRAMES, 16, 16), (picture, row, column), pixels, depth)


def test_coordformers_truth_costs_nothing(clips: CoordFormer, body: Anny) -> None:
    truth, loss = walking(body), CoordFormerLoss()
    seen = seen_by(clips, truth, body)
    terms = loss(clips, seen, truth, body)
    assert {*terms} == {*CoordFormerLoss.default, "loss"}
    for name in {*terms} - {"heat", "loss"}:
        assert float(terms[name]) == pytest.approx(0, abs=0.01), name


def test_coordformers_errors_by_hand(clips: CoordFormer, body: Anny) -> None:
    truth, loss = walking(body), CoordFormerLoss()
    seen = seen_by(clips, truth, body)
    people = seen.people
    # Twice as deep is a logarithm of 2 more.
    deeper = loss(clips, seen._replace(log_depth=seen.log_depth + math.log(2)), truth, body)
    assert float(deeper["place"]) == pytest.approx(50 * math.log(2), rel=1e-3)
    thicker = people._replace(shape=people.shape + 0.1)
    assert float(loss(clips, seen._replace(people=thicker), truth, body)["shape"]) == pytest.approx(
        36 * 0.01, rel=1e-3
    )
    # The second frame of four stands 10 cm to the right of where it is: a second difference of −20
    # cm, then one of 10, in the picture too, and none from the pelvis.
    off = torch.zeros(FRAMES, 3)
    off[1, 0] = 0.1
    moved = loss(
        clips, seen._replace(people=people._replace(place=people.place + off)), truth, body
    )
    shift = 0.1 * float(truth.camera[0, 0, 0]) / 5 / SIZE
    assert float(moved["acceleration_2d"]) == pytest.approx(200 * 1.5 * shift, rel=0.05)
    assert float(moved["joints_2d"]) == pytest.approx(400 * shift / 4, rel=0.05)
    assert float(moved["acceleration"]) == pytest.approx(0, abs=0.01)
    # The same frame is turned by 180° around y: x and z of all joints change their signs.
    turned = people.rotations.clone()
    turned[1, 0] = torch.diag(torch.tensor([-1.0, 1, -1])) @ turned[1, 0]
    spun = loss(clips, seen._replace(people=people._replace(rotations=turned)), truth, body)
    own = truth.joints[1, [body.joint(n) for n in clips.spec.joints]] - truth.joints[1, :1]
    far = 2 * own[:, [0, 2]].norm(dim=-1).mean()
    assert float(spun["joints"]) == pytest.approx(200 * float(far) / 4, rel=1e-3)
    assert float(spun["acceleration"]) == pytest.approx(200 * 1.5 * float(far), rel=1e-3)
    assert float(spun["aligned"]) == pytest.approx(0, abs=0.05)
    # One rotation of 22, in one frame of four, differs by 8 when all is squared and summed.
    assert float(spun["rotation"]) == pytest.approx(80 * 8 / 22 / 4, rel=1e-3)


@pytest.fixture(scope="module")
def whole() -> OSX:
    backbone = Backbone("vit_tiny_patch16_224", "none", frozen=False)
    return OSX(backbone, body="anny", box_width=8)


def cropped(net: OSX, truth: Truth, body: BodyModel) -> OSXPeople:
    """What OSX says of crops when it is right."""
    corner, scale = crop_of(truth.box)
    flat = (project(truth.joints, truth.camera) - corner[:, None]) * scale[:, None, None]
    points = torch.cat([flat, truth.joints[..., 2:]], -1)  # N×J×3

    def seen(names: list[str], origin: str) -> Tensor:
        start = points[:, body.joint(origin), None] * torch.tensor([0, 0, 1])
        return points[:, [body.joint(name) for name in names]] - start

    sides = ("left", "right")
    hands = [seen([f"{s}_{n}" for n in net.points["hand"]], f"{s}_wrist") for s in sides]
    around = [torch.cat([h[..., :2], flat[:, [body.joint(f"{s}_wrist")]]], 1)
              for h, s in zip(hands, sides, strict=True)]  # fmt: skip
    low, high = (torch.stack([getattr(a, end)(1) for a in around], 1) for end in ("amin", "amax"))
    with torch.no_grad():
        found = net.regress(torch.zeros(len(points), 3, 512, 384))
    face = found.centres[:, 2:]
    crop = found._replace(
        body=seen([*net.points["body"]], "pelvis"),
        hands=torch.stack(hands, 1),
        centres=torch.cat([(low + high) / 2, face], 1),
        sizes=torch.cat([high - low, face], 1),
    )
    return OSXPeople(told(truth, body, net.spec.joints), crop)


def test_osxs_truth_costs_nothing(whole: OSX, body: Anny) -> None:
    truth = walking(body, 1)
    terms = OSXLoss()(whole, cropped(whole, truth, body), truth, body)
    assert {*terms} == {*OSXLoss.default, "loss"}
    for name, value in terms.items():
        assert float(value) == pytest.approx(0, abs=2e-3), name


def test_osxs_errors_by_hand(whole: OSX, body: Anny) -> None:
    truth, loss = walking(body, 1), OSXLoss()
    seen = cropped(whole, truth, body)

    def cost(name: str, **crop: Tensor) -> float:
        return float(loss(whole, seen._replace(crop=seen.crop._replace(**crop)), truth, body)[name])

    token = torch.tensor([PATCH, 0.0, 0.0])  # one of three numbers is off by 1
    assert cost("body", body=seen.crop.body + token) == pytest.approx(1 / 3, abs=2e-3)
    assert cost("hands", hands=seen.crop.hands + token) == pytest.approx(1 / 3, abs=2e-3)
    deep = torch.tensor([0.0, 0.0, 2 / 16])  # a bin of the body, of two metres
    assert cost("body", body=seen.crop.body + deep) == pytest.approx(1 / 3, abs=2e-3)
    # Centres and sizes count alike; both of a centre's numbers are off by 1.
    assert cost("boxes", centres=seen.crop.centres + PATCH) == pytest.approx(1 / 2, abs=2e-3)
    people = seen.people
    aside = seen._replace(people=people._replace(place=people.place + torch.tensor([0.3, 0, 0])))
    terms = loss(whole, aside, truth, body)
    assert float(terms["place"]) == pytest.approx(0.1, abs=2e-3)
    assert float(terms["joints"]) == pytest.approx(0, abs=2e-3)
    scale = float(crop_of(truth.box)[1])
    tokens = 0.3 * float(truth.camera[0, 0, 0]) / 5 * scale / PATCH
    assert float(terms["projected"]) == pytest.approx(tokens / 2, rel=0.05)


def test_focal_by_hand() -> None:
    """Three cells: somebody, near somebody, nobody; all scores are a half."""
    near = 0.5
    wanted = 0.25 * math.log(2) * (1 + (1 - near) ** 4 + 1)
    found = focal(torch.zeros(1, 1, 3), torch.tensor([[[1.0, near, 0.0]]]))
    assert float(found) == pytest.approx(wanted)
    sure = focal(torch.tensor([[[20.0, -20.0, -20.0]]]), torch.tensor([[[1.0, 0.0, 0.0]]]))
    assert float(sure) == pytest.approx(0, abs=1e-6)


def test_bells_by_hand() -> None:
    at = (torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([3, 0]))
    where = torch.tensor([[3.0, 2.0], [0.5, 0.0]])  # x, y
    truth = bells(torch.zeros(2, 5, 5), at, where)
    assert float(truth[0, 2, 3]) == 1
    assert float(truth[0, 2, 2]) == pytest.approx(math.exp(-0.5))
    assert float(truth[0, 1, 2]) == pytest.approx(math.exp(-1))
    assert float(truth[1, 0, 0]) == 1  # the cell that is read, though the middle lies beside it
    assert float(truth[1, 0, 1]) == pytest.approx(math.exp(-0.125))
