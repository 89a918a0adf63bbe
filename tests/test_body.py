"""Body models: Anny against its authors' package, SMPL-X and SMPL against smplx, cameras."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roma
import torch
import torch.nn.functional as F
from bodies import SMPL_PARENTS, SMPL_SIZES, Thief, arrays, write_smpl, write_smplx
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vision import body
from vision.body import Anny, AnnyMakeHuman, BodyModel
from vision.body.anny import ANCHORS, _between
from vision.body.camera import intrinsics, project, unproject
from vision.body.rotations import from_6d, to_6d
from vision.mesh.people import SHARED
from vision.metrics.mesh import aligned_error


@pytest.fixture(scope="module")
def anny() -> Anny:
    return Anny()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("body_models")
    write_smplx(folder / "smplx" / "SMPLX_NEUTRAL.npz")
    write_smpl(folder / "smpl" / "SMPL_NEUTRAL.pkl")
    return folder


@pytest.fixture(params=["anny", "smplx", "smpl"])
def model(request: pytest.FixtureRequest, files: Path) -> BodyModel:
    return body.create(request.param, files)


def pose_of(model: BodyModel, batch: int, strength: float = 0.4, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    vectors = strength * torch.randn(batch, len(model.parents), 3, generator=draw)
    return roma.rotvec_to_rotmat(vectors)


def shape_of(model: BodyModel, batch: int, seed: int = 1) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return model.neutral_shape + 0.3 * torch.randn(batch, len(model.neutral_shape), generator=draw)


# --- what all of them promise


def test_the_promised_shapes(model: BodyModel) -> None:
    found = model(pose_of(model, 3), shape_of(model, 3), torch.ones(3, 3))
    assert found.vertices.shape[::2] == (3, 3)
    assert found.joints.shape == (3, len(model.joint_names), 3)
    assert len(model.parents) == len(model.joint_names) == len(set(model.joint_names))
    assert len(model.shape_names) == len(model.neutral_shape)
    assert model.faces.max() < found.vertices.shape[1]
    assert model.joint("left_wrist") > 0
    with pytest.raises(ValueError, match="has no joint tail"):
        model.joint("tail")


def test_the_pelvis_is_where_it_was_put(model: BodyModel) -> None:
    place = torch.tensor([[0.3, -1.0, 4.0]])
    joints = model(pose_of(model, 1), shape_of(model, 1), place).joints
    torch.testing.assert_close(joints[:, 0], place)


def test_the_first_rotation_turns_the_whole_body(model: BodyModel) -> None:
    pose, shape = pose_of(model, 1), shape_of(model, 1)
    turn = roma.random_rotmat(1, dtype=torch.float32)
    before = model(pose, shape)
    pose[:, 0] = turn @ pose[:, 0]
    after = model(pose, shape)
    torch.testing.assert_close(after.vertices, before.vertices @ turn.mT, atol=1e-5, rtol=0)
    torch.testing.assert_close(after.joints, before.joints @ turn.mT, atol=1e-5, rtol=0)


def test_people_of_a_batch_do_not_touch(model: BodyModel) -> None:
    pose, shape = pose_of(model, 3), shape_of(model, 3)
    together = model(pose, shape).vertices
    for i in range(3):
        alone = model(pose[i : i + 1], shape[i : i + 1]).vertices[0]
        torch.testing.assert_close(alone, together[i], atol=1e-5, rtol=0)


def test_gradients_reach_every_parameter(model: BodyModel) -> None:
    vectors = torch.zeros(1, len(model.parents), 3, requires_grad=True)
    shape = model.neutral_shape[None].clone().requires_grad_()
    draw = torch.Generator().manual_seed(0)
    vertices = model(roma.rotvec_to_rotmat(vectors), shape).vertices
    (vertices * torch.randn(vertices.shape, generator=draw)).sum().backward()
    assert (vectors.grad.abs().sum(-1) > 0).all()
    assert (shape.grad.abs() > 0).all()
    assert vectors.grad.isfinite().all()


def test_gradients_after_use(model: BodyModel) -> None:
    """As who recovers people in a notebook, and then trains."""
    roma.mappings._cached_horn_map.cache_clear()
    with torch.inference_mode():
        aligned_error(torch.rand(1, 4, 3), torch.rand(1, 4, 3))
        model(pose_of(model, 1), shape_of(model, 1))
    shape = shape_of(model, 1).requires_grad_()
    model(pose_of(model, 1), shape).vertices.sum().backward()
    assert shape.grad is not None


def test_a_hand_moves_with_its_arm_alone(model: BodyModel) -> None:
    pose, shape = pose_of(model, 1, 0.0), shape_of(model, 1)
    still = model(pose, shape).joints[0]
    pose[:, model.joint("left_elbow")] = roma.rotvec_to_rotmat(torch.tensor([0.0, 1.0, 0.0]))
    moved = (model(pose, shape).joints[0] - still).norm(dim=-1) > 1e-6
    below = {model.joint("left_elbow")}
    for joint, parent in enumerate(model.parents):
        if parent in below:
            below.add(joint)
    assert {i for i, m in enumerate(moved) if m} == below - {model.joint("left_elbow")}


def test_autocast_changes_nothing(model: BodyModel) -> None:
    pose, shape, place = pose_of(model, 2), shape_of(model, 2), torch.ones(2, 3)
    wanted, pelvis = model(pose, shape, place), model.pelvis(shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(pose, shape, place)
        rounded = model(pose.bfloat16(), shape.bfloat16(), place.bfloat16())
        assert torch.equal(model.pelvis(shape), pelvis)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    assert rounded.vertices.dtype == torch.float32
    exactly = model(pose.bfloat16().float(), shape.bfloat16().float(), place)
    assert torch.equal(rounded.vertices, exactly.vertices)


def test_the_pelvis_lies_where_it_is_said_to(model: BodyModel) -> None:
    """In the model's own coordinates, in which its vertices are those of nobody who was moved."""
    shape = shape_of(model, 2)
    moved = model(model.still(2), shape, model.pelvis(shape)).vertices
    centred = model(model.still(2), shape).vertices
    shift = model.pelvis(shape)[:, None]
    torch.testing.assert_close(moved, centred + shift, atol=1e-6, rtol=0)


# --- Anny


def test_anny_equals_its_authors() -> None:
    """Vertices and bones that the package anny 0.6.2 gives, for two people in random poses."""
    wanted = np.load(Path(__file__).with_name("anny.npz"))
    anny = Anny()
    found = anny(*(torch.from_numpy(wanted[key]) for key in ("pose", "shape", "translation")))
    sample = torch.from_numpy(wanted["sample"])
    vertices, joints = torch.from_numpy(wanted["vertices"]), torch.from_numpy(wanted["joints"])
    torch.testing.assert_close(found.vertices[:, sample], vertices, atol=5e-5, rtol=0)
    torch.testing.assert_close(found.joints, joints, atol=5e-6, rtol=0)


def test_anny_on_makehumans_bones_equals_its_authors() -> None:
    """The same, with rotations about the bones' own axes, which `pose_of` takes to the world's."""
    wanted = np.load(Path(__file__).with_name("anny_makehuman.npz"))
    anny = AnnyMakeHuman()
    pose, shape, place = (torch.from_numpy(wanted[k]) for k in ("pose", "shape", "translation"))
    axes = anny.axes(shape)
    found = anny(axes @ pose @ axes.mT, shape, place)
    sample = torch.from_numpy(wanted["sample"])
    vertices, joints = torch.from_numpy(wanted["vertices"]), torch.from_numpy(wanted["joints"])
    torch.testing.assert_close(found.vertices[:, sample], vertices, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.joints, joints, atol=5e-5, rtol=0)
    assert set(anny.joint_names) > set(SHARED)


def test_anny_stands_on_its_feet(anny: Anny) -> None:
    """Upright, facing z, its left hand at its left, 1.5 to 2 m tall."""
    (vertices,), (joints,) = anny(pose_of(anny, 1, 0.0), anny.neutral_shape[None])
    size = vertices.amax(0) - vertices.amin(0)
    assert 1.5 < size[1] < 2.0
    place = {name: joints[anny.joint(name)] for name in ("left_wrist", "left_foot", "left_ankle")}
    assert place["left_wrist"][0] > 0.2
    assert place["left_foot"][2] > place["left_ankle"][2] + 0.05
    assert joints[anny.joint("head"), 1] > 0.4


def test_phenotypes_do_what_they_are_called(anny: Anny) -> None:
    def tall(**phenotypes: float) -> float:
        shape = anny.neutral_shape.clone()
        for name, value in phenotypes.items():
            shape[anny.shape_names.index(name)] = value
        vertices = anny(pose_of(anny, 1, 0.0), shape[None]).vertices[0, :, 1]
        return float(vertices.max() - vertices.min())

    assert tall(height=1.0) > tall() > tall(height=0.0)
    assert tall(age=0.0) < 1.0 < tall()
    assert tall(height=1.0) == tall(height=3.0)  # beyond the end it is as at the end


def between(value: Tensor, first: float, last: float, count: int) -> Tensor:
    """Shares of two anchors, by indices."""
    at = (value.clamp(first, last) - first) / (last - first) * (count - 1)
    below = at.detach().floor().clamp(0, count - 2).long()
    share = (at - below)[:, None]
    lower, upper = (F.one_hot(below + i, count).to(value) for i in (0, 1))
    return lower * (1 - share) + upper * share


@pytest.mark.parametrize("ends", ANCHORS.values(), ids=ANCHORS)
def test_shares_of_phenotypes(ends: tuple[float, float, int]) -> None:
    """Between the anchors, at them and beyond; and NaN stays NaN."""
    first, last, count = ends
    values = torch.cat(
        [torch.linspace(first - 1, last + 1, 97), torch.linspace(first, last, count)]
    )
    found, wanted = (values.clone().requires_grad_() for _ in range(2))
    weights = torch.randn(len(values), count, generator=torch.Generator().manual_seed(0))
    ours, theirs = _between(found, *ends), between(wanted, *ends)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.sum(1), torch.ones(len(values)))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad, atol=1e-6, rtol=0)
    assert _between(torch.tensor([float("nan")]), *ends).isnan().all()


def test_a_shape_that_is_no_number_shows(anny: Anny) -> None:
    shape = anny.neutral_shape.repeat(2, 1)
    shape[1, 1] = float("nan")
    vertices = anny(anny.still(2), shape).vertices
    assert vertices[0].isfinite().all()
    assert vertices[1].isnan().all()


def test_faces_look_outwards(anny: Anny) -> None:
    """So the volume that they enclose is positive, and that of a person."""
    vertices = anny(pose_of(anny, 1, 0.0), anny.neutral_shape[None]).vertices[0]
    a, b, c = vertices[anny.faces].unbind(1)
    litres = float(torch.linalg.cross(a, b).mul(c).sum() / 6 * 1000)
    assert 40 < litres < 110


# --- SMPL-X and SMPL


@pytest.mark.slow
def test_smplx_equals_smplx(files: Path) -> None:
    smplx = pytest.importorskip("smplx")
    theirs = smplx.SMPLX(str(files / "smplx"), use_pca=False, flat_hand_mean=True, batch_size=2)
    ours = body.create("smplx", files)
    pose, shape = pose_of(ours, 2), shape_of(ours, 2)
    vectors = roma.rotmat_to_rotvec(pose)
    parts = {
        "global_orient": vectors[:, 0],
        "body_pose": vectors[:, 1:22].flatten(1),
        "jaw_pose": vectors[:, 22],
        "leye_pose": vectors[:, 23],
        "reye_pose": vectors[:, 24],
        "left_hand_pose": vectors[:, 25:40].flatten(1),
        "right_hand_pose": vectors[:, 40:].flatten(1),
    }
    wanted = theirs(betas=shape[:, :10], expression=shape[:, 10:], **parts)
    found = ours(pose, shape, wanted.joints[:, 0])
    torch.testing.assert_close(found.vertices, wanted.vertices, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.joints, wanted.joints[:, :55], atol=2e-5, rtol=0)


@pytest.mark.slow
def test_smpl_equals_smplx(files: Path) -> None:
    smplx = pytest.importorskip("smplx")
    theirs = smplx.SMPL(str(files / "smpl"), batch_size=2)
    ours = body.create("smpl", files)
    pose, shape = pose_of(ours, 2), shape_of(ours, 2)
    vectors = roma.rotmat_to_rotvec(pose)
    wanted = theirs(betas=shape, global_orient=vectors[:, 0], body_pose=vectors[:, 1:].flatten(1))
    found = ours(pose, shape, wanted.joints[:, 0])
    torch.testing.assert_close(found.vertices, wanted.vertices, atol=2e-5, rtol=0)
    torch.testing.assert_close(found.joints, wanted.joints[:, :24], atol=2e-5, rtol=0)


def test_what_is_there(files: Path, tmp_path: Path) -> None:
    free = {"anny": True, "anny_makehuman": True}
    assert body.available(files) == {**free, "smplx": True, "smpl": True}
    assert body.available(tmp_path) == {**free, "smplx": False, "smpl": False}
    with pytest.raises(FileNotFoundError, match=r"SMPLX_FEMALE.npz is not there; register at http"):
        body.create("smplx", tmp_path, "female")
    with pytest.raises(ValueError, match="smplh: choose one of anny, anny_makehuman, smplx, smpl"):
        body.create("smplh")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("smpl", pickle.dumps({"v_template": Thief()}), "which is no array"),
        ("smpl", pickle.dumps([1]), "holds a list, a dictionary was expected"),
        ("smpl", b"", "no pickle of arrays"),
        ("smpl", pickle.dumps({"v_template": 1}), "no body model, f, shapedirs, .* missing"),
        ("smplx", b"", "is empty"),
        ("smplx", b"PK\x03\x04" + bytes(40), "not a whole .npz file"),
    ],
)
def test_damaged_files(
    name: str, content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name / {"smpl": "SMPL_NEUTRAL.pkl", "smplx": "SMPLX_NEUTRAL.npz"}[name]
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        body.create(name, tmp_path)
    assert str(path) in str(caught.value)
    assert not (tmp_path / "stolen").exists()


SMALLER = r"v_template \(6890, 3\), \(10475, 3\) was expected; give SMPLX_NEUTRAL.npz"


def test_a_model_of_another_size(tmp_path: Path) -> None:
    write_smpl(tmp_path / "smplx" / "SMPLX_NEUTRAL.npz", extra=("hands_meanl", "hands_meanr"))
    with pytest.raises(ValueError, match=SMALLER):
        body.create("smplx", tmp_path)
    assert SMPL_SIZES["v_template"] == (6890, 3)


BROKEN: dict[str, tuple[str, Any]] = {
    "v_template is no array of numbers": ("v_template", lambda old: list(old)),
    r"weights is no array of numbers": ("weights", lambda old: old.astype("S8")),
    r"f \(13776, 2\), \(13776, 3\) was expected": ("f", lambda old: old[:, :2]),
    r"shapedirs \(6890, 30\), \(6890, 3, any\)": ("shapedirs", lambda old: old.reshape(6890, 30)),
    r"posedirs \(6890, 3, 9\), \(6890, 3, 207\)": ("posedirs", lambda old: old[..., :9]),
    r"J_regressor \(23, 6890\)": ("J_regressor", lambda old: old[:23]),
    r"kintree_table \(24,\), \(2, 24\) was expected": ("kintree_table", lambda old: old[0]),
    "weights has numbers that are not finite": ("weights", lambda old: old * np.nan),
    "f names vertices that are not there": ("f", lambda old: old + 1),
    "f names .* not there": ("f", lambda old: old - 1),
    "kintree_table has parents after children": ("kintree_table", lambda old: old + 1),
    "kintree_table has parents .* children": ("kintree_table", lambda old: old - 1),
    "5 betas, 10 are wanted": ("shapedirs", lambda old: old[..., :5]),
}


@pytest.mark.parametrize("message", BROKEN)
def test_models_that_are_none(message: str, tmp_path: Path) -> None:
    path = tmp_path / "smpl" / "SMPL_NEUTRAL.pkl"
    path.parent.mkdir()
    name, change = BROKEN[message]
    whole = arrays(SMPL_SIZES, SMPL_PARENTS)
    whole["f"][:2, 0] = 0, 6889  # the first and the last vertex
    path.write_bytes(pickle.dumps(whole | {name: change(whole[name])}))
    with pytest.raises(ValueError, match=message) as caught:
        body.create("smpl", tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_npz_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "smplx" / "SMPLX_NEUTRAL.npz"
    path.parent.mkdir()
    for write in (
        lambda file: np.savez(file, v_template=np.array([{}, None])),  # pickled
        lambda file: np.save(file, np.zeros(3)),
        lambda file: file.write(pickle.dumps(Thief())),
    ):
        with path.open("wb") as file:
            write(file)
        with pytest.raises(ValueError, match=r"not a whole .npz file") as caught:
            body.create("smplx", tmp_path)
        assert str(path) in str(caught.value)


def test_an_npz_that_unfolds_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "smplx" / "SMPLX_NEUTRAL.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as file, file.open("shapedirs.npy", "w") as member:
        about = {"descr": "<f8", "fortran_order": False, "shape": (10475, 3, 1 << 20)}
        np.lib.format.write_array_header_1_0(member, about)
    with pytest.raises(
        ValueError, match=r"shapedirs.npy: 263,612,006,400 bytes, of which there may"
    ):
        body.create("smplx", tmp_path)


def test_expressions_that_are_not_there(files: Path) -> None:
    with pytest.raises(ValueError, match="100 expressions, 101 are wanted"):
        body.SMPLX(files / "smplx" / "SMPLX_NEUTRAL.npz", expressions=101)


# --- rotations and cameras


@given(st.integers(0, 2**31), st.sampled_from(["columns", "rows"]))
@settings(deadline=None)
def test_six_numbers_are_a_rotation(seed: int, order: Any) -> None:
    draw = torch.Generator().manual_seed(seed)
    rotations = roma.rotvec_to_rotmat(2 * torch.randn(5, 3, generator=draw))
    torch.testing.assert_close(from_6d(to_6d(rotations, order), order), rotations)
    # In float64: of two columns that nearly agree float32 leaves 1e-5 of rounding.
    found = from_6d(torch.randn(5, 6, generator=draw).double(), order)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).double().expand(5, 3, 3))
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(5).double())


@given(st.integers(0, 2**31))
@settings(deadline=None)
def test_six_numbers_as_roma_takes_them(seed: int) -> None:
    numbers = torch.randn(9, 6, generator=torch.Generator().manual_seed(seed)).double()
    found, wanted = (numbers.clone().requires_grad_() for _ in range(2))
    ours = from_6d(found)
    theirs = roma.special_gramschmidt(wanted.unflatten(-1, (2, 3)).mT)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    ours.pow(3).sum().backward()
    theirs.pow(3).sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "columns",
    [
        [[0, 0, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 2, 0]],
        [[0, 0, 0], [3, 0, 0]],  # along the axis that stands in
        [[0, 5, 0], [0, 0, 0]],
        [[0.3, -0.7, 0.11], [0.6, -1.4, 0.22]],
        [[0.3, -0.7, 0.11], [-0.1, 0.7 / 3, -0.11 / 3]],
        [[1e-30, 0, 0], [1e-30, 0, 1e-30]],
        [[1e15, 1e15, 1e15], [1e15, 1e15, 1e15]],
    ],
)
@pytest.mark.parametrize("order", ["columns", "rows"])
def test_six_numbers_that_say_no_direction(columns: list[list[float]], order: Any) -> None:
    matrix = torch.tensor(columns)
    numbers = (matrix if order == "columns" else matrix.mT).flatten()
    both = torch.stack([numbers, torch.arange(6.0)]).requires_grad_()
    found = from_6d(both, order)
    torch.testing.assert_close(found @ found.mT, torch.eye(3).expand(2, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(2))
    found.pow(3).sum().backward()
    assert both.grad.isfinite().all()


def test_six_numbers_that_are_none_show() -> None:
    assert from_6d(torch.full((6,), float("nan"))).isnan().all()


def test_the_orders_are_those_of_the_published_nets() -> None:
    rotation = torch.arange(9.0).view(3, 3)
    assert to_6d(rotation, "rows").tolist() == [0, 1, 3, 4, 6, 7]  # view(3, 2): SPIN, OSX
    assert to_6d(rotation, "columns").tolist() == [0, 3, 6, 1, 4, 7]  # Multi-HMR


@given(st.integers(16, 4000), st.integers(16, 4000), st.floats(20, 120), st.integers(0, 999))
@settings(deadline=None)
def test_points_are_found_again(height: int, width: int, fov: float, seed: int) -> None:
    camera = intrinsics(height, width, fov).double()
    draw = torch.Generator().manual_seed(seed)
    points = torch.randn(4, 3, generator=draw).double()
    points[:, 2] = points[:, 2].abs() + 0.5
    pixels = project(points, camera)
    torch.testing.assert_close(unproject(pixels, points[:, 2], camera), points)


def test_a_camera_sees_what_it_is_said_to() -> None:
    camera = intrinsics(300, 400, 90)
    edge = torch.tensor([[1.0, 0, 1], [0, 0, 2]])  # 45 degrees to the right; straight ahead
    assert project(edge, camera).tolist() == [[400, 150], [200, 150]]
    assert intrinsics(300, 400, focal=500)[0, 0] == 500
    with torch.autocast("cpu", torch.bfloat16):  # a trainer's precision is for nets alone
        seen = project(edge / 3, camera)
        assert seen.dtype == torch.float32
        torch.testing.assert_close(unproject(seen, edge[:, 2], camera), edge)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fov": 0}, "fov=0: give degrees"),
        ({"fov": 180}, "fov=180"),
        ({"focal": -1}, "focal=-1: give pixels"),
        ({"fov": 60, "focal": 500}, "give one of them"),
    ],
)
def test_cameras_that_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        intrinsics(10, 10, **options)


@pytest.mark.parametrize("every", [7, 0])
def test_fewer_vertices_are_where_they_were(model: BodyModel, every: int) -> None:
    pose, shape = pose_of(model, 2), shape_of(model, 2)
    whole, thin = model(pose, shape), model.thinned(every)(pose, shape)
    kept = whole.vertices[:, ::every] if every else whole.vertices[:, :0]
    torch.testing.assert_close(thin.vertices, kept, atol=1e-6, rtol=0)
    torch.testing.assert_close(thin.joints, whole.joints, atol=1e-6, rtol=0)
    assert len(model.thinned(every).faces) == 0 < len(model.faces)
