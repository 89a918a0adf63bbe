"""People who never existed: pictures of Anny bodies with exact poses, shapes and places.

Phenotypes, poses within the limits of joints, clothes, light, camera, who stands before whom: all
is drawn by the seed. People stand on a common floor, so that size and height in the picture say
how far somebody is, as in photographs.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import roma
import torch
from rich.console import Console
from rich.progress import track
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.begun import begin
from data.images import SUFFIXES, read_rgb, show, write_jpeg
from data.inspection import pictures
from data.pairs import SPLITS
from vision.body.anny import Anny
from vision.body.camera import project
from vision.body.clothes import Wardrobe, Worn, dyed
from vision.body.poses import draw_pose, find_curl_axes
from vision.body.raster import Seen, copied, normals, rasterise, spread
from vision.body.scene import CUBE, View, filmed, photograph, piece_of, room, stored
from vision.body.smpl import FINGERS

VISIBLE = 0.1
"""Whoever shows less of the silhouette than this is not in the picture's truth."""

MANY = 1000
"""Who is drawn so often without the hands that are asked for will hardly show them."""

NEAREST, TOUCHING = 1.8, 1.0
"""Metres from the camera, along the floor: where people stand, and as near as they may be put."""


class Crowd(NamedTuple):
    """What is true of the N people of a picture, in the camera's view and in metres.

    Attributes:
        pose: N×104×3×3, as Anny takes it.
        shape: N×6 phenotypes.
        translation: N×3 places of the pelvis.
        joints: N×104×3.
        pixels: N×104×2, the joints in the picture.
        box: N×4 left, top, right, bottom of what shows, in pixels.
        visible: N, the share of each silhouette that nothing hides and the picture holds.
        camera: 3×3 intrinsics.
        track: N, who it is, the same number in all pictures of a clip.
    """

    pose: np.ndarray
    shape: np.ndarray
    translation: np.ndarray
    joints: np.ndarray
    pixels: np.ndarray
    box: np.ndarray
    visible: np.ndarray
    camera: np.ndarray
    track: np.ndarray


class _Scene(NamedTuple):
    """What stays as it is in a clip: clothes, a box that stands in the way, the light."""

    worn: list[Worn]
    box: np.ndarray | None
    seed: int


class People:
    """Draws pictures of people.

    Args:
        height, width: of the pictures.
        most: people in one, from 1 on.
        backgrounds: photographs to stand before; drawn ones where there are none.
        occluders: share of pictures in which a box stands in the way.
        farthest, nearest: metres from the camera, between which people stand; below 1.8 the picture
            holds less than a whole grown-up.
        hands: pixels that the joints of the fingers span at least, of either hand, all of them in
            the picture, and no box in the way; for one person in a picture. 0: as it comes.
        natural: nearer to photographs: clothes and hair that stand off the body, in colours of the
            street; a quarter takes a wide stance; pictures are blurred, tinted and compressed.
    """

    def __init__(
        self,
        height: int = 448,
        width: int = 448,
        most: int = 6,
        backgrounds: Sequence[Path] = (),
        occluders: float = 0.3,
        farthest: float = 7.0,
        nearest: float = NEAREST,
        hands: float = 0,
        natural: bool = False,
    ) -> None:
        if most < 1:
            raise ValueError(f"most={most}: give 1 or more")
        if hands and not (0 < hands <= min(height, width) / 8 and most == 1):
            raise ValueError(
                f"hands={hands}, most={most}: give no more than an eighth of the picture's side,"
                " and 1 for most"
            )
        if not TOUCHING <= nearest <= farthest < math.inf:
            raise ValueError(
                f"nearest={nearest}, farthest={farthest}: give {TOUCHING} m or more, and no less"
                " for the farthest"
            )
        self.far = (nearest, farthest)
        self.height, self.width, self.most, self.hands = height, width, most, hands
        self.natural = natural
        self.backgrounds, self.occluders = backgrounds, 0.0 if hands else occluders
        self.body = Anny()
        self.curl_axes = find_curl_axes(self.body)
        self.wardrobe = Wardrobe(self.body)
        self.fingers = [
            [self.body.joint(f"{side}_{finger}{i}") for finger in FINGERS for i in (1, 2, 3)]
            for side in ("left", "right")
        ]
        # Its own memory: torch moves that of a tensor when a process is given it.
        self.faces = self.body.faces.numpy().copy()

    def picture(self, seed: Sequence[int] | int) -> tuple[np.ndarray, Crowd]:
        """A picture, uint8 H×W×3 RGB, and what is true of it; the same for the same seed.

        Everybody in it shows VISIBLE of the silhouette or nothing: it is drawn anew until that is
        so, since a piece of somebody would have to be found, and not be found.

        Raises:
            ValueError: hands of that size are not to be had at these distances.
        """
        rng = np.random.default_rng(seed)
        drawn = 0
        while True:
            view = View(rng, self.height, self.width)
            pose, shape, place = self._draw(rng, view)
            if self.hands and not self._shows_hands(view, pose, shape, place):
                drawn += 1
                if drawn == MANY:
                    raise ValueError(
                        f"of {MANY} people none shows both hands {self.hands:g} pixels large; lower"
                        " hands, or farthest"
                    )
                continue
            scene = self._scene(rng, view, place)
            image, crowd, pieces = self._seen(rng, scene, view, pose, shape, place)
            if not pieces:
                return image, crowd

    def clip(
        self, seed: Sequence[int] | int, frames: int, rate: float = 25.0
    ) -> tuple[np.ndarray, list[Crowd]]:
        """So many pictures a moment apart, T×H×W×3, and what is true of each.

        Everybody goes from pose to pose, one a second, and from place to place; the camera, the
        light and the scene stay. `rate` is pictures a second.
        """
        rng = np.random.default_rng(seed)
        view = View(rng, self.height, self.width)
        pose, shape, place = self._draw(rng, view)
        scene = self._scene(rng, view, place)
        keys = [(roma.rotmat_to_rotvec(pose).numpy(), place)]
        for _ in range(math.ceil(frames / rate)):
            keys.append(self._moved(rng, *keys[-1]))
        images, crowds = [], []
        for frame in range(frames):
            key, share = divmod(frame / rate, 1)
            (before, here), (after, there) = keys[int(key)], keys[int(key) + 1]
            ease = share * share * (3 - 2 * share)  # starts and stops softly
            between = roma.rotvec_slerp(
                torch.from_numpy(before).float(),
                torch.from_numpy(after).float(),
                torch.tensor([ease]),
            )[0]
            spot = here + (there - here) * ease
            moment = (roma.rotvec_to_rotmat(between), shape, spot)
            image, crowd, _ = self._seen(rng, scene, view, *moment)
            images.append(image)
            crowds.append(crowd)
        return np.stack(images), crowds

    def _moved(
        self, rng: np.random.Generator, vectors: np.ndarray, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where everybody is a second later: another pose, turned somewhat, a step further."""
        later = np.stack([draw_pose(rng, self.body, self.curl_axes, self.natural) for _ in vectors])
        turn = Rotation.from_euler("y", rng.normal(0, 30, (len(later), 1)), degrees=True)
        later[:, 0] = (turn * Rotation.from_rotvec(vectors[:, 0])).as_rotvec()
        there = place + rng.normal(0, 0.4, place.shape)
        return later, np.maximum(there, [-np.inf, min(1.5, self.far[0])])  # not into the camera

    def _draw(self, rng: np.random.Generator, view: View) -> tuple[Tensor, Tensor, np.ndarray]:
        """N×104×3×3 poses and N×6 shapes in the world, y up, and N×2 where on the floor."""
        count = int(rng.integers(1, self.most + 1))
        place: list[np.ndarray] = []
        while len(place) < count:
            spot = view.on_floor(rng, self.far)
            near = [np.linalg.norm(spot - other) < 0.7 for other in place]
            if not any(near) or rng.random() < 0.02:  # a full floor lets some stand closer
                place.append(spot)
        vectors = np.stack(
            [draw_pose(rng, self.body, self.curl_axes, self.natural) for _ in range(count)]
        )
        pose = roma.rotvec_to_rotmat(torch.from_numpy(vectors).float())
        return (
            pose,
            torch.from_numpy(np.stack([_shape(rng) for _ in range(count)])),
            np.stack(place),
        )

    def _scene(self, rng: np.random.Generator, view: View, place: np.ndarray) -> _Scene:
        return _Scene(
            [self._dressed(rng) for _ in place],
            view.box(rng, place) if rng.random() < self.occluders else None,
            int(rng.integers(2**32)),
        )

    def _seen(
        self,
        rng: np.random.Generator,
        scene: _Scene,
        view: View,
        pose: Tensor,
        shape: Tensor,
        place: np.ndarray,
    ) -> tuple[np.ndarray, Crowd, bool]:
        """The picture, its people, and whether pieces of others show."""
        vertices, joints = self._stood(view, pose, shape, place)
        if self.natural:
            thickness = np.stack([w.thickness for w in scene.worn])[..., None]
            vertices = vertices + self._facing(vertices) * thickness
        image, seen = self._render(rng, scene, view, vertices, self._facing(vertices))
        pose = pose.clone()
        pose[:, 0] = torch.from_numpy(view.turn).float() @ pose[:, 0]
        visible, boxes = self._visible(vertices, seen, view)
        shown = visible >= VISIBLE
        crowd = Crowd(
            pose.numpy()[shown],
            shape.numpy()[shown],
            joints[shown, 0].astype(np.float32),
            joints[shown].astype(np.float32),
            project(joints[shown], view.camera).astype(np.float32),
            boxes[shown].astype(np.float32),
            visible[shown].astype(np.float32),
            view.camera.astype(np.float32),
            np.flatnonzero(shown).astype(np.float32),
        )
        return image, crowd, bool(((visible > 0) & ~shown).any())

    def _facing(self, vertices: np.ndarray) -> np.ndarray:
        """N×V×3 normals of people."""
        return np.stack([normals(v, self.faces) for v in vertices])

    def _stood(
        self, view: View, pose: Tensor, shape: Tensor, place: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """N×V×3 vertices and N×104×3 joints before the camera."""
        with torch.no_grad():
            vertices, joints = (t.numpy() for t in self.body(pose, shape))
        lift = -vertices[..., 1].min(1)  # whoever it is stands on the floor
        moved = np.stack([place[:, 0], lift, place[:, 1]], 1)[:, None]
        return view.before(vertices + moved), view.before(joints + moved)

    def _shows_hands(self, view: View, pose: Tensor, shape: Tensor, place: np.ndarray) -> bool:
        """Whether both hands are in the picture and large enough; a body may still hide them."""
        _, joints = self._stood(view, pose, shape, place)
        fingers = joints[0, self.fingers]  # 2×F×3
        if (fingers[..., 2] <= 0).any():
            return False
        pixels = project(fingers, view.camera)
        inside = (pixels >= 0) & (pixels <= (self.width, self.height))
        return bool(inside.all() and (np.ptp(pixels, 1).max(1) >= self.hands).all())

    def _dressed(self, rng: np.random.Generator) -> Worn:
        if not self.natural:
            return self.wardrobe.plain(rng)
        photo = None
        if self.backgrounds:
            photo = functools.partial(photograph, self._one(rng), self.height, self.width)
        return self.wardrobe.natural(rng, photo)

    def _one(self, rng: np.random.Generator) -> Path:
        """Of the photographs."""
        return self.backgrounds[int(rng.integers(len(self.backgrounds)))]

    def _render(
        self,
        noise: np.random.Generator,
        scene: _Scene,
        view: View,
        vertices: np.ndarray,
        facing: np.ndarray,
    ) -> tuple[np.ndarray, Seen]:
        """The picture, and what was seen at twice its size."""
        rng = np.random.default_rng(scene.seed)
        faces = copied(self.faces, *vertices.shape[:2])
        people, facing, colours = (
            a.reshape(-1, 3) for a in (vertices, facing, np.stack([w.colours for w in scene.worn]))
        )
        if scene.box is not None:
            faces = np.concatenate([faces, CUBE + len(people)])
            people = np.concatenate([people, scene.box])
            facing = np.concatenate([facing, normals(scene.box, CUBE)])
            colour = dyed(rng) if self.natural else rng.uniform(20, 230, 3)
            colours = np.concatenate([colours, np.tile(colour, (8, 1))])
        twice = view.camera * [[2], [2], [1]]
        height, width = 2 * self.height, 2 * self.width
        seen = rasterise(people, faces, twice, height, width)
        light = rng.normal((0, -1.5, -1.5), 1)  # from above, from the camera's side
        ambient = rng.uniform(0.3, 0.7)
        shade = facing @ (light / np.linalg.norm(light))
        lit = colours * (ambient + (1 - ambient) * shade.clip(0, 1))[:, None]
        there = seen.face >= 0
        exposure, grain = rng.uniform(0.8, 1.15), rng.uniform(0, 6)
        if self.backgrounds:
            picture = piece_of(rng, self._one(rng), height, width)
        else:
            picture = room(rng, 2 * view.horizon, height, width)
        picture[there] = spread(seen, faces, lit)
        picture = cv2.resize(picture, (self.width, self.height), interpolation=cv2.INTER_AREA)
        if self.natural:
            picture = filmed(rng, picture)
        picture = picture * exposure + noise.normal(0, grain, picture.shape)
        picture = picture.clip(0, 255).round().astype(np.uint8)
        if self.natural:
            picture = stored(rng, picture)
        return picture, seen

    def _visible(
        self, vertices: np.ndarray, seen: Seen, view: View
    ) -> tuple[np.ndarray, np.ndarray]:
        """How much of each silhouette shows, N in [0, 1], and N×4 boxes of that in pixels."""
        owner = np.where(seen.face < 0, -1, seen.face // len(self.faces))  # N is the box's
        shares, boxes = np.zeros(len(vertices)), np.zeros((len(vertices), 4))
        # The whole silhouette, alone on a canvas of twice the width and height.
        wide = view.camera.copy()
        wide[:2, 2] += self.width / 2, self.height / 2
        for who, points in enumerate(vertices):
            rows, columns = np.nonzero(owner == who)
            if len(rows):
                alone = rasterise(points, self.faces, wide, 2 * self.height, 2 * self.width)
                shares[who] = min(1, len(rows) / 4 / max(1, (alone.face >= 0).sum()))
                corners = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                boxes[who] = np.array(corners) / 2
        return shares, boxes


def _shape(rng: np.random.Generator) -> np.ndarray:
    """6 phenotypes: mostly adults, one in six a child."""
    gender = rng.choice([0.0, 1.0]) if rng.random() < 0.8 else rng.random()
    age = rng.uniform(0.1, 0.5) if rng.random() < 1 / 6 else rng.uniform(0.6, 0.95)
    others = rng.normal(0.5, 0.17, 4).clip(0, 1)
    return np.array([gender, age, *others], np.float32)


def write(
    root: Path,
    counts: dict[str, int],
    seed: int = 0,
    size: int = 448,
    most: int = 6,
    backgrounds: Path | None = None,
    frames: int | None = None,
    farthest: float = 7.0,
    nearest: float = NEAREST,
    hands: float = 0,
    natural: bool = False,
    workers: int = 0,
) -> None:
    """Write a set that `data.people` reads: counts by split of pictures, or of clips of `frames`.

    Picture or clip i of a split depends on the seed, the split, i and the options alone, and what
    is already there stays: a second call goes on where the first was broken off. `backgrounds` is
    a folder of photographs to stand before, subfolders included; `workers` are processes that draw,
    0 draws in this one.

    Raises:
        ValueError: the set was begun with other options or photographs, or one is damaged.
    """
    photos = _find_photographs(backgrounds, root) if backgrounds else []
    people = People(
        size,
        size,
        most,
        photos,
        farthest=farthest,
        nearest=nearest,
        hands=hands,
        natural=natural,
    )
    console = Console(stderr=True)
    if not (root / "options.json").exists():
        # A damaged one shall stop it now, not when it is drawn, hours later.
        for photo in track(photos, "reading photographs", console=console, disable=len(photos) < 4):
            read_rgb(photo)
    options: dict[str, Any] = {"seed": seed, "size": size, "most": most, "frames": frames}
    options |= {"farthest": farthest, "backgrounds": len(photos)}
    if nearest != NEAREST:  # sets that were begun before it could be said go on
        options["nearest"] = nearest
    if hands:
        options["hands"] = hands
    if natural:
        options["natural"] = True
    if backgrounds:
        options["photographs"] = _digest(photos, backgrounds)
    begin(root, options)
    drawn = _Drawn(people, root, seed, frames, counts)
    count, threads = len(drawn), torch.get_num_threads()
    torch.set_num_threads(1)  # as in other processes: with more, the last digits differ
    try:
        errors = DataLoader(drawn, batch_size=None, num_workers=min(workers, count))
        for error in track(errors, "drawing people", count, console=console, disable=count < 4):
            if error:
                raise ValueError(error)
    finally:
        torch.set_num_threads(threads)


class _Drawn(Dataset[str]):
    """Draws and writes item i of what is not there yet; gives what is wrong, or nothing."""

    def __init__(
        self, people: People, root: Path, seed: int, frames: int | None, counts: dict[str, int]
    ) -> None:
        self.people, self.root, self.seed, self.frames = people, root, seed, frames
        whole = [(split, i) for split, count in counts.items() for i in range(count)]
        self.todo = [(split, i) for split, i in whole if not self.last(split, i).exists()]

    def last(self, split: str, index: int) -> Path:
        """The file of a picture or clip that is written last."""
        stem = self.root / split / f"{index:06d}"
        if self.frames is None:
            return stem.with_suffix(".jpg")
        return stem / f"{self.frames - 1:04d}.jpg"

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, item: int) -> str:
        split, index = self.todo[item]
        draw, last = [self.seed, SPLITS.index(split), index], self.last(split, index)
        try:
            if self.frames is None:
                _save(last.with_suffix(""), *self.people.picture(draw))
            else:
                clip = zip(*self.people.clip(draw, self.frames), strict=True)
                for frame, (image, crowd) in enumerate(clip):
                    _save(last.with_name(f"{frame:04d}"), image, crowd)
        # Told and not raised: another process would add a traceback to the line.
        except (ValueError, OSError) as error:
            return str(error)
        return ""


def _find_photographs(folder: Path, out: Path) -> list[Path]:
    """All in a folder and below it, but for what is written to OUT."""
    if out.resolve() == folder.resolve():
        raise ValueError(
            f"--backgrounds {show(folder)}: is OUT, too; choose another folder for OUT"
        )
    own, root = out.resolve(), folder.resolve()
    photos = [
        path
        for path in pictures(folder, recursive=True)
        if not (root / path.relative_to(folder)).is_relative_to(own)
    ]
    if not photos:
        kinds = " ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise ValueError(
            f"--backgrounds {show(folder)}: no picture in this folder or below it; supply files"
            f" ending in {kinds}"
        )
    return photos


def _digest(paths: Sequence[Path], folder: Path) -> str:
    """Of names in the folder and of sizes: another one if a photograph is another."""
    files = [(path.relative_to(folder).as_posix(), path.stat().st_size) for path in paths]
    return hashlib.sha256(repr(files).encode()).hexdigest()[:16]


def _save(stem: Path, image: np.ndarray, crowd: Crowd) -> None:
    stem.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(stem.with_suffix(".npz"), **crowd._asdict())
    write_jpeg(stem.with_suffix(".jpg"), image, quality=95)  # last, and whole or not at all


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m vision.body.people`: 0 when done, 2 when the call is wrong."""
    parser = argparse.ArgumentParser(
        "python -m vision.body.people",
        description="Draw pictures of people who never existed, with exact poses and places. The "
        "same seed gives the same pictures.",
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    for split, count in zip(SPLITS, (1000, 100, 0), strict=True):
        parser.add_argument(f"--{split}", type=int, default=count, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=448, help="of a side, in pixels (448)")
    parser.add_argument("--most", type=int, default=6, help="people in a picture (6)")
    parser.add_argument(
        "--backgrounds",
        type=Path,
        metavar="DIR",
        help="photographs to stand before, in DIR and below it",
    )
    parser.add_argument("--frames", type=int, metavar="N", help="clips of so many, not pictures")
    parser.add_argument(
        "--farthest", type=float, default=7.0, metavar="M", help="metres to the last of them (7)"
    )
    parser.add_argument(
        "--nearest",
        type=float,
        default=NEAREST,
        metavar="M",
        help=f"metres to the first of them ({NEAREST})",
    )
    parser.add_argument(
        "--hands",
        type=float,
        default=0,
        metavar="N",
        help="only people whose hands both show, N pixels or more (0: any)",
    )
    parser.add_argument(
        "--natural",
        action="store_true",
        help="nearer to photographs: loose clothes, hair, wide stances, blur and JPEG",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that draw (0: this one alone)",
    )
    given = parser.parse_args(arguments)
    if given.workers < 0:
        parser.error(f"--workers {given.workers}: give 0 or more")
    if given.hands and given.frames is not None:
        parser.error("--hands is for pictures, not for clips; leave out --frames or --hands")
    if given.frames is not None and given.frames < 1:
        parser.error(f"--frames {given.frames}: give 1 or more")
    if given.size < 64:
        parser.error(f"--size {given.size}: give 64 or more")
    try:
        counts = {split: getattr(given, split) for split in SPLITS}
        write(
            given.out,
            counts,
            given.seed,
            given.size,
            given.most,
            given.backgrounds,
            given.frames,
            given.farthest,
            given.nearest,
            given.hands,
            given.natural,
            given.workers,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
