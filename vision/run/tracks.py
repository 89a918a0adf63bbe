"""People of a video's frames as tracks, smoothed if wanted, and the video drawn over."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import roma
import torch
from rich.console import Console
from rich.progress import track
from scipy.optimize import linear_sum_assignment

from data.arrays import load_npz
from data.images import show
from vision.body import BodyModel
from vision.body.camera import project
from vision.body.smpl import BODY
from vision.report.gltf import write_animation
from vision.run.recovery import Recovery, save_npz, views

REACH = 0.5
"""Metres that somebody is looked for around where he was, and as much again for each second."""
FORGET = 1.0
"""Seconds after which a track that is not found again has ended."""

FRAME = ("score", "pose", "shape", "translation", "joints", "camera")
"""What is kept of a frame; vertices follow from it by the body model."""
LARGEST = 1 << 28
"""Bytes of these."""

Frame = dict[str, np.ndarray]


class Tracker:
    """Who of a frame is who of the frames before: the nearest joints in space, by Hungarian.

    Distances are means over the joints, in the camera's view, from where each was seen last.

    Args:
        rate: frames a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.seen: dict[int, tuple[int, np.ndarray]] = {}
        self.count = 0

    def __call__(self, frame: int, joints: np.ndarray) -> np.ndarray:
        """N×J×3 joints of a frame, frames in order → N numbers of tracks."""
        late = {n: (frame - when) / self.rate for n, (when, _) in self.seen.items()}
        alive = [number for number, seconds in late.items() if seconds <= FORGET]
        far = np.array([
            [np.linalg.norm(j - self.seen[n][1], axis=-1).mean() for n in alive] for j in joints
        ]).reshape(len(joints), len(alive))  # fmt: skip
        reach = np.array([REACH * (1 + late[n]) for n in alive])
        # Pairs out of reach cost the same, so that they take nobody's place.
        numbers = np.full(len(joints), -1)
        for i, j in zip(*linear_sum_assignment(np.minimum(far, 2 * reach)), strict=True):
            if far[i, j] <= reach[j]:
                numbers[i] = alive[j]
        for i in np.flatnonzero(numbers < 0):
            numbers[i] = self.count
            self.count += 1
        self.seen = {n: self.seen[n] for n in alive}
        self.seen |= {int(n): (frame, j) for n, j in zip(numbers, joints, strict=True)}
        return numbers


class OneEuro:
    """The 1€ filter: steady where little moves, quick where much does (Casiez et al., CHI 2012).

    Args:
        rate: values a second.
        cutoff: hertz, where nothing moves.
        beta: by how much the cutoff rises with the speed.
    """

    def __init__(self, rate: float, cutoff: float = 1.5, beta: float = 0.7) -> None:
        self.rate, self.cutoff, self.beta = rate, cutoff, beta
        self.value: np.ndarray | None = None
        self.speed: np.ndarray | float = 0.0

    def __call__(self, value: np.ndarray, steps: int = 1) -> np.ndarray:
        """The next value, so many steps after the one before → it, smoothed."""
        if self.value is None:
            self.value = value
            return value
        seconds = steps / self.rate
        speed = (value - self.value) / seconds
        self.speed = self.speed + _share(1.0, seconds) * (speed - self.speed)
        share = _share(self.cutoff + self.beta * np.abs(self.speed), seconds)
        self.value = self.value + share * (value - self.value)
        return self.value


def _share(cutoff: Any, seconds: float) -> Any:
    """Of the new value, of a low pass of that cutoff."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * seconds))


def smoothed(rate: float, frames: np.ndarray, pose: np.ndarray, place: np.ndarray) -> Frame:
    """T×J×3×3 rotations and T×3 places of a track, by `OneEuro`."""
    turn, move = OneEuro(rate), OneEuro(rate)
    poses, places = [], []
    steps = [1, *np.diff(frames).tolist()]
    for step, rotations, spot in zip(steps, pose, place, strict=True):
        poses.append(turn(rotations, step))
        places.append(move(spot, step))
    # A mean of rotations is none; the nearest one is.
    nearest = roma.special_procrustes(torch.tensor(np.stack(poses)).double())
    return {"pose": nearest.float().numpy(), "translation": np.stack(places)}


def finish_video(
    video: str, rows: Sequence[Mapping[str, Any]], out: Path, body: BodyModel, smooth: bool
) -> list[Path]:
    """Tracks and pictures of a video whose frames are done.

    Writes `<name>.person-00.npz` for each track: `frames` T, `score` T, `pose` T×J×3×3, `shape` T×S
    (with `smooth` its mean over the track), `translation` T×3, `joints` T×J×3, `camera` T×3×3,
    `joint_names` J; and `<name>.overlay.mp4`; with them all, if there are any, `<name>.glb`,
    skinned and animated. Returns their paths.
    """
    rows = sorted(rows, key=lambda row: row["frame"])
    capture = cv2.VideoCapture(str(Path(video).absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise ValueError("it is gone, or cannot be read as a video; call again with it")
        return _finish(capture, rows, out, body, smooth)
    finally:
        capture.release()


def _finish(
    capture: cv2.VideoCapture,
    rows: Sequence[Mapping[str, Any]],
    out: Path,
    body: BodyModel,
    smooth: bool,
) -> list[Path]:
    stem, film = out / Path(rows[0]["name"]).parent, film_of(rows, out)
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0  # some containers do not say
    tracks = _tracked(rows, out, body, rate)
    for own in tracks.values():
        if smooth:
            own |= smoothed(rate, own["frames"], own["pose"], own["translation"])
            own["shape"] = np.repeat(own["shape"].mean(0, keepdims=True), len(own["shape"]), 0)
        own["joints"] = _joints(body, own)
    written = []
    for number, own in tracks.items():
        written.append(stem.with_name(f"{stem.name}.person-{number:02d}.npz"))
        save_npz(written[-1], **own, joint_names=np.array(body.joint_names))
    if tracks:
        written.append(stem.with_name(f"{stem.name}.glb"))
        frames = np.array([row["frame"] for row in rows])
        write_animation(written[-1], body, tracks, frames, rate)
    partial = stem.with_name(f"{stem.name}.partial.mp4")
    try:
        _draw(capture, rate, rows[-1]["frame"], tracks, body, partial)
        partial.replace(film)
    finally:
        partial.unlink(missing_ok=True)
    return [*written, film]


def film_of(rows: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """The video drawn over, of which these are rows; it is the last file to be written."""
    stem = out / Path(rows[0]["name"]).parent
    return stem.with_name(f"{stem.name}.overlay.mp4")


def forget(stem: Path, overlay: str) -> None:
    """Remove what an earlier call wrote of a picture or video: fewer people may be found now."""
    for suffix in (".glb", f".overlay{overlay}"):
        stem.with_name(stem.name + suffix).unlink(missing_ok=True)
    for number in itertools.count():
        person = stem.with_name(f"{stem.name}.person-{number:02d}.npz")
        if not person.exists():
            return
        person.unlink()


def _frame(path: Path) -> Frame:
    """What a call wrote of a frame."""
    try:
        arrays = load_npz(path, FRAME, LARGEST)
        return {name: arrays[name] for name in FRAME}
    except (ValueError, KeyError) as error:
        raise ValueError(f"{show(path)} is damaged; delete it, and call again") from error


def _tracked(
    rows: Sequence[Mapping[str, Any]], out: Path, body: BodyModel, rate: float
) -> dict[int, Frame]:
    tracker = Tracker(rate)
    own = [body.joint(name) for name in BODY]
    found: dict[int, dict[str, list[Any]]] = {}
    for row in rows:
        arrays = _frame(out / row["outputs"][0])
        numbers = tracker(row["frame"], arrays["joints"][:, own])
        for i, number in enumerate(numbers.tolist()):
            into = found.setdefault(number, {})
            into.setdefault("frames", []).append(row["frame"])
            into.setdefault("camera", []).append(arrays["camera"])
            for name in ("score", "pose", "shape", "translation"):
                into.setdefault(name, []).append(arrays[name][i])
    return {n: {name: np.stack(v) for name, v in own.items()} for n, own in found.items()}


def _joints(body: BodyModel, own: Frame, most: int = 256) -> np.ndarray:
    """T×J×3 of a track, so many moments at once and without vertices."""
    thin, count = body.thinned(0), len(own["pose"])
    return np.concatenate(
        [_decoded(thin, own, slice(i, i + most))[1] for i in range(0, count, most)]
    )


@torch.inference_mode()
def _decoded(body: BodyModel, own: Frame, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and joints of some moments of a track."""
    device = body.weights.device
    given = (own[name][rows] for name in ("pose", "shape", "translation"))
    vertices, joints = body(*(torch.tensor(array).float().to(device) for array in given))
    return vertices.cpu().numpy(), joints.cpu().numpy()


def _draw(
    capture: cv2.VideoCapture,
    rate: float,
    last: int,
    tracks: Mapping[int, Frame],
    body: BodyModel,
    film: Path,
) -> None:
    """The video again, up to the frame `last`, people drawn over its frames."""
    faces = body.faces.cpu().numpy()
    console = Console(stderr=True)
    pictures = track(
        _frames(capture, last), "drawing", total=last + 1, console=console,
        disable=not console.is_terminal,
    )  # fmt: skip
    writer = cv2.VideoWriter()
    try:
        for number, image in pictures:
            drawn = views(image, _moment(tracks, number, body), faces)
            height, width = (side // 2 * 2 for side in drawn.shape[:2])  # codecs want even ones
            code = cv2.VideoWriter.fourcc(*"mp4v")
            if not writer.isOpened() and not writer.open(str(film), code, rate, (width, height)):
                raise ValueError(f"{film.name} cannot be begun; check the disk and permissions")
            writer.write(np.ascontiguousarray(drawn[:height, :width, ::-1]))
        if not writer.isOpened():
            raise ValueError("no frame of it can be decoded any more; copy it again")
    finally:
        writer.release()


def _frames(capture: cv2.VideoCapture, last: int) -> Iterator[tuple[int, np.ndarray]]:
    """Numbered RGB; the one before stands for a frame that cannot be decoded."""
    rgb: np.ndarray | None = None
    for number in range(last + 1):
        if not capture.grab():
            return
        decoded, bgr = capture.retrieve()
        if decoded:
            rgb = np.ascontiguousarray(bgr[..., ::-1], np.uint8)
        if rgb is not None:
            yield number, rgb


def _moment(tracks: Mapping[int, Frame], frame: int, body: BodyModel) -> Recovery:
    """Everybody of a frame."""
    here = {
        n: int(i[0])
        for n, own in tracks.items()
        if len(i := np.flatnonzero(own["frames"] == frame))
    }
    parts = [(*_decoded(body, tracks[n], slice(i, i + 1)), tracks[n], i) for n, i in here.items()]
    vertices = np.concatenate([v for v, *_ in parts]) if parts else np.zeros((0, 1, 3))
    joints = np.concatenate([j for _, j, *_ in parts]) if parts else np.zeros((0, 1, 3))
    camera = parts[0][2]["camera"][parts[0][3]] if parts else np.eye(3)
    score, pose, shape, place = (
        np.array([own[name][i] for *_, own, i in parts])
        for name in ("score", "pose", "shape", "translation")
    )
    pixels, numbers = project(joints, camera), np.array([*here])
    return Recovery(score, pose, shape, place, vertices, joints, pixels, camera, numbers)
