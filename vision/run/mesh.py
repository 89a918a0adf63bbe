"""Loaded nets that recover people, as the engine and Python users call them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.cameras import check_intrinsics
from data.images import Picture, show, to_square, write_jpeg
from vision.body import Body, BodyModel
from vision.body.camera import intrinsics, project
from vision.mesh.people import MeshSpec, People, pose_of, stand
from vision.report.mesh import write_glb
from vision.run.engine import PICTURE_ERRORS, Finished
from vision.run.manifest import Manifest
from vision.run.recovery import Recovery, save_npz, views
from vision.run.sources import Source
from vision.run.tracks import FRAME, film_of, finish_video, forget

U8 = NDArray[np.uint8]
LEAST_SIDE = 8
"""Smaller pictures are a mistake of whoever made them: nobody could be seen in one."""


class MeshPredictor:
    """Pictures in, `Recovery`s out.

    Args:
        net: what recovers people; has a `MeshSpec`.
        body: the body model that its numbers are of.
        detector: finds the people of whole pictures, for a net that takes crops, and its scores are
            theirs; without one it takes each picture to show one person, of score 1.
        device: where all run.
        fingerprint: of the weights; the engine reuses results only under the same one.
        threshold: score from which somebody counts as found; the net's own by default.
        fov: of the camera, the longer side's, in degrees. None: what the net finds if it can, 60 if
            not.
        focal: its focal length in pixels, in place of it.

    Raises:
        ValueError: a detector for a net that finds people itself; a threshold for one that takes
            crops, or out of range; a camera that cannot be.
    """

    def __init__(
        self,
        net: nn.Module,
        body: BodyModel,
        *,
        detector: MeshPredictor | None = None,
        device: str = "cpu",
        fingerprint: str = "",
        threshold: float | None = None,
        fov: float | None = None,
        focal: float | None = None,
    ) -> None:
        spec: Any = net.spec
        self.spec: MeshSpec = spec
        kind, crops = type(net).__name__, self.spec.reads == "crops"
        if detector is not None and not crops:
            raise ValueError(f"{kind} finds people itself; leave the detector out")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: give a score from 0 to 1")
        intrinsics(1, 1, fov, focal)  # says what is wrong with them, if anything
        if threshold is not None and crops:
            raise ValueError(f"{kind} finds nobody itself; give the threshold to a detector")
        self.device = torch.device(device)
        self.net, self.body = net.eval().to(self.device), body.to(self.device)
        self.detector, self.fov, self.focal = detector, fov, focal
        self.fingerprint = f"{fingerprint} {threshold} {fov} {focal}"
        if detector is not None:
            self.fingerprint += f" {detector.fingerprint}"
        self.options = {} if threshold is None else {"threshold": threshold}

    def __call__(self, image: U8, camera: np.ndarray | None = None) -> Recovery:
        """The people of one RGB picture, uint8 H×W×3, under 3×3 intrinsics if they are known."""
        return self.predict([image], camera)[0]

    def clip(self, images: Sequence[U8], camera: np.ndarray | None = None) -> list[Recovery]:
        """The people of pictures one after another, of one size: a net for clips sees them so."""
        step = self.spec.frames
        parts = (images[i : i + step] for i in range(0, len(images), step))
        return [found for part in parts for found in self.predict(part, camera)]

    @torch.inference_mode()
    def predict(self, images: Sequence[U8], camera: np.ndarray | None = None) -> list[Recovery]:
        """The people of each; pictures that a net for clips takes for frames of one clip.

        Raises:
            ValueError: a picture is not uint8 H×W×3 or is very small; intrinsics that no camera
                has; the net gives numbers that are not finite.
        """
        for image in images:
            check(image)
        cameras = [self._camera(image, camera) for image in images]
        if self.spec.reads == "crops":
            pairs = zip(images, cameras, strict=True)
            return [self._of_crops(image, own) for image, own in pairs]
        squares, moves = zip(
            *(to_square(image, self.spec.size[0]) for image in images), strict=True
        )
        batch = torch.stack([_chw(square) for square in squares]).to(self.device)
        known = [m @ k for m, k in zip(moves, cameras, strict=True) if k is not None]
        given = torch.tensor(np.stack(known)).float().to(self.device) if known else None
        if self.spec.reads == "clips":
            assert given is not None
            seen: Any = self.net(batch[None], given[None], **self.options)
        else:
            seen = self.net(batch, given, **self.options)
        _check_finite(getattr(seen, "heat", seen.people.score), seen.people.place)
        used: Any = getattr(seen, "camera", given)  # the one it found, if it looked for one
        found = used.cpu().double().numpy()
        stood = stand(seen.people, self.spec, self.body)
        pose = pose_of(seen.people, self.spec, self.body)
        return [
            self._recovery(seen.people, stood, pose, i, np.linalg.inv(move) @ found[i])
            for i, move in enumerate(moves)
        ]

    def _of_crops(self, image: U8, camera: np.ndarray | None) -> Recovery:
        if self.detector is None:
            height, width = image.shape[:2]
            boxes, score = torch.tensor([[0, 0, width, height]]), np.ones(1, np.float32)
        else:
            people = self.detector(image, camera)
            camera, score = people.camera, people.score
            pixels = [project(p.astype(np.float64), camera) for p in people.vertices]
            corners = [np.concatenate([p.min(0), p.max(0)]) for p in pixels]
            boxes = torch.tensor(np.array(corners).reshape(-1, 4))
        assert camera is not None
        at = (torch.zeros(len(boxes), dtype=torch.long), boxes.float())
        batch, own = _chw(image)[None], torch.tensor(camera).float()[None]
        moved = [part.to(self.device) for part in (batch, own, *at)]
        seen: Any = self.net(moved[0], moved[1], (moved[2], moved[3]))
        _check_finite(seen.people.place)
        found = seen.people._replace(score=torch.tensor(score).to(self.device))
        stood = stand(found, self.spec, self.body)
        return self._recovery(found, stood, pose_of(found, self.spec, self.body), 0, camera)

    def _camera(self, image: U8, camera: np.ndarray | None) -> np.ndarray | None:
        if camera is not None:
            camera = np.asarray(camera, np.float64)
            check_intrinsics(camera, "camera")
            return camera
        own = self.fov is not None or self.focal is not None
        if not own and getattr(self.net, "finds_camera", False):
            return None
        height, width = image.shape[:2]
        found = intrinsics(height, width, self.fov, self.focal).double().numpy()
        if own:  # of a very small picture 60° may be fewer pixels than a camera has
            check_intrinsics(found, f"fov={self.fov}, focal={self.focal}")
        return found

    def _recovery(
        self, people: People, stood: Body, pose: Tensor, picture: int, camera: np.ndarray
    ) -> Recovery:
        own = (people.picture == picture).nonzero()[:, 0]
        own = own[people.score[own].argsort(descending=True, stable=True)]
        score, turns, shape, vertices, joints = (
            array[own].float().cpu().numpy()
            for array in (people.score, pose, people.shape, stood.vertices, stood.joints)
        )
        pixels = project(joints.astype(np.float64), camera).astype(np.float32)
        numbers = np.arange(len(own))
        place = joints[:, 0]
        return Recovery(score, turns, shape, place, vertices, joints, pixels, camera, numbers)


def check(image: U8) -> None:
    """ValueError for what is no picture that could show somebody."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"a picture of {image.dtype} {image.shape}; give uint8 H×W×3 in RGB order")
    if min(image.shape[:2]) < LEAST_SIDE:
        raise ValueError(
            f"a picture of {image.shape[1]}×{image.shape[0]} pixels shows nobody; give"
            f" {LEAST_SIDE} or more a side"
        )


def _check_finite(*told: Tensor) -> None:
    if not all(part.isfinite().all() for part in told):
        raise ValueError(
            "the net gives numbers that are not finite; its weights are damaged, train them anew or"
            " download them again"
        )


def _chw(image: U8) -> Tensor:
    return torch.tensor(image).permute(2, 0, 1).float() / 255


class MeshJob:
    """Recover the people of pictures for the batch engine.

    Per picture: `<name>.person-00.npz` for each person, `<name>.glb` with all of them, if there are
    any, and `<name>.overlay.jpg`. Per frame of a video `<name>/frame_….npz` with all people; of the
    whole, what `vision.run.tracks` writes. In the row: `people`, `scores`, `fov`.
    """

    name = "mesh"

    def __init__(self, predictor: MeshPredictor, *, smooth: bool = False) -> None:
        self.predictor, self.smooth = predictor, smooth
        self.clip = predictor.spec.frames
        self.begun: set[Path] = set()
        self.lock = threading.Lock()
        self.fingerprint = predictor.fingerprint + (" smooth" if smooth else "")
        self.faces = predictor.body.faces.cpu().numpy()
        self.joint_names = np.array(predictor.body.joint_names)

    def predict(self, pictures: list[Picture]) -> list[Recovery]:
        """One recovery per picture; frames of one video that follow each other are a clip."""
        found: list[Recovery] = []
        # Numbers that rise by one in one video belong together: all less their place are the same.
        # Those of pictures, 2·i less i, never are.
        places = [picture.frame or (None, 2 * i) for i, picture in enumerate(pictures)]
        runs = itertools.groupby(range(len(pictures)), lambda i: (places[i][0], places[i][1] - i))
        for _, run in runs:
            found += self.predictor.clip([pictures[i].rgb8() for i in run])
        return found

    def write(
        self, result: Recovery, picture: Picture, source: Source, out: Path
    ) -> dict[str, Any]:
        """The files of one picture, or of one frame."""
        stem = source.relative.as_posix()
        (out / stem).parent.mkdir(parents=True, exist_ok=True)
        if source.frame is not None:
            self._begin((out / stem).parent)
            outputs = [f"{stem}.npz"]
            arrays = {name: getattr(result, name) for name in FRAME}
            save_npz(out / outputs[0], size=np.array(picture.pixels.shape[:2]), **arrays)
        else:
            forget(out / stem, ".jpg")
            outputs = [f"{stem}.person-{i:02d}.npz" for i in range(len(result.score))]
            for i, name in enumerate(outputs):
                save_npz(out / name, **result.person(i), joint_names=self.joint_names)
            if outputs:
                outputs.append(f"{stem}.glb")
                write_glb(out / outputs[-1], [*result.vertices], self.faces)
            outputs.append(f"{stem}.overlay.jpg")
            write_jpeg(out / outputs[-1], views(picture.rgb8(), result, self.faces))
        longer = max(picture.pixels.shape[:2])
        fov = 2 * np.degrees(np.arctan(longer / 2 / result.camera[0, 0]))
        return {
            "outputs": outputs,
            "people": len(result.score),
            "scores": [round(float(score), 4) for score in result.score],
            "fov": round(float(fov), 2),
        }

    def _begin(self, stem: Path) -> None:
        """Before the first new frame of a video: its tracks are no longer what its frames say."""
        with self.lock:
            if stem not in self.begun:
                forget(stem, ".mp4")
                self.begun.add(stem)

    def finish(self, manifest: Manifest, out: Path) -> Finished:
        """Of each video of this call that has no tracks yet: tracks, and the video drawn over."""
        finished = Finished()
        self.begun.clear()
        for video, rows in manifest.videos().items():
            if film_of(rows, out).exists():  # written last
                continue
            try:
                finished.written += finish_video(video, rows, out, self.predictor.body, self.smooth)
            except OSError as error:
                why = f"{error.strerror or error}; check the disk and permissions"
                finished.errors.append(f"{show(video)}: its tracks cannot be written: {why}")
            except PICTURE_ERRORS as error:
                why = " ".join(str(error).split()) or type(error).__name__
                finished.errors.append(f"{show(video)}: its tracks cannot be written: {why}")
        return finished
