"""Learning to recover people, and recovering them: from a recipe to the files of a call."""

from __future__ import annotations

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import trimesh
import yaml

import vision
from data.images import Picture, write_jpeg, write_png
from data.people import RenderedPeople, collate_people
from vision.backbones import Backbone
from vision.body import Body, BodyModel, create
from vision.body.camera import intrinsics, project
from vision.body.people import People, main
from vision.cli import infer, train
from vision.layers.state import read_checkpoint
from vision.mesh import MultiHMR, MultiHMRAnny, MultiHMRLoss, OSXLoss
from vision.mesh.people import SHARED, MeshSpec, Truth, stand
from vision.mesh.people import People as Recovered
from vision.run.mesh import MeshJob, MeshPredictor
from vision.run.recovery import Recovery
from vision.run.sources import Source
from vision.run.weights import build
from vision.tasks.mesh import Found, MeshTask

pytestmark = pytest.mark.slow
BACKBONE = {"name": "vit_tiny_patch16_224", "weights": "none"}
SIZE = 112


def recipe(net: str, **init_args: object) -> dict[str, object]:
    backbone = {"class_path": "vision.backbones.Backbone", "init_args": BACKBONE}
    return {
        "task": "mesh",
        "model": {
            "net": {"class_path": net, "init_args": {"backbone": backbone, **init_args}},
            "loss": {"class_path": "vision.mesh.MultiHMRLoss"},
            "lr": 1e-3,
        },
        "data": {"batch_size": 2},
        "trainer": {"max_steps": 2, "accelerator": "cpu", "logger": False},
    }


def over_a_vit_that_learns(net: str) -> Any:
    small: dict[str, Any] = {"body": "anny", "box_width": 8, "along_ray": True}
    if net == "MultiHMRAnny":
        small = {"size": SIZE, "dim": 64, "depth": 1, "heads": 2}
    content: Any = recipe(f"vision.mesh.{net}", **small)
    content["model"]["loss"] = {"class_path": f"vision.mesh.{net.removesuffix('Anny')}Loss"}
    content["model"]["net"]["init_args"]["backbone"]["init_args"] = {**BACKBONE, "frozen": False}
    return content


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people")
    counts = ["--train", "3", "--val", "2", "--test", "2"]
    assert main([str(root), *counts, "--size", str(SIZE), "--most", "2"]) == 0
    return root


@pytest.fixture(scope="module")
def model(rendered: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hardly trained, but whole."""
    folder = tmp_path_factory.mktemp("mesh")
    small = {"size": SIZE, "dim": 64, "depth": 1, "heads": 2}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe("vision.mesh.MultiHMRAnny", **small)))
    run = folder / "run"
    call = ["--config", str(path), "--data.root", str(rendered)]
    call += ["--trainer.default_root_dir", str(run)]
    assert train(["fit", *call]) == 0
    assert train(["test", *call[:4], "--ckpt_path", str(run / "model.ckpt")]) == 0
    return run / "model.ckpt"


@pytest.mark.parametrize("net", ["MultiHMRAnny", "OSX"])
def test_half_precision_is_for_the_net_alone(rendered: Path, tmp_path: Path, net: str) -> None:
    """Bodies, places and errors are worked out in float32 whatever the trainer's precision."""
    content = over_a_vit_that_learns(net)
    del content["trainer"]["logger"]
    path, losses = tmp_path / "recipe.yaml", []
    path.write_text(yaml.safe_dump(content))
    for precision in ("32-true", "bf16-mixed"):
        run = tmp_path / precision
        call = ["fit", "--config", str(path), "--data.root", str(rendered)]
        call += ["--trainer.default_root_dir", str(run), "--trainer.precision", precision]
        assert train(call) == 0
        with (run / "metrics.csv").open() as file:
            rows = [*csv.DictReader(file)]
        losses.append([float(row["val/loss"]) for row in rows if row.get("val/loss")][-1])
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("net", ["MultiHMRAnny", "OSX"])
def test_what_backbones_bring_may_learn_slower(rendered: Path, tmp_path: Path, net: str) -> None:
    """Not at all, here."""
    content = over_a_vit_that_learns(net)
    content["model"]["tuning"] = 0.0
    path, states = tmp_path / "recipe.yaml", []
    path.write_text(yaml.safe_dump(content))
    for steps in ("1", "2"):
        run = tmp_path / steps
        call = ["fit", "--config", str(path), "--data.root", str(rendered)]
        call += ["--trainer.default_root_dir", str(run), "--trainer.max_steps", steps]
        assert train(call) == 0
        states.append(read_checkpoint(run / "model.ckpt")["state_dict"])
    moved = {
        name
        for name, tensor in states[0].items()
        if not torch.allclose(tensor, states[1][name], atol=1e-7)  # averaging rounds
    }
    assert moved
    brought = [name for name in moved if name.startswith(("net.backbone.", "net.encoder."))]
    assert {*brought} <= {"net.encoder.task_tokens"}


def test_features_are_kept_for_training(
    rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"size": SIZE, "dim": 64, "depth": 1, "heads": 2}
    path = tmp_path / "recipe.yaml"
    content = recipe("vision.mesh.MultiHMRAnny", **small)
    content["model"] |= {"features": str(tmp_path / "features")}  # type: ignore[operator]
    path.write_text(yaml.safe_dump(content))
    call = ["fit", "--config", str(path), "--data.root", str(rendered)]
    assert train([*call, "--trainer.default_root_dir", str(tmp_path / "refused")]) == 2
    assert "set data.augment false" in capsys.readouterr().err
    call += ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.augment", "false"]
    assert train(call) == 0
    assert len([*(tmp_path / "features").glob("*.npz")]) == 5  # of train and val
    vision.load(tmp_path / "run/model.ckpt")  # asks for no folder
    shutil.rmtree(tmp_path / "features")
    again = ["--trainer.default_root_dir", str(tmp_path / "more"), "--trainer.max_steps", "3"]
    assert train([*call, *again, "--ckpt_path", str(tmp_path / "run/last.ckpt")]) == 0
    assert [*(tmp_path / "features").glob("*.npz")]  # a training that goes on keeps them too


def test_a_training_begins_with_weights(model: Path, rendered: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun.ckpt"
    shutil.copyfile(model, begun)
    call = ["fit", "--config", str(model.parent.parent / "recipe.yaml")]
    call += ["--data.root", str(rendered), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert train([*call, "--model.start_from", str(begun), "--model.lr", "1e-12"]) == 0
    begun.unlink()  # what it began with is needed no more
    before, after = (read_checkpoint(p)["state_dict"] for p in (model, tmp_path / "run/model.ckpt"))
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    vision.load(tmp_path / "run/model.ckpt")


def test_what_looks_around_begins_anew(tmp_path: Path) -> None:
    """Over a net that has none of it, and scores heads nearly as that does."""
    plain, around = (
        MultiHMRAnny(Backbone(**BACKBONE), SIZE, dim=32, depth=1, heads=2, around=own).eval()
        for own in (False, True)
    )
    begun = tmp_path / "plain.ckpt"
    torch.save(plain.state_dict(), begun)
    MeshTask(around, MultiHMRLoss(), start_from=str(begun))
    image = torch.rand(1, 3, SIZE, SIZE)
    torch.testing.assert_close(plain(image).heat, around(image).heat, atol=0.02, rtol=0)
    torch.save(around.state_dict(), begun)
    with pytest.raises(ValueError, match=r"surplus: around\.0\.bias"):
        MeshTask(plain, MultiHMRLoss(), start_from=str(begun))


def test_it_begins_over_the_same_backbone_alone(model: Path) -> None:
    net = build(read_checkpoint(model)["hyper_parameters"]["net"])
    net.backbone.fingerprint = "another"
    with pytest.raises(ValueError, match="trained on other weights"):
        MeshTask(net, MultiHMRLoss(), start_from=str(model))


def test_a_test_says_how_far_off_the_net_is(model: Path) -> None:
    found = json.loads((model.parent / "metrics.json").read_text())
    assert found["body"] == "anny"
    assert {"precision", "recall", "f1"} <= found.keys()


def test_the_truth_itself_has_no_error(rendered: Path) -> None:
    """What is true, as if a net had said it: every loss of a person is nothing, F1 is 1."""
    net = MultiHMR(Backbone(**BACKBONE), size=SIZE, body="anny", dim=32, heads=2, mlp=32)
    task = MeshTask(net, MultiHMRLoss())
    data = RenderedPeople(rendered, "train", SIZE)
    batch = collate_people([data[i] for i in range(len(data))])
    truth = task.truth(batch)
    anchor = truth.joints[:, task.body.joint("head")]
    own = [task.body.joint(name) for name in net.spec.joints]
    people = Recovered(
        truth.picture, torch.ones(len(anchor)), truth.pose[:, own], truth.shape, anchor
    )
    stood = stand(people, net.spec, task.body)
    torch.testing.assert_close(stood.joints, truth.joints, atol=1e-4, rtol=0)
    found = Found()
    found.add(people, stood, truth, task.body)
    means = found.means()
    assert means["f1"] == 1
    for name in ("mpjpe", "pa_mpjpe", "pve", "hands", "pa_hands", "face", "pa_face", "place"):
        assert means[name] == pytest.approx(0, abs=0.2)
    assert means["mpjpe_of_mean"] > means["mpjpe_of_turned"] > 30
    at, kept = task._assign(truth)
    seen = net(batch["image"], batch["camera"], at)
    told = truth.take(kept)
    perfect = seen._replace(
        people=people.take(kept),
        depth=net.depth_number(anchor[kept][:, 2], told.camera),
        offset=_offsets(task, told, at),
    )
    terms = MultiHMRLoss()(net, perfect, told, task.body)
    for name in ("offset", "rotation", "shape", "depth", "place", "joints", "vertices"):
        assert float(terms[name]) == pytest.approx(0, abs=0.02), name
    other = MultiHMRLoss()(net, seen, told, task.body)
    assert all(float(other[name]) > float(terms[name]) for name in ("rotation", "joints", "place"))


def _offsets(task: MeshTask, truth: Truth, at: tuple[torch.Tensor, ...]) -> torch.Tensor:

    anchor = truth.joints[:, task.body.joint("head"), None]
    pixel = project(anchor, truth.camera)[:, 0]
    return pixel / 16 - torch.stack([at[2], at[1]], -1) - 0.5


def test_somebody_missed_and_somebody_invented_count(rendered: Path) -> None:
    body = create("anny")
    data = RenderedPeople(rendered, "train", SIZE)
    batch = collate_people([data[0]])
    vertices, joints = body(batch["pose"], batch["shape"], batch["translation"])
    many = len(joints)
    truth = Truth(
        batch["owner"], batch["pose"], batch["shape"], vertices, joints, batch["box"],
        batch["camera"][batch["owner"]], batch["track"],
    )  # fmt: skip
    own = [body.joint(name) for name in SHARED]
    one = Recovered(
        truth.picture, torch.ones(many), truth.pose[:, own], truth.shape, joints[:, 0]
    ).take(torch.tensor([0]))
    spec = MeshSpec("anny", SHARED, "pictures", (SIZE, SIZE))
    for shift, right in ((0.0, 1), (50.0, 0)):
        moved = one._replace(place=one.place + torch.tensor([shift, 0, 0]))
        found = Found()
        found.add(moved, stand(moved, spec, body), truth, body)
        means = found.means()
        assert means["precision"] == right
        assert means["recall"] == pytest.approx(right / many)


def someone(body: BodyModel, frames: int) -> Truth:
    """A clip of somebody who keeps still, 4 m away."""
    pose, shape = body.still(frames).clone(), body.neutral_shape.expand(frames, -1)
    pose[:, 0] = torch.diag(torch.tensor([1.0, -1, -1]))
    true = body(pose, shape, torch.tensor([0.0, 0, 4]).repeat(frames, 1))
    whole = torch.tensor([0.0, 0, SIZE, SIZE]).expand(frames, 4)
    camera = intrinsics(SIZE, SIZE).expand(frames, 3, 3)
    track = torch.zeros(frames, dtype=torch.long)
    return Truth(torch.arange(frames), pose, shape, *true, whole, camera, track)


def test_unrest_of_places_is_told_from_that_of_poses() -> None:
    """Found with another depth in every second frame."""
    body, frames = create("anny"), 4
    truth = someone(body, frames)
    place = truth.joints[:, 0].clone()
    place[::2, 2] += 0.01
    found = Found()
    people = Recovered(truth.picture, torch.ones(frames), truth.pose, truth.shape, place)
    found.add(people, body(truth.pose, truth.shape, place), truth, body)
    means = found.means()
    assert means["acceleration"] == pytest.approx(0, abs=1e-2)
    assert means["acceleration_in_space"] == pytest.approx(20, rel=1e-2)


def test_a_missed_frame_leaves_acceleration_to_the_others() -> None:
    """Of eight frames the fourth is missed: three before it are a run, and four after it."""
    body, frames = create("anny"), 8
    truth = someone(body, frames)
    place = truth.joints[:, 0].clone()
    place[1, 2] += 0.01  # accelerations −20 mm per frame² within the first run, 0 in the other
    there = torch.arange(frames) != 3
    people = Recovered(truth.picture, torch.ones(frames), truth.pose, truth.shape, place)
    people, found = people.take(there), Found()
    found.add(people, body(people.rotations, people.shape, people.place), truth, body)
    assert found.means()["recall"] == 7 / 8
    assert found.errors["acceleration"] == pytest.approx([0, 0, 0], abs=1e-2)
    assert found.errors["acceleration_in_space"] == pytest.approx([20, 0, 0], abs=1e-2)


# ---- several processes


def test_what_processes_found_is_pooled() -> None:
    """One of them found nobody, and so has no errors and fewer terms of a loss."""
    body = create("anny")
    truth = someone(body, 3)
    place = truth.joints[:, 0] + torch.tensor([[0.0], [0.1], [0.2]])
    people = Recovered(truth.picture, torch.ones(3), truth.pose, truth.shape, place)
    stood = body(people.rotations, people.shape, people.place)
    whole, parts = Found(), [Found(), Found(), Found()]
    shares = ([], [0], [1, 2])
    for part, rows in zip(parts, shares, strict=True):
        mine = torch.tensor(rows, dtype=torch.long)
        for found in (part, whole):
            seen = people.take(mine), Body(*(field[mine] for field in stood))
            theirs = truth.take(mine if len(mine) else torch.tensor([0]))
            found.add(*seen, theirs, body)
            terms = {"heat": torch.tensor(2.0 + len(rows))}
            found.add_losses(terms | ({"offset": torch.tensor(7.0)} if rows else {}), 1 + len(rows))
    pooled = Found.together(parts)
    assert pooled.means() == whole.means()
    assert pooled.means()["recall"] == 3 / 4
    assert pooled.mean_losses() == pytest.approx({"heat": (2 + 2 * 3 + 3 * 4) / 6, "offset": 7})
    assert [*pooled.mean_losses()] == [*whole.mean_losses()]
    assert {*parts[0].means()} == {"precision", "recall", "f1"}
    nobody = Found.together([Found(), Found()])
    assert {*nobody.means()} == {"precision", "recall", "f1"}


def test_two_processes_validate_as_one(
    model: Path, rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second's picture is empty: nobody to recall, and it has not all terms of the loss."""
    shutil.copytree(rendered, tmp_path / "people")
    empty = max((tmp_path / "people" / "val").glob("*.npz"))
    with np.load(empty) as file:
        arrays = {name: array if name == "camera" else array[:0] for name, array in file.items()}
    np.savez(empty, **arrays)
    call = ["validate", "--config", str(model.parents[1] / "recipe.yaml"), "--data.batch_size", "1"]
    call += ["--data.root", str(tmp_path / "people"), "--ckpt_path", str(model)]
    call += ["--trainer.default_root_dir", str(tmp_path)]
    assert train(call) == 0
    alone = told(capsys.readouterr().out)
    assert alone["val/recall"] == 0
    assert alone["val/offset"] > 0
    call += ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    both = subprocess.run(
        [sys.executable, "train.py", *call],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert both.returncode == 0, both.stderr
    assert told(both.stdout) == pytest.approx(alone, rel=1e-4)


def told(table: str) -> dict[str, float]:
    """Numbers of a validation by their names."""
    return {n: float(value) for n, value in re.findall(r"(val/\w+)[ │]+([\d.e+-]+)", table)}


# ---- use


@pytest.fixture(scope="module")
def predictor(model: Path) -> MeshPredictor:
    found = vision.load(model, threshold=0.001)
    assert isinstance(found, MeshPredictor)
    return found


def test_people_of_a_picture_of_any_shape(predictor: MeshPredictor) -> None:
    image, _ = People(80, 150, most=1).picture(1)
    found = predictor(image)
    count = len(found.score)
    assert count > 0
    assert found.vertices.shape == (count, 13718, 3)
    assert found.pose.shape == (count, 104, 3, 3)
    assert found.pixels.shape == (count, 104, 2)
    assert (np.diff(found.score) <= 0).all()
    assert (found.joints[:, 0] == found.translation).all()
    # The camera is the picture's own: it looks at its middle.
    np.testing.assert_allclose(found.camera[:2, 2], [75, 40], atol=0.5)


def test_intrinsics_that_are_known_are_used(predictor: MeshPredictor) -> None:
    image, crowd = People(96, 96, most=1).picture(1)
    near, far = (predictor(image, crowd.camera * [[f], [f], [1]]) for f in (1.0, 3.0))
    assert len(far.joints)
    assert (far.joints[:, 0, 2] > 2 * near.joints[: len(far.joints), 0, 2]).all()
    with pytest.raises(ValueError, match="camera: intrinsics "):
        predictor(image, np.zeros((3, 3)))
    widths = MeshPredictor(predictor.net, predictor.body, focal=1.2)
    with pytest.raises(ValueError, match=r"focal=1\.2: intrinsics have the focal lengths 1\.2"):
        widths(image)
    with pytest.raises(ValueError, match="fov=200"):
        MeshPredictor(predictor.net, predictor.body, fov=200)
    with pytest.raises(ValueError, match=r"threshold=1\.5: give a score from 0 to 1"):
        MeshPredictor(predictor.net, predictor.body, threshold=1.5)


def test_numbers_that_are_not_finite_are_refused(predictor: MeshPredictor) -> None:
    net = copy.deepcopy(predictor.net)
    broken: Any = net.dist[-1]
    torch.nn.init.constant_(broken.bias, torch.nan)
    with pytest.raises(ValueError, match="not finite; its weights are damaged"):
        MeshPredictor(net, predictor.body, threshold=0.001)(np.zeros((96, 96, 3), np.uint8))


def test_half_a_person_and_sixty(predictor: MeshPredictor, tmp_path: Path) -> None:
    near = People(96, 96, most=1, nearest=1, farthest=1.2)
    image, crowd = near.picture(3)
    assert crowd.visible[0] < 0.6
    found = predictor(image)
    assert len(found.score)
    own = np.zeros(60, int)
    spread = np.stack([*np.mgrid[-2:2:10j, -1:1:6j].reshape(2, -1), np.full(60, 3.0)], 1)
    arrays = {f: getattr(found, f)[own] for f in ("score", "pose", "shape", "pixels")}
    moved = {f: getattr(found, f)[own] + spread[:, None] for f in ("vertices", "joints")}
    many = Recovery(
        **arrays, **moved, translation=spread, camera=found.camera, numbers=np.arange(60)
    )
    picture = Picture(image, name="crowd.png")
    source = Source("crowd.png", tmp_path / "crowd.png", Path("crowd"))
    row = MeshJob(predictor).write(many, picture, source, tmp_path)
    assert row["people"] == len(row["scores"]) == 60
    assert all((tmp_path / name).stat().st_size for name in row["outputs"])
    assert len(trimesh.load_scene(tmp_path / "crowd.glb").geometry) == 60


def test_the_files_of_a_call(model: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    image, _ = People(90, 120, most=2).picture(4)
    write_jpeg(photos / "two.jpg", image)
    write_png(photos / "nobody.png", np.zeros((64, 64, 3), np.uint8))
    write_png(photos / "tiny.png", np.zeros((16, 16, 3), np.uint8))
    write_png(photos / "dot.png", np.zeros((2, 2, 3), np.uint8))
    out = tmp_path / "out"
    call = ["mesh", str(photos), "-o", str(out), "--weights", str(model), "--threshold", "0.005"]
    assert infer(call) == 1
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    by_name = {Path(row["input"]).name: row for row in rows}
    assert "shows nobody; give 8 or more" in by_name["dot.png"]["error"]
    for name in ("two.jpg", "nobody.png", "tiny.png"):
        row = by_name[name]
        assert row["status"] == "ok"
        assert row["people"] == len(row["scores"])
        assert all((out / output).stat().st_size for output in row["outputs"])
        people = [output for output in row["outputs"] if output.endswith(".npz")]
        assert len(people) == row["people"]
        assert any(output.endswith(".glb") for output in row["outputs"]) == bool(people)


def test_nobody_found_is_a_clear_result(model: Path, tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    out = tmp_path / "out"
    call = ["mesh", str(tmp_path / "a.png"), "-o", str(out), "--weights", str(model)]
    assert infer([*call, "--threshold", "0.999"]) == 0
    row = json.loads((out / "manifest.jsonl").read_text().splitlines()[-1])
    assert row["people"] == 0
    assert row["outputs"] == ["a.overlay.jpg"]


def test_tracks_of_a_video(model: Path, tmp_path: Path) -> None:
    images, _ = People(96, 128, most=1).clip(3, 6)
    path = tmp_path / "walk.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (128, 96))
    for image in images:
        writer.write(np.ascontiguousarray(image[..., ::-1]))
    writer.release()
    out = tmp_path / "out"
    call = ["mesh", str(path), "-o", str(out), "--weights", str(model), "--smooth"]
    assert infer([*call, "--threshold", "0.005"]) == 0
    tracks = sorted(out.glob("walk*.person-*.npz"))
    assert tracks
    with np.load(tracks[0]) as file:
        count = len(file["frames"])
        assert file["pose"].shape == (count, 104, 3, 3)
        assert file["joints"].shape == (count, 104, 3)
        assert file["joint_names"].shape == (104,)
        square = file["pose"] @ file["pose"].swapaxes(-1, -2)
        np.testing.assert_allclose(square, np.broadcast_to(np.eye(3), square.shape), atol=1e-4)
    (animated,) = out.glob("walk*.glb")
    names = {f"person-{int(path.stem.rpartition('-')[2])}" for path in tracks}
    assert trimesh.load_scene(animated).geometry.keys() == names
    (film,) = out.glob("walk*.overlay.mp4")
    capture = cv2.VideoCapture(str(film))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 6


def test_frames_of_a_video_are_seen_together(
    predictor: MeshPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, seen = MeshJob(predictor), []
    monkeypatch.setattr(predictor, "clip", lambda images: seen.append(len(images)) or [*images])
    image = np.zeros((9, 9, 3), np.uint8)
    frames = [*(("walk.mp4", i) for i in (3, 4, 5, 8)), ("run.mp4", 9), None, None]
    job.predict([Picture(image, frame=frame) for frame in frames])
    assert seen == [3, 1, 1, 1, 1]


def test_a_video_that_ends_early_keeps_what_it_showed(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, _ = People(96, 128, most=1).clip(3, 2)
    path = tmp_path / "walk\u202f1.avi"  # a name that messages quote
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (128, 96))
    for i in range(12):
        writer.write(np.ascontiguousarray(images[i % 2, ..., ::-1]))
    writer.release()
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    out = tmp_path / "out"
    call = ["mesh", str(path), "-o", str(out), "--weights", str(model), "--threshold", "0.005"]
    assert infer(call) == 1
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    good = [row for row in rows if row["status"] == "ok"]
    assert len(good) > 2
    assert [row["status"] for row in rows if row not in good] == ["error"]
    assert all((out / name).exists() for row in good for name in row["outputs"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fov", "190"], "--fov 190.0: give a number between 0 and 180"),
        (["--focal", "1.2"], "--focal 1.2: give a number between 8 and 1000000"),
        (["--threshold", "1.5"], "--threshold 1.5: give a number between 0 and 1"),
    ],
)
def test_wrong_calls(
    model: Path, flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_png(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    call = ["mesh", str(tmp_path / "a.png"), "-o", str(tmp_path / "out"), "--weights", str(model)]
    assert infer([*call, *flags]) == 2
    assert message in capsys.readouterr().err
    assert infer(["restore", *call[1:]]) == 2
    assert "is for `mesh`" in capsys.readouterr().err


def test_seen_at_another_size(model: Path, tmp_path: Path) -> None:
    large = vision.load(model, size=2 * SIZE, threshold=0.001)
    assert isinstance(large, MeshPredictor)
    assert large.spec.size == (2 * SIZE, 2 * SIZE)
    assert len(large(People(96, 96, most=1).picture(1)[0]).score) > 0
    with pytest.raises(ValueError, match="size=113: give a multiple of the 16 pixels a patch"):
        vision.load(model, size=113)
    recipe_ = recipe("vision.mesh.MultiHMR", size=SIZE, dim=32, depth=1, heads=2, body="anny")
    net = {"visionmend": "mesh", "backbones": {}, "state_dict": {}}
    told = {"net": recipe_["model"]["net"]}  # type: ignore[index]
    torch.save({**net, "hyper_parameters": told}, tmp_path / "fixed.ckpt")
    with pytest.raises(ValueError, match="MultiHMR sees pictures at one size; leave the size out"):
        vision.load(tmp_path / "fixed.ckpt", size=2 * SIZE)


def test_osx_takes_people_that_a_detector_found(model: Path, tmp_path: Path) -> None:
    spec = over_a_vit_that_learns("OSX")["model"]["net"]
    task = MeshTask(build(spec), OSXLoss())
    task.hparams.update({"net": spec})
    task.save(tmp_path / "osx.ckpt")
    image, _ = People(90, 120, most=2).picture(4)
    write_jpeg(tmp_path / "two.jpg", image)
    call = ["mesh", str(tmp_path / "two.jpg"), "-o", str(tmp_path / "out"), "--focal", "100"]
    call += ["--weights", str(tmp_path / "osx.ckpt"), "--threshold", "0.005"]
    assert infer([*call, "--detector", str(model)]) == 0
    (row,) = (json.loads(s) for s in (tmp_path / "out/manifest.jsonl").read_text().splitlines())
    alone = vision.load(model, threshold=0.005, focal=100)
    assert row["scores"] == [pytest.approx(s, abs=1e-3) for s in alone(image).score]
    with np.load(tmp_path / "out/two.person-00.npz") as file:
        assert file["camera"][0, 0] == pytest.approx(100)
        assert [*file["joint_names"]] == [*task.body.joint_names]
    assert infer([*call, "--detector", str(tmp_path / "osx.ckpt")]) == 2
