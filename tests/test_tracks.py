"""People of videos: who is who, tracks in files, and what a second call leaves alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from data.images import write_png
from vision.body import Anny
from vision.body.camera import intrinsics, project
from vision.run.engine import Summary, run
from vision.run.mesh import MeshJob
from vision.run.recovery import Recovery
from vision.run.tracks import OneEuro, Tracker

RATE = 10


def at(*places: float) -> np.ndarray:
    """N×1×3 joints of people that far to the right."""
    return np.array([[[x, 0, 4]] for x in places], float)


def test_people_who_pass_each_other() -> None:
    tracker = Tracker(RATE)
    for frame, x in enumerate(np.linspace(-1, 1, 21)):
        joints = np.concatenate([at(x), at(-x) + np.array([0, 0, 0.2])])
        assert tracker(frame, joints).tolist() == [0, 1]


@pytest.mark.parametrize(("frames", "number"), [(9, 0), (10, 0), (11, 1)])
def test_somebody_who_is_lost(frames: int, number: int) -> None:
    tracker = Tracker(RATE)
    assert tracker(0, at(0)).tolist() == [0]
    assert tracker(frames, at(0.3)).tolist() == [number]


def test_somebody_out_of_reach_takes_nobodys_place() -> None:
    tracker = Tracker(RATE)
    assert tracker(0, at(0, 3)).tolist() == [0, 1]
    assert tracker(1, at(9, 3.1, 0.1)).tolist() == [2, 1, 0]
    assert tracker(2, at()).tolist() == []


def test_one_euro() -> None:
    steady, rng = OneEuro(RATE), np.random.default_rng(0)
    assert [float(steady(np.array(2.0))) for _ in range(3)] == [2, 2, 2]
    noise = rng.normal(0, 0.01, 200)
    calm = OneEuro(RATE)
    assert np.std([calm(np.array(x)) for x in noise]) < 0.8 * noise.std()
    quick = OneEuro(RATE)
    moved = [float(quick(np.array(x))) for x in [0.0] * 5 + [1.0] * 10]
    assert moved[4] == 0
    assert 0.9 < moved[-1] <= 1


class Fake:
    """Finds as many people as the red of the first pixel says, in tens."""

    def __init__(self, frames: int = 1, most: int = 9) -> None:
        self.body, self.most = Anny(), most
        self.spec = SimpleNamespace(frames=frames)
        self.fingerprint = f"{frames} {most}"
        self.clips: list[int] = []

    def clip(self, images: Any) -> list[Recovery]:
        self.clips.append(len(images))
        return [self.recovery(image) for image in images]

    def recovery(self, image: np.ndarray) -> Recovery:
        count = min(round(image[0, 0, 0] / 10), self.most)
        pose = self.body.still(count).clone()
        pose[:, 0, 1, 1] = pose[:, 0, 2, 2] = -1
        shape = self.body.neutral_shape.expand(count, -1)
        place = pose.new_tensor([[i - 1.0, 0, 5] for i in range(count)]).view(-1, 3)
        vertices, joints = (part.numpy() for part in self.body(pose, shape, place))
        camera = intrinsics(*image.shape[:2]).numpy()
        arrays = (part.numpy() for part in (pose, shape, place))
        pixels = project(joints, camera)
        score = np.ones(count, np.float32)
        return Recovery(score, *arrays, vertices, joints, pixels, camera, np.arange(count))


@pytest.fixture
def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A video of ten frames with two people."""
    monkeypatch.chdir(tmp_path)
    film("walk.avi", 20)
    return "walk.avi"


def film(path: str, red: int, frames: int = 10) -> None:
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"FFV1"), RATE, (64, 48))
    for _ in range(frames):
        writer.write(np.full((48, 64, 3), red, np.uint8))
    writer.release()


def recover(*inputs: str, batch_size: int = 8, smooth: bool = False, **options: int) -> Summary:
    job = MeshJob(Fake(**options), smooth=smooth)  # type: ignore[arg-type]
    return run(job, inputs, "out", batch_size=batch_size, progress=False)


def made() -> dict[str, int]:
    """Files of the video's tracks, and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in Path("out").glob("walk.avi.*")}


TRACKS = {"walk.avi.person-00.npz", "walk.avi.person-01.npz", "walk.avi.glb"}


@pytest.mark.slow
def test_a_second_call_writes_nothing_again(walk: str) -> None:
    first = recover(walk)
    files = made()
    assert files.keys() == {*TRACKS, "walk.avi.overlay.mp4"}
    assert {path.name for path in first.outputs} == files.keys()
    with np.load("out/walk.avi.person-00.npz") as track:
        assert track["frames"].tolist() == [*range(10)]
        assert track["joints"].shape == (10, 104, 3)
    again = recover(walk)
    assert (again.skipped_done, again.outputs) == (10, [])
    write_png("one.png", np.full((48, 64, 3), 10, np.uint8))
    other = recover("one.png", smooth=True)
    assert (other.done, other.outputs) == (1, [])
    assert made() == files


@pytest.mark.slow
def test_nobody_of_other_weights_stays(walk: str) -> None:
    write_png("one.png", np.full((48, 64, 3), 30, np.uint8))
    recover(walk, "one.png")
    recover(walk, "one.png", most=1)
    assert made().keys() == {"walk.avi.person-00.npz", "walk.avi.glb", "walk.avi.overlay.mp4"}
    assert [p.name for p in Path("out").glob("one.person*")] == ["one.person-00.npz"]
    recover(walk, "one.png", most=0)
    assert made().keys() == {"walk.avi.overlay.mp4"}
    assert {p.name for p in Path("out").glob("one.*")} == {"one.overlay.jpg"}


@pytest.mark.slow
def test_a_video_that_cannot_be_finished_does_not_stop_the_others(walk: str) -> None:
    film("other.avi", 10)
    recover(walk, "other.avi")
    for name in ("walk", "other"):
        Path(f"out/{name}.avi.overlay.mp4").unlink()
    damaged = Path("out/walk.avi/frame_000003.npz")
    for content in (b"PK damaged", b""):
        damaged.write_bytes(content)
        summary = recover(walk, "other.avi")
        assert summary.failed == 1
        assert summary.errors[0].startswith("walk.avi: its tracks cannot be written: ")
        assert "frame_000003.npz is damaged; delete it, and call again" in summary.errors[0]
        assert Path("out/other.avi.overlay.mp4").exists()
    damaged.unlink()
    assert recover(walk, "other.avi").failed == 0
    assert made().keys() == {*TRACKS, "walk.avi.overlay.mp4"}


@pytest.mark.slow
def test_pictures_with_names_like_results_keep_theirs(walk: str) -> None:
    for name in ("b.png", "b.overlay.jpg", "b.person-2.png"):
        write_png("x.png", np.full((48, 64, 3), 10, np.uint8))
        Path("x.png").rename(name)
    inputs = ["b.png", "b.overlay.jpg", "b.person-2.png"]
    recover(*inputs)
    recover(*reversed(inputs), most=1)
    for stem in ("b", "b.overlay", "b.person-2"):
        assert Path(f"out/{stem}.person-00.npz").exists()
        assert Path(f"out/{stem}.overlay.jpg").exists()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_clips_do_not_depend_on_the_call(walk: str, batch_size: int) -> None:
    write_png("a.png", np.full((48, 64, 3), 10, np.uint8))
    fake = Fake(frames=4)
    run(MeshJob(fake), ["a.png", walk], "out", batch_size=batch_size, progress=False)  # type: ignore[arg-type]
    assert fake.clips == [1, 4, 4, 2]
