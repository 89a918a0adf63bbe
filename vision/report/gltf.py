"""The people of a video as one animated file: skinned meshes in glTF 2.0 (ISO/IEC 12113)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import roma
import torch

from vision.body import BodyModel
from vision.body.raster import normals
from vision.report.mesh import colour_of, packed, write_whole

LEAST = 1e-5
"""Weights below it are left out: each moves a vertex by hundredths of a millimetre at most."""
COMPONENTS = {"u1": 5121, "u4": 5125, "f4": 5126}
SHAPES = {(): "SCALAR", (3,): "VEC3", (4,): "VEC4", (4, 4): "MAT4"}
VERTICES, INDICES = 34962, 34963
"""What a view of the buffer may be for."""


def write_animation(
    path: Path,
    body: BodyModel,
    tracks: Mapping[int, Mapping[str, np.ndarray]],
    frames: np.ndarray,
    rate: float,
) -> None:
    """Tracked people as skinned meshes with one animation, in a GLB file.

    Axes and colours are those of `write_glb`: y up, the camera at the origin looks along −z. The
    mesh `person-3` is the surface at rest of a track's mean shape. Every joint is a node that bears
    its name, and vertices follow joints by the body model's weights, in as many sets of four as it
    takes, the largest first, for some viewers read one set alone. The joints' rotations and the
    pelvis' place have a key for each frame of the track, at frame / rate seconds, and change evenly
    from key to key. Who is not there has scale 0.

    A plain skin cannot hold a shape that changes within a track, nor the corrections for a pose of
    SMPL and SMPL-X, whose surfaces so differ from decoded ones where limbs bend. Anny has none.

    Args:
        path: of the file, which is written whole or not at all.
        body: what the numbers are of; 256 joints at most.
        tracks: one or more, by number, as in the `.person-00.npz` of a video: `frames` T in order,
            `pose` T×J×3×3, `shape` T×S, `translation` T×3 in the camera's view, in metres.
        frames: the numbers of all frames that were looked at, in order. Who is missing in one of
            them is hidden from there until the track goes on.
        rate: frames a second.
    """
    film = Film(body)
    for number, track in tracks.items():
        film.add(number, track, frames, rate)
    write_whole(path, film.packed(path.stem))


class Film:
    """A glTF document that grows person by person, and its buffer."""

    def __init__(self, body: BodyModel) -> None:
        self.body = body
        self.content = bytearray()
        self.parts: defaultdict[str, list[Any]] = defaultdict(list)
        self.samplers: list[dict[str, Any]] = []
        self.channels: list[dict[str, Any]] = []
        # From a camera's view to glTF's axes: half a turn around x.
        self.view: dict[str, Any] = {"name": "view", "rotation": [1, 0, 0, 0], "children": []}
        self.roots = [self.put("nodes", self.view)]
        self.faces = body.faces.cpu().numpy()
        self.indices = self.array(self.faces.ravel().astype("u4"), INDICES)
        self.attributes = {
            f"{name}_{i}": self.array(values, VERTICES)
            for i, pair in enumerate(influences(body.weights.cpu().numpy()))
            for name, values in zip(("JOINTS", "WEIGHTS"), pair, strict=True)
        }

    def add(
        self, number: int, track: Mapping[str, np.ndarray], frames: np.ndarray, rate: float
    ) -> None:
        """One more person: surface, skeleton and motion, as `write_animation` says."""
        vertices, offsets, inverse = skeleton(self.body, track["shape"].mean(0))
        turns = roma.rotmat_to_unitquat(torch.tensor(track["pose"]).double()).float().numpy()
        places = track["translation"].astype("f4")
        pelvis = self.joints(turns[0], np.concatenate([places[:1], offsets[1:]]))
        self.mesh(f"person-{number}", colour_of(number), vertices)
        bones = [*range(pelvis, pelvis + len(offsets))]
        skin = {"joints": bones, "skeleton": pelvis, "inverseBindMatrices": self.array(inverse)}
        self.put("skins", skin)

        times = self.array((track["frames"] / rate).astype("f4"), bounds=True)
        self.move(pelvis, "translation", times, places)
        for joint in np.flatnonzero(np.ptp(turns, axis=0).max(-1) > 1e-6).tolist():
            self.move(pelvis + joint, "rotation", times, turns[:, joint])
        there = np.isin(frames, track["frames"])
        if not there.all():
            new = np.diff(there, prepend=~there[:1])
            times = self.array((frames[new] / rate).astype("f4"), bounds=True)
            scales = np.repeat(there[new, None], 3, axis=1).astype("f4")
            self.move(pelvis, "scale", times, scales, "STEP")

    def joints(self, turns: np.ndarray, offsets: np.ndarray) -> int:
        """Nodes of J×4 rotations and J×3 places against their parents; the first one's index."""
        pelvis = len(self.parts["nodes"])
        self.view["children"].append(pelvis)
        rows = zip(self.body.joint_names, turns.tolist(), offsets.tolist(), strict=True)
        for name, turn, offset in rows:
            self.put("nodes", {"name": name, "rotation": turn, "translation": offset})
        for joint, parent in enumerate(self.body.parents[1:], pelvis + 1):
            self.parts["nodes"][pelvis + parent].setdefault("children", []).append(joint)
        return pelvis

    def mesh(self, name: str, colour: np.ndarray, vertices: np.ndarray) -> None:
        """A mesh that the next skin moves."""
        paint = {"baseColorFactor": [*colour.tolist(), 1], "metallicFactor": 0}
        material = {"name": name, "pbrMetallicRoughness": {**paint, "roughnessFactor": 0.8}}
        outwards = normals(vertices, self.faces)
        outwards[(outwards == 0).all(1)] = [0, 0, 1]  # of no triangle, but a normal has length 1
        attributes = self.attributes | {
            "POSITION": self.array(vertices, VERTICES, bounds=True),
            "NORMAL": self.array(outwards.astype("f4"), VERTICES),
        }
        primitive = {"attributes": attributes, "indices": self.indices}
        primitive["material"] = self.put("materials", material)
        index = self.put("meshes", {"name": name, "primitives": [primitive]})
        # What is above a mesh with a skin does not move it: it stands beside the view.
        self.roots.append(self.put("nodes", {"name": name, "mesh": index, "skin": index}))

    def move(
        self, node: int, what: str, times: int, values: np.ndarray, between: str = "LINEAR"
    ) -> None:
        """Something of a node, at the times of an accessor."""
        self.channels.append({
            "sampler": len(self.samplers), "target": {"node": node, "path": what},
        })  # fmt: skip
        self.samplers.append(
            {"input": times, "output": self.array(values), "interpolation": between}
        )

    def put(self, kind: str, what: dict[str, Any]) -> int:
        """One more of a kind; its index."""
        self.parts[kind].append(what)
        return len(self.parts[kind]) - 1

    def array(self, values: np.ndarray, target: int | None = None, bounds: bool = False) -> int:
        """An accessor of N scalars, vectors or transposed matrices, with min and max or without."""
        view = {"buffer": 0, "byteOffset": len(self.content), "byteLength": values.nbytes}
        if target is not None:
            view["target"] = target
        self.content += values.tobytes()
        self.content += bytes(-len(self.content) % 4)
        accessor: dict[str, Any] = {
            "bufferView": self.put("bufferViews", view),
            "componentType": COMPONENTS[values.dtype.str[1:]],
            "count": len(values),
            "type": SHAPES[values.shape[1:]],
        }
        if bounds:
            rows = values.reshape(len(values), -1)
            accessor |= {"min": rows.min(0).tolist(), "max": rows.max(0).tolist()}
        return self.put("accessors", accessor)

    def packed(self, name: str) -> bytes:
        """The whole file."""
        film = {"name": name, "samplers": self.samplers, "channels": self.channels}
        document = {
            "asset": {"version": "2.0", "generator": "visionmend"},
            "scene": 0,
            "scenes": [{"nodes": self.roots}],
            **self.parts,
            "animations": [film],
            "buffers": [{"byteLength": len(self.content)}],
        }
        return packed(document, bytes(self.content))


def skeleton(body: BodyModel, shape: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a shape S the surface at rest V×3, offsets of joints from their parents J×3, binds J×4×4.

    Binds are glTF's inverse bind matrices, transposed: from the surface into each joint's axes,
    which are parallel to the world's where nothing turns.
    """
    given = torch.tensor(shape[None]).to(body.weights)
    with torch.inference_mode():
        rest, still = body.at_rest(given), body(body.still(1), given).joints[0]
    heads, count = rest.joints[0], len(body.parents)
    binds = torch.eye(4).repeat(count, 1, 1).to(heads)
    if rest.facing is not None:
        binds[:, :3, :3] = rest.facing[0]
    binds[:, :3, 3] = -(binds[:, :3, :3] @ heads[..., None])[..., 0]
    offsets = torch.cat([still[:1], still[1:] - still[list(body.parents[1:])]])
    parts = (rest.vertices[0], offsets, binds.mT)
    surface, steps, inverse = (part.float().cpu().contiguous().numpy() for part in parts)
    return surface, steps, inverse


def influences(weights: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """V×J weights → sets of V×4 joints and V×4 weights, the largest first; all sets sum to 1."""
    assert weights.shape[1] <= 256, "joints are written as bytes"
    weights = np.where(weights < LEAST, 0, weights).astype(np.float64)
    weights = np.pad(weights / weights.sum(1, keepdims=True), ((0, 0), (0, -weights.shape[1] % 4)))
    order = np.argsort(-weights, axis=1, kind="stable")
    for first in range(0, int((weights > 0).sum(1).max()), 4):
        joints = order[:, first : first + 4]
        own = np.take_along_axis(weights, joints, 1)
        # The specification wants joint 0 where nothing follows.
        yield np.where(own > 0, joints, 0).astype("u1"), own.astype("f4")
