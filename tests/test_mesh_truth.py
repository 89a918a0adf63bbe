"""Truth of another body model than the net's: what is known of it; only this is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bodies import write_gated, write_threedpw
from trained import VIT

from data.people import collate_people
from data.threedpw import ThreeDPWClips, ThreeDPWPeople
from vision.backbones import Backbone
from vision.body import Body
from vision.body.smpl import BODY
from vision.mesh import OSX, CoordFormer, CoordFormerLoss, MultiHMR, MultiHMRLoss, OSXLoss
from vision.mesh.people import People, Truth, stand
from vision.metrics.mesh import read_regressor, threedpw_errors
from vision.tasks.mesh import Found, MeshTask

pytestmark = pytest.mark.slow
SIZE = 112


@pytest.fixture(scope="module")
def filmed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("filmed")
    write_gated(root)
    write_threedpw(root, models=root / "body_models")
    return root


@pytest.fixture(scope="module")
def batch(filmed: Path) -> dict[str, Any]:
    data = ThreeDPWPeople(filmed, "train", SIZE)
    return collate_people([data[0], data[2]])


def multihmr(body: Any = "smplx") -> MultiHMR:
    return MultiHMR(Backbone(**VIT), SIZE, body, dim=32, heads=2, mlp=32)


@pytest.fixture(scope="module")
def task(filmed: Path) -> MeshTask:
    torch.manual_seed(0)
    return MeshTask(multihmr(), MultiHMRLoss(), str(filmed / "body_models"))


def test_smplx_knows_22_joints_of_smpl(task: MeshTask, batch: dict[str, Any]) -> None:
    assert task.truth(batch).vertices.shape == (4, 0, 3)  # nothing that is learned asks for them
    task.truths.surfaces = True
    truth = task.truth(batch)
    assert truth.known == BODY
    assert not truth.same_shape
    assert not truth.same_surface
    assert truth.vertices.shape == (4, 6890, 3)
    assert truth.pose.shape == (4, 55, 3, 3)
    torch.testing.assert_close(truth.joints[:, :22], batch["joints"][:, :22])
    torch.testing.assert_close(truth.pose[:, :22], batch["pose"][:, :22])
    assert truth.take(torch.tensor([1])).known == BODY
    # Surfaces are those of each one's gender, and so go with the joints of the file.
    for i, gender in enumerate(batch["gender"]):
        smpl = task.truths.gendered[gender]
        told = (batch[name][i : i + 1] for name in ("pose", "shape", "translation"))
        vertices, joints = smpl(*told)
        torch.testing.assert_close(vertices[0], truth.vertices[i])
        torch.testing.assert_close(joints[0], batch["joints"][i], atol=1e-4, rtol=0)


def test_joints_need_no_file_of_smpl(filmed: Path, tmp_path: Path, batch: dict[str, Any]) -> None:
    (tmp_path / "smplx").symlink_to(filmed / "body_models" / "smplx")
    task = MeshTask(multihmr(), MultiHMRLoss(), str(tmp_path), regressors=str(tmp_path))
    truth = task.truth(batch)
    assert truth.vertices.shape == (4, 0, 3)
    torch.testing.assert_close(truth.joints[:, :22], batch["joints"][:, :22])
    with pytest.raises(ValueError, match=r"SMPL_FEMALE.pkl is not there; register at https"):
        task._protocol()
    (tmp_path / "smpl").symlink_to(filmed / "body_models" / "smpl")
    del task.truths.gendered
    with pytest.raises(ValueError, match=r"h36m_smplx.npy is not there.*IDEA-Research/OSX"):
        task._protocol()


def test_anny_rests_otherwise(batch: dict[str, Any]) -> None:
    task = MeshTask(multihmr("anny"), MultiHMRLoss())
    with pytest.raises(ValueError, match="true of smpl, which rests in another pose"):
        task.truth(batch)


def test_data_of_other_shapes_than_the_net_gives(task: MeshTask, batch: dict[str, Any]) -> None:
    told = {name: value for name, value in batch.items() if name != "gender"}
    wanted = "shapes of 10 numbers, the net's body smplx 20; take a net with as many betas"
    with pytest.raises(ValueError, match=wanted):
        task.truth({**told, "body": "smplx"})


def test_smplx_learns_no_hands_from_smpl(task: MeshTask, batch: dict[str, Any]) -> None:
    truth = task.truth(batch)
    at, kept = task._assign(truth)
    told = truth.take(kept)
    assert len(kept)
    seen = task.net(batch["image"], batch["camera"], at)
    rotations = seen.people.rotations.detach().requires_grad_()
    people = seen.people._replace(rotations=rotations)
    terms = MultiHMRLoss()(task.net, seen._replace(people=people), told, task.body)
    assert {*terms} == {*MultiHMRLoss.default} - {"fov", "shape", "vertices", "vertices_2d"} | {
        "loss"
    }
    terms["loss"].backward()
    assert rotations.grad is not None
    assert (rotations.grad[:, :22].abs().sum((0, 2, 3)) > 0).all()
    assert rotations.grad[:, 22:].abs().max() == 0  # fingers and jaw


def test_what_is_known_costs_nothing_where_it_is_right(
    task: MeshTask, batch: dict[str, Any]
) -> None:
    """Rotations of the truth in a body of SMPL-X, whatever its hands, face and shape are."""
    truth = task.truth(batch)
    at, kept = task._assign(truth)
    told = truth.take(kept)
    seen = task.net(batch["image"], batch["camera"], at)
    rotations = seen.people.rotations.clone()
    rotations[:, :22] = told.pose[:, :22]
    people = seen.people._replace(rotations=rotations, shape=torch.randn(len(kept), 20))
    stood = stand(people, task.spec, task.body)
    same = told._replace(joints=stood.joints)
    terms = MultiHMRLoss()(task.net, seen._replace(people=people), same, task.body)
    for name in ("rotation", "joints", "joints_2d"):
        assert terms[name].item() == pytest.approx(0, abs=1e-3), name
    moved = same._replace(joints=same.joints + 5 * torch.eye(55)[30, :, None])  # a finger
    assert MultiHMRLoss()(task.net, seen._replace(people=people), moved, task.body) == terms


def test_osx_learns_14_points_of_smpl(filmed: Path, batch: dict[str, Any]) -> None:
    torch.manual_seed(0)
    net = OSX(Backbone(**VIT, frozen=False), box_width=16)
    task = MeshTask(net, OSXLoss(), str(filmed / "body_models"))
    truth = task.truth(batch)
    at, kept = task._assign(truth)
    seen = net(batch["image"], batch["camera"], at)
    for part in (seen.crop.body, seen.people.rotations):
        part.retain_grad()
    terms = task.loss(net, seen, truth.take(kept), task.body)
    assert {*terms} == {"rotation", "body", "joints", "projected", "place", "loss"}
    terms["loss"].backward()
    assert (seen.crop.body.grad[:, :14].abs().sum((0, 2)) > 0).all()
    assert seen.crop.body.grad[:, 14:].abs().max() == 0  # toes, heels and face
    assert seen.people.rotations.grad[:, 22:].abs().max() == 0
    assert all(p.grad is None for p in net.box_net.parameters())
    assert all(p.grad is None for p in net.hand_position_net.conv.parameters())


@pytest.mark.parametrize(("body", "shape"), [("smpl", 10), ("smplx", 10), ("smplx", 20)])
def test_coordformer_learns_all_but_the_shape(filmed: Path, body: Any, shape: int) -> None:
    """A gender's shapes are none of the neutral body; its pose and joints are."""
    torch.manual_seed(0)
    net = CoordFormer(
        Backbone("resnet18", "none", frozen=False),
        size=64,
        grid=8,
        body=body,
        shape=shape,
        dim=32,
        heads=2,
        depth=1,
        mlp=32,
    )
    task = MeshTask(net, CoordFormerLoss(), str(filmed / "body_models"))
    batch = collate_people([ThreeDPWClips(filmed, "train", 64, frames=3)[0]])
    truth = task.truth(batch)
    assert len(truth.known or ()) == (24 if body == "smpl" else 22)
    assert truth.same_surface == (body == "smpl")
    at, kept = task._assign(truth)
    assert len(kept) >= 3
    seen = net(batch["image"], batch["camera"][None], at)
    terms = task.loss(net, seen, truth.take(kept), task.body)
    assert {"rotation", "joints", "aligned", "place", "heat"} <= terms.keys()
    assert "shape" not in terms
    terms["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


# ---- the published protocol


def told(truth: Truth) -> People:
    """The truth as if a net of SMPL-X had said it."""
    count = len(truth.picture)
    shape = torch.zeros(count, 20)
    rotations = truth.pose[:, :22]
    return People(truth.picture, torch.ones(count), rotations, shape, truth.joints[:, 0])


def test_the_protocol_of_two_body_models(
    task: MeshTask, batch: dict[str, Any], filmed: Path
) -> None:
    task.truths.surfaces = True
    truth = task.truth(batch)
    own, true = (read_regressor(filmed / "regressors", name) for name in ("smplx", "smpl"))
    points = torch.randn(4, 10475, 3)
    found = Found((own, true))
    found.add(told(truth), Body(points, truth.joints), truth, task.body)
    means = found.means()
    assert means["f1"] == 1
    assert means["mpjpe"] == pytest.approx(0, abs=0.01)
    assert {"pve", "hands", "face", "3dpw_pve"}.isdisjoint(means)
    errors = []
    for mine, theirs in zip(points.numpy(), truth.vertices.numpy(), strict=True):
        a, b = own.numpy() @ mine, true.numpy() @ theirs
        off = (a - a[0]) - (b - b[0])
        chosen = [6, 5, 4, 1, 2, 3, 16, 15, 14, 11, 12, 13, 8, 10]
        errors.append(1000 * np.linalg.norm(off[chosen], axis=1).mean())
    assert means["3dpw_mpjpe"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert 0 < means["3dpw_pa_mpjpe"] < means["3dpw_mpjpe"]


def test_the_protocol_of_smpl_itself(filmed: Path, batch: dict[str, Any]) -> None:
    folder = str(filmed / "body_models")
    backbone = Backbone("resnet18", "none", frozen=False)
    net = CoordFormer(backbone, size=64, grid=16, body="smpl", dim=32, heads=2, depth=1, mlp=64)
    task = MeshTask(net, CoordFormerLoss(), folder)
    task.regressors = str(filmed / "regressors")
    truth = task.truth(batch)
    found = Found(task._protocol())
    found.add(told(truth), Body(truth.vertices, truth.joints), truth, task.body)
    means = found.means()
    for name in ("mpjpe", "pve", "hands", "face", "3dpw_mpjpe", "3dpw_pa_mpjpe", "3dpw_pve"):
        assert means[name] == pytest.approx(0, abs=0.05), name


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((24, 6890)), r"\(24, 6890\) float64; give 17×V"),
        (np.full((17, 9), np.nan), "numbers that are not finite"),
        (b"no", "no array of NumPy"),
        (b"PK\x03\x04 no zip", "no array of NumPy"),
    ],
)
def test_files_that_are_no_regressors(tmp_path: Path, array: Any, message: str) -> None:
    path = tmp_path / "J_regressor_h36m_smpl.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    else:
        np.save(path, array)
    with pytest.raises(ValueError, match=message):
        read_regressor(tmp_path, "smpl")


def test_regressors_of_another_model() -> None:
    with pytest.raises(ValueError, match="a 17×9 regressor for 8 vertices"):
        threedpw_errors(torch.randn(1, 9, 3), torch.randn(1, 8, 3), torch.ones(17, 9))
