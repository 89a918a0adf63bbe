"""People in a mirror."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from data.people import FIELDS, collate_people
from vision.body import create
from vision.body.camera import project
from vision.body.people import People
from vision.mesh.mirror import mirrored, swapped


@pytest.fixture(scope="module")
def batch() -> dict[str, Any]:
    items = []
    for seed in (1, 2):
        image, crowd = People(64, 64, most=2).picture(seed)
        truth = {name: torch.tensor(getattr(crowd, name)).float() for name in FIELDS}
        pixels = torch.tensor(image).permute(2, 0, 1) / 255
        owner = torch.zeros(len(crowd.box), dtype=torch.long)
        about = {"owner": owner, "body": "anny", "path": "", "index": seed}
        items.append({"image": pixels, **about, **truth})
    return collate_people(items)


def test_twice_is_once_and_others_stay(batch: dict[str, Any]) -> None:
    names, which = create("anny").joint_names, torch.tensor([False, True])
    once = mirrored(batch, which, names)
    twice = mirrored(once, which, names)
    first = batch["owner"] == 0
    for name in ("image", "camera", "pose", "translation", "joints", "pixels", "box"):
        torch.testing.assert_close(twice[name], batch[name], atol=1e-4, rtol=0)
        assert name == "camera" or not once[name].equal(batch[name])  # it looks at the middle
        kept = first if len(batch[name]) == len(first) else slice(1)
        assert once[name][kept].equal(batch[name][kept])


def test_the_mirror_shows_what_it_says(batch: dict[str, Any]) -> None:
    body = create("anny")
    skewed = batch["camera"].clone()
    skewed[:, 0, 1] = 5
    own = project(batch["joints"], skewed[batch["owner"]])
    batch = {**batch, "camera": skewed, "pixels": own}
    found = mirrored(batch, torch.tensor([True, True]), body.joint_names)
    camera = found["camera"][found["owner"]]
    torch.testing.assert_close(
        project(found["joints"], camera), found["pixels"], atol=0.05, rtol=1e-3
    )
    stood = body(found["pose"], found["shape"], found["translation"])
    assert (stood.joints - found["joints"]).norm(dim=-1).max() < 0.01  # Anny is not quite symmetric
    wrist = body.joint("left_wrist")
    other = batch["joints"][:, body.joint("right_wrist")] * torch.tensor([-1.0, 1, 1])
    torch.testing.assert_close(found["joints"][:, wrist], other)


@pytest.mark.parametrize("body", ["anny", "anny_makehuman"])
def test_every_joint_has_another_side(body: str) -> None:
    names = create(body).joint_names
    other = swapped(names)
    assert [other[i] for i in other] == [*range(len(names))]
    middle = [name for name, i in zip(names, other, strict=True) if names[i] == name]
    assert not [name for name in middle if "left" in name or name.endswith(".L")]


def test_clips_turn_as_a_whole(batch: dict[str, Any]) -> None:
    clip: Tensor = batch["image"][None]
    found = mirrored({**batch, "image": clip}, torch.tensor([True]), create("anny").joint_names)
    assert found["image"].equal(clip.flip(-1))
    assert not (found["box"] == batch["box"]).all(1).any()
