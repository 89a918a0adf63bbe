"""Pictures of people who never existed: the truth is that of the picture, and the seed's alone."""

from __future__ import annotations

import json
import pickle
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import roma
import torch

from data.images import write_jpeg, write_png
from data.people import FIELDS, RenderedClips, RenderedPeople, collate_people
from vision.body.camera import project
from vision.body.people import VISIBLE, Crowd, People, main
from vision.body.poses import draw_pose
from vision.body.scene import View, photograph
from vision.tasks.people import PeopleData


@pytest.fixture(scope="module")
def people() -> People:
    return People(96, 128)


@pytest.fixture(scope="module")
def drawn(people: People) -> list[tuple[np.ndarray, Crowd]]:
    return [people.picture([7, i]) for i in range(6)]


def test_the_promised_shapes(drawn: list[tuple[np.ndarray, Crowd]]) -> None:
    counts = set()
    for image, crowd in drawn:
        assert image.shape == (96, 128, 3)
        assert image.dtype == np.uint8
        assert image.std() > 5
        count = len(crowd.pose)
        counts.add(count)
        shapes = [array.shape for array in crowd]
        assert shapes == [
            *((count, 104, 3, 3), (count, 6), (count, 3), (count, 104, 3), (count, 104, 2)),
            *((count, 4), (count,), (3, 3), (count,)),
        ]
        assert all(array.dtype == np.float32 for array in crowd)
        assert ((crowd.visible >= VISIBLE) & (crowd.visible <= 1)).all()
        left, top, right, bottom = crowd.box.T
        assert ((left >= 0) & (left < right) & (right <= 128)).all()
        assert ((top >= 0) & (top < bottom) & (bottom <= 96)).all()
    assert len(counts) > 1


def test_the_parameters_give_the_joints(
    people: People, drawn: list[tuple[np.ndarray, Crowd]]
) -> None:
    """In the camera's view, and where the camera's intrinsics put them in the picture."""
    for _, crowd in drawn:
        given = (torch.from_numpy(t) for t in (crowd.pose, crowd.shape, crowd.translation))
        joints = people.body(*given).joints.numpy()
        np.testing.assert_allclose(joints, crowd.joints, atol=1e-4)
        seen = crowd.joints @ crowd.camera.T
        np.testing.assert_allclose(seen[..., :2] / seen[..., 2:], crowd.pixels, atol=0.05)


def test_whoever_shows_whole_lies_in_the_box(drawn: list[tuple[np.ndarray, Crowd]]) -> None:
    compared = 0
    for _, crowd in drawn:
        for pixels, box, visible in zip(crowd.pixels, crowd.box, crowd.visible, strict=True):
            if visible > 0.99:
                assert (box[:2] - 8 <= pixels.min(0)).all()
                assert (pixels.max(0) <= box[2:] + 8).all()
                compared += 1
    assert compared >= 3


def test_the_horizon_is_where_a_far_point_of_the_cameras_height_lies() -> None:
    for seed in range(5):
        view = View(np.random.default_rng(seed), 96, 128)
        far = view.before(np.array([[0, view.high, 1e5]]))
        assert project(far, view.camera)[0, 1] == pytest.approx(view.horizon, abs=0.1)


def test_feet_touch_the_floor_and_the_picture_shows_them_there() -> None:
    """One alone: the mask is where the vertices are, and as low as the lowest of them."""
    people = People(96, 128, most=1, occluders=0)
    found = 0
    for seed in range(8):
        _, crowd = people.picture(seed)
        if len(crowd.pose) and crowd.visible[0] > 0.98:
            given = (torch.from_numpy(t) for t in (crowd.pose, crowd.shape, crowd.translation))
            pixels = project(people.body(*given).vertices[0].numpy(), crowd.camera)
            edges = np.concatenate([pixels.min(0), pixels.max(0)]).clip(0, [128, 96, 128, 96])
            np.testing.assert_allclose(crowd.box[0], edges, atol=1.5)
            found += 1
    assert found >= 2


@pytest.mark.slow
def test_somebody_half_out_of_the_picture_shows_half() -> None:
    """`visible` is a share of pixels: of a crowd's people none shows more than the whole."""
    people = People(96, 128, most=1, occluders=0)
    shares = []
    for seed in range(30):
        _, crowd = people.picture(seed)
        for box, visible in zip(crowd.box, crowd.visible, strict=True):
            cut = box[0] <= 0 or box[1] <= 0 or box[2] >= 128 or box[3] >= 96
            assert (visible == pytest.approx(1, abs=0.05)) != cut or visible > 0.95
            shares.append(visible)
    assert min(shares) < 0.9 < 0.99 < max(shares)


def test_most_people_stand_upright(people: People, drawn: list[tuple[np.ndarray, Crowd]]) -> None:
    """Heads above feet in a picture whose y points down, and before the camera."""
    head, foot = people.body.joint("head"), people.body.joint("left_ankle")
    for _, crowd in drawn:
        assert (crowd.joints[:, head, 1] < crowd.joints[:, foot, 1]).all()
        assert (crowd.translation[:, 2] > 1).all()


def test_whole_hands_can_be_asked_for() -> None:
    near = People(128, 128, most=1, nearest=1, farthest=1.5, hands=12)
    names = near.body.bone_names
    for seed in range(4):
        _, crowd = near.picture([8, seed])
        for side in (".L", ".R"):
            own = [n.startswith("finger") and n.endswith(side) for n in names]
            fingers = crowd.pixels[0, own]
            assert ((fingers >= 0) & (fingers <= 128)).all()
            assert np.ptp(fingers, 0).max() >= 12


def test_the_seed_says_everything(people: People, drawn: list[tuple[np.ndarray, Crowd]]) -> None:
    image, crowd = People(96, 128).picture([7, 3])
    np.testing.assert_array_equal(image, drawn[3][0])
    for one, other in zip(crowd, drawn[3][1], strict=True):
        np.testing.assert_array_equal(one, other)
    assert (image != drawn[2][0]).any()


@pytest.mark.parametrize("before_photographs", [False, True])
def test_natural_people_are_drawn_by_the_seed_and_stand_off_their_bodies(
    tmp_path: Path, before_photographs: bool
) -> None:
    """What is true of them is of the body; what shows is the clothes around it."""
    photo = tmp_path / "a.png"
    write_png(photo, np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8))
    behind = [photo] if before_photographs else []
    natural = People(96, 128, most=1, occluders=0, backgrounds=behind, natural=True)
    image, crowd = natural.picture([1, 2])
    again, same = People(96, 128, 1, behind, occluders=0, natural=True).picture([1, 2])
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(crowd.joints, same.joints)
    thicker = 0
    for seed in range(6):
        _, crowd = natural.picture([4, seed])
        given = (torch.from_numpy(t) for t in (crowd.pose, crowd.shape, crowd.translation))
        stood = natural.body(*given)
        np.testing.assert_allclose(stood.joints.numpy(), crowd.joints, atol=1e-4)
        if len(crowd.pose) and crowd.visible[0] > 0.98:
            pixels = project(stood.vertices[0].numpy(), crowd.camera)
            edges = np.concatenate([pixels.min(0), pixels.max(0)])
            sign = (-1, -1, 1, 1)
            assert ((crowd.box[0] - edges) * sign > -1.5).all()
            thicker += ((crowd.box[0] - edges) * sign).sum() > 1
    assert thicker >= 1


def test_natural_people_stand_wide_more_often(people: People) -> None:
    hand, body = [people.body.joint(f"{side}_wrist") for side in ("left", "right")], people.body
    spans = []
    for wide in (False, True):
        draw = np.random.default_rng(0)
        vectors = np.stack([draw_pose(draw, body, people.curl_axes, wide) for _ in range(150)])
        pose = roma.rotvec_to_rotmat(torch.from_numpy(vectors).float())
        joints = body(pose, body.neutral_shape.repeat(150, 1)).joints[:, hand]
        spans.append((joints[:, 0] - joints[:, 1]).norm(dim=1) > 1)
    assert spans[1].sum() > 1.5 * spans[0].sum()


def test_photographs_behind(tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    write_png(photo, np.full((60, 300, 3), (10, 200, 30), np.uint8))
    image, _ = People(96, 128, most=1, backgrounds=[photo]).picture(3)
    green = (image[..., 1].astype(int) - image[..., 0] > 100).mean()
    assert 0.3 < green < 0.995


def test_large_photographs_are_shrunk_and_not_all_held(tmp_path: Path) -> None:
    """To no less than fills the picture: two pixels for each of its own, in the smallest piece."""
    stripes = np.zeros((1200, 900, 3), np.uint8)
    stripes[::2] = 200
    paths = [tmp_path / f"{i}.png" for i in range(9)]
    for path in paths:
        write_png(path, stripes)
    first = photograph(paths[0], 96, 128)
    assert first.shape == (285, 214, 3)  # 128 / 0.6 wide
    assert np.ptp(first) < 80  # averaged: they have become grey
    for path in paths:
        photograph(path, 96, 128)
    assert photograph.cache_info().currsize == 1
    assert photograph(paths[0], 1000, 900).shape == (1200, 900, 3)


def test_knees_bend_one_way(people: People) -> None:
    knee = people.body.joint("left_knee")
    draw = np.random.default_rng(0)
    bends = np.array([draw_pose(draw, people.body, people.curl_axes)[knee] for _ in range(50)])
    assert (bends[:, 0] >= 0).all()
    assert np.degrees(bends[:, 0]).max() > 60
    assert (bends[:, 1:] == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_fingers_bend_to_the_palm(people: People, side: str) -> None:
    """By the angle that is asked for, and the tips come nearer to the wrist."""
    body = people.body
    vectors = np.zeros((len(body.parents), 3))
    for (finger, hand), axes in people.curl_axes.items():
        if hand == side and finger != "thumb":
            vectors[body.joint(f"{side}_{finger}2")] = np.radians(60) * axes[1]
    pose = roma.rotvec_to_rotmat(torch.from_numpy(vectors).float())[None]
    shape = body.neutral_shape[None]
    rest, bent = (body(p, shape).joints[0].numpy() for p in (body.still(1), pose))
    for finger in ("index", "middle", "ring", "pinky"):
        second, third = (body.joint(f"{side}_{finger}{i}") for i in (2, 3))
        bones = [joints[third] - joints[second] for joints in (rest, bent)]
        cosine = bones[0] @ bones[1] / np.linalg.norm(bones[0]) / np.linalg.norm(bones[1])
        assert np.degrees(np.arccos(cosine)) == pytest.approx(60, abs=0.5)
        wrist = body.joint(f"{side}_wrist")
        far = [np.linalg.norm(joints[third] - joints[wrist]) for joints in (rest, bent)]
        assert far[1] < far[0] - 0.005


@pytest.mark.slow
def test_a_clip_moves_people_a_little_and_the_scene_not() -> None:
    images, crowds = People(96, 128, most=2).clip(5, 4)
    assert images.shape == (4, 96, 128, 3)
    assert len(crowds) == 4
    again, _ = People(96, 128, most=2).clip(5, 4)
    np.testing.assert_array_equal(images, again)
    first, second = crowds[0], crowds[1]
    np.testing.assert_array_equal(first.track, second.track)
    np.testing.assert_array_equal(first.shape, second.shape)
    moved = np.linalg.norm(first.joints - second.joints, axis=-1)
    assert 0 < moved.max() < 0.3


def test_nobody_cannot_be_asked_for() -> None:
    with pytest.raises(ValueError, match="most=0: give 1 or more"):
        People(most=0)


# --- written and read


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("people")
    photos = root / "photos"
    photos.mkdir()
    write_jpeg(photos / "a.jpg", np.full((80, 80, 3), 90, np.uint8))
    call = [root / "set", "--train", 3, "--val", 1, "--size", 64, "--backgrounds", photos]
    assert main([str(word) for word in call]) == 0
    return root / "set"


@pytest.mark.slow
def test_what_is_written_is_read(written: Path) -> None:
    data = RenderedPeople(written, "train")
    assert len(data) == 3
    assert len(RenderedPeople(written, "val")) == 1
    item = data[1]
    assert item["image"].shape == (3, 64, 64)
    assert 0 <= item["image"].min() < item["image"].max() <= 1
    photos = [written.parent / "photos" / "a.jpg"]
    image, crowd = People(64, 64, backgrounds=photos).picture([0, 0, 1])
    for name in FIELDS:
        np.testing.assert_array_equal(item[name].numpy(), getattr(crowd, name))
    difference = item["image"].permute(1, 2, 0).numpy() * 255 - image
    assert np.abs(difference).mean() < 8  # JPEG


@pytest.mark.slow
def test_several_processes_draw_the_same(written: Path, tmp_path: Path) -> None:
    photos = str(written.parent / "photos")
    call = ["--train", "3", "--val", "1", "--size", "64", "--backgrounds", photos]
    assert main([str(tmp_path / "set"), *call, "--workers", "2"]) == 0
    files = sorted(path for path in (tmp_path / "set").rglob("*") if path.is_file())
    assert len(files) == 9
    for path in files:
        assert path.read_bytes() == (written / path.relative_to(tmp_path / "set")).read_bytes()


def test_another_process_can_be_given_who_draws(people: People) -> None:
    """Where processes do not share memory from the start, as on macOS."""
    faces = people.faces.copy()
    copy = pickle.loads(bytes(ForkingPickler.dumps(people)))
    np.testing.assert_array_equal(copy.faces, faces)
    np.testing.assert_array_equal(people.faces, faces)
    np.testing.assert_array_equal(copy.picture(3)[0], people.picture(3)[0])


def test_a_file_in_the_way_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train").touch()
    call = [str(tmp_path), "--train", "1", "--val", "0", "--size", "64"]
    assert main([*call, "--workers", "1"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "train" in said[0]


def test_what_is_wrong_in_another_process_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["--train", "1", "--val", "0", "--size", "448", "--most", "1", "--hands", "50"]
    far = ["--nearest", "19", "--farthest", "20", "--workers", "1"]
    assert main([str(tmp_path), *call, *far]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: of 1000 people none shows both hands 50 pixels large")


@pytest.mark.slow
def test_a_batch_keeps_people_with_their_picture(written: Path) -> None:
    data = RenderedPeople(written, "train")
    items = [data[i] for i in range(3)]
    batch = collate_people(items)
    assert batch["image"].shape == (3, 3, 64, 64)
    assert batch["camera"].shape == (3, 3, 3)
    for i, item in enumerate(items):
        for name in ("pose", "shape", "translation", "joints", "pixels", "box", "visible"):
            torch.testing.assert_close(batch[name][batch["owner"] == i], item[name])


@pytest.mark.slow
def test_a_second_call_goes_on(written: Path) -> None:
    first = written / "train" / "000000.jpg"
    before, other = first.read_bytes(), written / "train" / "000001.jpg"
    was = other.read_bytes()
    other.unlink()
    write_jpeg(first, np.zeros((64, 64, 3), np.uint8))
    call = [
        written,
        "--train",
        3,
        "--val",
        1,
        "--size",
        64,
        "--backgrounds",
        written.parent / "photos",
    ]
    assert main([str(word) for word in call]) == 0
    assert other.read_bytes() == was
    assert first.read_bytes() != before  # what is there stays
    first.write_bytes(before)


@pytest.mark.slow
def test_training_pictures_of_further_sets_are_learned_too(written: Path, tmp_path: Path) -> None:
    data = PeopleData(str(written), also=[str(written)])
    data.setup("fit")
    assert len(data.train_set) == 6
    assert len(data.val_set) == 1
    with pytest.raises(ValueError, match=r"holds no .jpg; write some with python -m vision.body"):
        PeopleData(str(written), also=[str(tmp_path)]).setup("fit")
    with pytest.raises(ValueError, match=r"also=runs/x: give a list of folders, say \[runs/x\]"):
        PeopleData(str(written), also="runs/x")


@pytest.mark.slow
def test_sets_that_cannot_be_read(written: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no .jpg; write some with python -m vision.body"):
        RenderedPeople(tmp_path, "train")
    picture = tmp_path / "train" / "0.jpg"
    picture.parent.mkdir()
    picture.write_bytes((written / "train" / "000000.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"0.jpg has no .npz beside it; write the set again"):
        RenderedPeople(tmp_path, "train")
    truth = picture.with_suffix(".npz")
    with np.load(written / "train" / "000000.npz") as file:
        arrays = dict(file)
    for change, message in (
        ({"pose": arrays["pose"][..., :2]}, r"pose is .* N×J×3×3 was expected"),
        ({"box": arrays["box"][:0]}, r"box is \(0, 4\), N×4 was expected"),
        ({"shape": arrays["shape"][0]}, r"shape is \(6,\), N×S was expected"),
        ({"camera": np.array([None])}, r"0.npz: not a whole .npz file \(camera.npy: object are no"),
        (
            {"camera": arrays["camera"].T},
            r"0.npz: intrinsics end in the row .*; give \[\[fx, 0, cx",
        ),
        ({"camera": np.zeros((3, 3))}, r"0.npz: intrinsics end in the row .*; give \[\[fx, 0, cx"),
        ({"track": np.zeros(10**7)}, "track.npy: 80,000,000 bytes, of which there may be 0 to 67"),
    ):
        np.savez_compressed(truth, **{**arrays, **change})
        with pytest.raises(ValueError, match=message):
            RenderedPeople(tmp_path, "train")[0]
    del arrays["pose"]
    np.savez(truth, **arrays)
    with pytest.raises(ValueError, match="no truth of rendered people, pose missing; write the se"):
        RenderedPeople(tmp_path, "train")[0]
    truth.write_bytes(b"PK half")
    with pytest.raises(ValueError, match=r"0.npz: not a whole .npz file"):
        RenderedPeople(tmp_path, "train")[0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size", "8"], "--size 8: give 64 or more"),
        (["--most", "0"], "most=0: give 1 or more"),
        (["--workers", "-1"], "--workers -1: give 0 or more"),
        (["--hands", "40"], "hands=40.0, most=6: give no more than an eighth"),
        (["--hands", "60", "--most", "1"], "hands=60.0, most=1: give no more than an eighth"),
        (["--hands", "40", "--most", "1", "--frames", "8"], "--hands is for pictures"),
        (["--backgrounds", "."], "--backgrounds .: no picture in this folder or below it; supply"),
        (["--backgrounds", "out"], "--backgrounds out: is OUT, too; choose another folder"),
    ],
)
def test_wrong_calls(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["out", "--train", "1", "--val", "0", *flags])
    except SystemExit as stop:
        status = stop.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_another_call_with_other_options_is_refused(tmp_path: Path) -> None:
    call = [str(tmp_path / "set"), "--train", "1", "--val", "0", "--size", "64"]
    assert main([*call, "--most", "1"]) == 0
    assert main([*call, "--most", "1"]) == 0
    assert main([*call, "--most", "2"]) == 2
    assert main([*call, "--most", "1", "--nearest", "1"]) == 2
    assert main([*call, "--most", "1", "--hands", "8"]) == 2


def test_a_set_begun_before_photographs_were_told_apart_goes_on(tmp_path: Path) -> None:
    """Nothing is said of them where there are none, as ever."""
    told = tmp_path / "options.json"
    begun = (
        '{"seed": 0, "size": 64, "most": 1, "frames": null, "farthest": 7.0, "backgrounds": 0}\n'
    )
    told.write_text(begun)
    call = [str(tmp_path), "--train", "0", "--val", "0", "--size", "64", "--most", "1"]
    assert main(call) == 0
    assert told.read_text() == begun
    image = tmp_path / "photos" / "a.png"
    image.parent.mkdir()
    write_png(image, np.zeros((9, 9, 3), np.uint8))
    assert main([*call, "--backgrounds", str(image.parent)]) == 2


def test_which_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of all kinds and in all folders, but not OUT; others by number or by name are another set."""
    photos = tmp_path / "photos"
    (photos / "deep" / "er").mkdir(parents=True)
    grey = np.full((9, 9, 3), 90, np.uint8)
    write_jpeg(photos / "a.JPG", grey)
    write_png(photos / "deep" / "er" / "b.png", grey)
    (photos / "c.txt").write_text("none")
    out = photos / "set"
    call = [str(out), "--train", "1", "--val", "0", "--size", "64", "--most", "1"]
    call += ["--backgrounds", str(photos)]
    assert main(call) == 0
    assert json.loads((out / "options.json").read_text())["backgrounds"] == 2
    assert main(call) == 0  # the picture that was drawn is none of them
    (photos / "a.JPG").rename(photos / "other.JPG")
    assert main(call) == 2
    assert "was begun with" in capsys.readouterr().err
    (photos / "other.JPG").rename(photos / "a.JPG")
    assert main(call) == 0
    write_png(photos / "deep" / "er" / "b.png", np.arange(243, dtype=np.uint8).reshape(9, 9, 3))
    assert main(call) == 2


def test_a_damaged_photograph_stops_it_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"\xff\xd8\xff and no more")
    out = tmp_path / "set"
    assert main([str(out), "--size", "64", "--backgrounds", str(tmp_path / "photos")]) == 2
    assert "a.jpg: " in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clips")
    call = [str(root), "--train", "2", "--val", "0", "--size", "64", "--most", "2", "--frames", "4"]
    assert main(call) == 0
    return root


def test_clips_are_read_in_pieces(clips: Path) -> None:
    data = RenderedClips(clips, "train", frames=2)
    assert len(data) == 4
    item = data[1]
    assert item["image"].shape == (2, 3, 64, 64)
    assert item["camera"].shape == (2, 3, 3)
    assert item["path"].endswith("0002.jpg")
    batch = collate_people([data[0], data[2]])
    assert batch["image"].shape == (2, 2, 3, 64, 64)
    assert batch["camera"].shape == (4, 3, 3)
    assert len(batch["owner"]) == len(batch["pose"]) == len(batch["track"])
    assert batch["owner"].max() <= 3
    first = set(batch["track"][batch["owner"] < 2].tolist())
    assert not first & set(batch["track"][batch["owner"] >= 2].tolist())


def test_pictures_of_another_size_are_fitted(clips: Path) -> None:
    """Cameras, pixels and boxes move with them: joints still lie where the camera says."""
    plain, fitted = (RenderedClips(clips, "train", size=s, frames=2)[0] for s in (None, 96))
    assert fitted["image"].shape == (2, 3, 96, 96)
    seen = project(fitted["joints"], fitted["camera"][fitted["owner"]])
    torch.testing.assert_close(seen, fitted["pixels"], atol=0.05, rtol=0)
    torch.testing.assert_close(fitted["box"], plain["box"] * 1.5)


def test_no_clip_of_so_many_frames(clips: Path) -> None:
    with pytest.raises(ValueError, match="no clip of 9 frames; write some with"):
        RenderedClips(clips, "train", frames=9)


@pytest.mark.slow
def test_natural_and_plain_people_do_not_mix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = [str(tmp_path / "set"), "--train", "1", "--val", "0", "--size", "64", "--most", "1"]
    assert main([*call, "--natural"]) == 0
    assert json.loads((tmp_path / "set" / "options.json").read_text())["natural"] is True
    assert main(call) == 2
    assert "was begun with" in capsys.readouterr().err
