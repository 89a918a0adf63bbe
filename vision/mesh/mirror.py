"""Pictures of people in a mirror, and what is true of them there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def mirrored(batch: dict[str, Any], which: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """Some pictures or clips of a batch in a mirror that swaps left and right.

    Bodies are taken to be symmetric: the left side of a shape is that of its right side.

    Args:
        batch: of `data.people.collate_people`.
        which: B bool.
        names: of the joints of the batch's people.
    """
    image, camera = batch["image"], batch["camera"].clone()
    frames = which.repeat_interleave(len(camera) // len(image))  # B·T
    who, width = frames[batch["owner"]], image.shape[-1]
    camera[frames, 0, 2] = width - camera[frames, 0, 2]
    camera[frames, 0, 1] *= -1  # the skew that some calibrations find
    flip = image.new_tensor([-1.0, 1, 1])
    other = swapped(names)

    def told(name: str, turned: Tensor) -> Tensor:
        return torch.where(who.view(-1, *[1] * (turned.dim() - 1)), turned, batch[name])

    left, top, right, bottom = batch["box"].unbind(-1)
    pixels = batch["pixels"][:, other]
    return batch | {
        "image": torch.where(which.view(-1, *[1] * (image.dim() - 1)), image.flip(-1), image),
        "camera": camera,
        # A rotation in a mirror turns the other way about axes that lie in the mirror.
        "pose": told("pose", flip[:, None] * batch["pose"][:, other] * flip),
        "translation": told("translation", batch["translation"] * flip),
        "joints": told("joints", batch["joints"][:, other] * flip),
        "pixels": told("pixels", torch.stack([width - pixels[..., 0], pixels[..., 1]], -1)),
        "box": told("box", torch.stack([width - right, top, width - left, bottom], -1)),
    }


def swapped(names: Sequence[str]) -> list[int]:
    """For each joint its place on the other side: left_… and right_…, ….L and ….R."""
    return [names.index(_other(name)) for name in names]


def _other(name: str) -> str:
    for one, two in (("left_", "right_"), ("right_", "left_")):
        if name.startswith(one):
            return two + name.removeprefix(one)
    for one, two in ((".L", ".R"), (".R", ".L")):
        if name.endswith(one):
            return name.removesuffix(one) + two
    return name
