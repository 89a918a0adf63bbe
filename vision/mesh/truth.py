"""What is true of the people of a batch, told in the joints of a net's body model."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vision import body as bodies
from vision.body import BodyModel
from vision.body.smpl import SMPL_JOINTS
from vision.mesh.people import Truth

GENDERS = ("female", "male")


class Truths:
    """Batches of `data.people.collate_people` in, `Truth`s out.

    Data that are true of the net's own body model are decoded by it, and all is known. Those of
    3DPW are true of SMPL by gender: joints are in the files, surfaces are decoded where the models
    of both genders are there. SMPL-X has 22 of these joints, at rest nearly in the same places, so
    their rotations and places are taken as they are. A gender's shapes are those of no other model.

    Args:
        name: of the net's body model.
        body: this model.
        folder: where SMPL's files are.
        every: of the vertices that surfaces have (`BodyModel.thinned`); `body` has them already.

    Attributes:
        surfaces: whether those of 3DPW are decoded; by default where the net's are comparable.
    """

    def __init__(
        self, name: str, body: BodyModel, folder: Path | None = None, every: int = 1
    ) -> None:
        self.name, self.body, self.folder, self.every = name, body, folder, every
        self.surfaces = name == "smpl"

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> Truth:
        """
        Raises:
            ValueError: data that are true of a body model which rests otherwise than the net's, or
                of one with more or fewer shapes.
        """
        owner = batch["owner"]
        seen = (batch["box"], batch["camera"][owner], batch["track"])
        if "gender" not in batch and batch["body"] == self.name:
            given, taken = batch["shape"].shape[1], len(self.body.neutral_shape)
            if given != taken:
                raise ValueError(
                    f"the data have shapes of {given} numbers, the net's body {self.name} {taken};"
                    " take a net with as many betas and expressions"
                )
            vertices, joints = self.body(batch["pose"], batch["shape"], batch["translation"])
            return Truth(owner, batch["pose"], batch["shape"], vertices, joints, *seen)
        if "gender" not in batch or self.name.startswith("anny"):
            raise ValueError(
                f"the net gives bodies of {self.name}, but the data are true of {batch['body']},"
                " which rests in another pose, so its rotations are other ones; take a net of smplx"
                " or smpl for 3DPW, of anny for rendered people"
            )
        known = tuple(name for name in SMPL_JOINTS if name in self.body.joint_names)
        theirs = [SMPL_JOINTS.index(name) for name in known]
        own = [self.body.joint(name) for name in known]
        pose = self.body.still(len(owner)).clone()
        joints = torch.zeros_like(pose[..., 0])
        pose[:, own], joints[:, own] = batch["pose"][:, theirs], batch["joints"][:, theirs]
        return Truth(
            owner,
            pose,
            batch["shape"],
            self._surface(batch),
            joints,
            *seen,
            known=known,
            same_shape=False,
            same_surface=self.name == "smpl" and bool(self.gendered),
        )

    @cached_property
    def gendered(self) -> dict[str, BodyModel]:
        """SMPL of both genders, or nothing where a file is missing."""
        there = not any(self.missing(gender) for gender in GENDERS)
        if not there:
            return {}
        return {g: bodies.create("smpl", self.folder, g).thinned(self.every) for g in GENDERS}

    def missing(self, gender: str) -> str:
        """Where SMPL's file of a gender is wanted and whence it comes, if it is not there."""
        there = bodies.available(self.folder, gender)["smpl"]
        return "" if there else bodies.missing("smpl", self.folder, gender)

    def _surface(self, batch: dict[str, Any]) -> Tensor:
        """N×6890×3, or N×0×3 without the files."""
        told = [batch[name] for name in ("pose", "shape", "translation")]
        if not self.surfaces or not self.gendered:
            return told[2].new_zeros(len(told[2]), 0, 3)
        count = len(next(iter(self.gendered.values())).weights)
        vertices = told[2].new_zeros(len(told[2]), count, 3)
        for gender, body in self.gendered.items():
            who = torch.tensor([g == gender for g in batch["gender"]], device=vertices.device)
            vertices[who] = body.to(vertices.device)(*(part[who] for part in told)).vertices
        return vertices
