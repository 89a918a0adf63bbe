"""Multi-HMR for Anny: it finds the field of view too.

The variant that the authors of Multi-HMR released for their free body (Baradel et al., ECCV 2024,
arXiv 2402.14654; Brégier et al., arXiv 2511.03589).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from vision.backbones import Backbone
from vision.body import AnnyMakeHuman
from vision.body.anny import MAKEHUMAN_AXES
from vision.body.camera import unproject
from vision.body.rotations import Order, from_6d
from vision.layers.precision import exact
from vision.mesh.grid import Cells
from vision.mesh.multihmr import (
    FOV,
    Decoder,
    OneShot,
    Seen,
    begin,
    dinov2,
    renamed,
    resampled,
    standing,
    two_layers,
)
from vision.mesh.people import SHARED, People


class MultiHMRAnny(OneShot):
    """The variant released for Anny: it finds the field of view too.

    Simpler than the paper's: no rays, one learned map of patches to tokens with fixed sines for
    their places, a longer decoder.

    Args:
        backbone: any ViT with a class token; DINOv2's ViT-S/14 by default, random.
        size: of a side of the pictures, in pixels.
        joints: whose rotations it gives.
        dim, depth, heads, head_dim: of the decoder; its MLP has 4·dim.
        order: of the six numbers of a rotation.
        body: `anny`; or `anny_makehuman`, for released checkpoints, whose bones turn about their
            own axes and whose root turns a body that lies on its back.
        middle: a block of the ViT whose patches the decoder sees beside the last one's. Ours: how
            somebody stands and where he faces is told worse by the last tokens of a frozen DINOv2,
            which say what is there, than by those of its middle.
        mixing: blocks of ConvNeXt over the patches before people are decoded. Ours: a patch of a
            head then knows the body below it, which attention alone learns to find slowly.
        around: whether these mixed patches help to tell where heads are. Ours: the token of a patch
            alone does not say which of the patches of a head is the one that counts.

    Raises:
        ValueError: a size that is no multiple of the patch; no such body.
    """

    BODIES = ("anny", "anny_makehuman")
    finds_camera = True
    UNSAID = ("size",)
    """What a caller may choose: it sees at any size, unless its ViT was trained at one."""

    def __init__(
        self,
        backbone: Backbone | None = None,
        size: int = 672,
        joints: tuple[str, ...] = SHARED,
        dim: int = 512,
        depth: int = 8,
        heads: int = 16,
        head_dim: int = 32,
        order: Order = "rows",
        body: Literal["anny", "anny_makehuman"] = "anny",
        middle: int | None = None,
        mixing: int = 0,
        around: bool = False,
    ) -> None:
        backbone = backbone or Backbone("vit_small_patch14_dinov2", weights="none", frozen=False)
        super().__init__(backbone, size, body, tuple(joints), middle)
        self.order: Order = order
        width = backbone.channels[-1]
        self.fov = two_layers(width, width, 1)
        self.to_token = nn.Linear(width + backbone.width(self.middle), dim)
        mix = (ConvNeXtBlock(dim, mlp_ratio=2, ls_init_value=0.1) for _ in range(mixing))
        self.mix = nn.Sequential(*mix)
        self.around = two_layers(dim, dim, 1) if around else None
        if around:
            self.spec = replace(self.spec, anew=("around.",))
        self.decoder = Decoder(dim, dim, depth, heads, head_dim, 4 * dim)
        self.offset, self.dist = two_layers(dim, dim, 2), two_layers(dim, dim, 1)
        self.pose = two_layers(dim, dim, 6 * len(self.spec.joints))
        self.shape = two_layers(dim, dim, 6)
        begin(self.pose, std=0.002)
        # Somebody 4 m away, seen with 60°; ours.
        begin(self.dist, math.log(size / 2 / math.tan(math.radians(FOV) / 2) / 4), std=0.002)
        begin(self.fov, -math.log(180 / FOV - 1))
        if self.around is not None:
            begin(self.around, std=0.002)
        self.register_buffer("places", sines(dim, self.grid), persistent=False)
        self.register_buffer("mean_pose", standing(len(self.spec.joints), order))

    places: Tensor
    mean_pose: Tensor

    def forward(
        self,
        images: Tensor,
        camera: Tensor | None = None,
        at: Cells | None = None,
        threshold: float = 0.3,
    ) -> Seen:
        """As of `MultiHMR`; without a camera, the one that it finds."""
        cls, patches, heat = self.see(images)
        tokens = self.to_token(patches.movedim(1, -1)) + self.places  # B×g×g×D
        tokens = self.mix(tokens.movedim(-1, 1)).movedim(1, -1)
        if self.around is not None:
            heat = heat + self.around(tokens)[..., 0]
        at, score = self.cells(heat, at, threshold)
        fov = math.pi * self.fov(cls)[:, 0].sigmoid()
        if camera is None:
            camera = self.found_camera(fov)
        out = self.decoder(tokens[at], tokens.movedim(-1, 1), at)
        with exact(out.device):  # it begins at log 100 or so, where bfloat16 knows distances to 3%
            offset, depth = self.offset(out.float()), self.dist(out.float())[:, 0]
        rotations = from_6d((self.pose(out) + self.mean_pose).unflatten(1, (-1, 6)), self.order)
        if self.spec.about_bones:
            standing = rotations.new_tensor(MAKEHUMAN_AXES).mT
            rotations = torch.cat([rotations[:, :1] @ standing, rotations[:, 1:]], 1)
        own = camera[at[0]]
        far = own[:, 0, 0] / depth.exp().clamp(min=1e-5)
        place = unproject(self.head(at, offset)[:, None], far[:, None], own)[:, 0]
        people = People(at[0], score, rotations, self.shape(out).sigmoid(), place)
        return Seen(people, heat, at, offset, depth, camera, fov)

    def found_camera(self, fov: Tensor) -> Tensor:
        """B angles → B×3×3 intrinsics, of a camera that looks at the middle."""
        camera = torch.eye(3, device=fov.device, dtype=fov.dtype).repeat(len(fov), 1, 1)
        camera[:, 0, 0] = camera[:, 1, 1] = self.size / 2 / (fov / 2).tan()
        camera[:, :2, 2] = self.size / 2
        return camera

    def depth_number(self, depth: Tensor, camera: Tensor) -> Tensor:
        """What `Seen.depth` is for heads N metres away under N×3×3 intrinsics."""
        return (camera[:, 0, 0] / depth).log()

    @classmethod
    def describe(cls, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Arguments that build the net of a released checkpoint, None if it is none.

        Raises:
            ValueError: a mask of other bones than MakeHuman's.
        """
        if "encoder.mlp_fov_unique.0.weight" not in state:
            return None
        head = "decoder.transformer.layers"
        out = state[f"{head}.0.0.fn.to_out.0.weight"]
        heads = 16  # leaves no trace in the tensors; the one that is published has 16
        names = AnnyMakeHuman().joint_names
        mask = state["useful_rotmat"].flatten()
        if len(mask) != len(names) or not mask.eq(mask.bool()).all():
            raise ValueError(f"useful_rotmat has not {len(names)} values of 0 or 1")
        return {
            "backbone": dinov2(state, "encoder.backbone."),
            "size": 14 * math.isqrt(len(state["dec_pos_emb"])),
            "joints": tuple(name for name, turns in zip(names, mask, strict=True) if turns),
            "dim": out.shape[0],
            "depth": len({key.split(".")[3] for key in state if key.startswith(f"{head}.")}),
            "heads": heads,
            "head_dim": out.shape[1] // heads,
            "body": "anny_makehuman",
        }

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a released checkpoint by our names.

        Left out are bones that its mask keeps still, and the last 5 of its 11 phenotypes, which no
        body of it has. Its pose head sees the mean pose beside each token; that is the same for
        all, so it goes into the first layer's bias.
        """
        found = renamed(state, RELEASED, NOT_OURS)
        mean, mask = found["mean_pose"].flatten(), state["useful_rotmat"].flatten().bool()
        own, constant = found["pose.0.weight"].tensor_split([-len(mean)], 1)
        found |= {"mean_pose": mean, "pose.0.weight": own}
        found["pose.0.bias"] = found["pose.0.bias"] + constant @ mean
        for name in ("mean_pose", "pose.2.weight", "pose.2.bias"):
            found[name] = found[name].unflatten(0, (-1, 6))[mask].flatten(0, 1)
        for name in ("shape.2.weight", "shape.2.bias"):
            found[name] = found[name][:6]
        return resampled(found, self.grid)


def sines(dim: int, grid: int) -> Tensor:
    """g×g×D: a quarter each of sines and cosines of the column, then of the row."""
    turns = 10000 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angle = torch.arange(grid)[:, None] * turns
    line = torch.cat([angle.sin(), angle.cos()], 1).float()  # g×D/2
    across, down = line[None].expand(grid, -1, -1), line[:, None].expand(-1, grid, -1)
    return torch.cat([across, down], -1)


RELEASED = (
    ("encoder.backbone.", "backbone.net."),
    ("encoder.mlp_det.", "detect."),
    ("encoder.mlp_fov_unique.", "fov."),
    ("dec_to_token.", "to_token."),
    ("decoder.transformer.layers.", "decoder.layers."),
    ("mlp_offset.", "offset."),
    ("mlp_pose.", "pose."),
    ("mlp_shape.", "shape."),
    ("mlp_dist.", "dist."),
    ("init_body_pose", "mean_pose"),
)
NOT_OURS = (
    # The body model, and constants.
    "body_model.",
    "encoder.backbone.mask_token",
    "encoder.fov_max",
    "dec_pos_emb",
    "useful_rotmat",
    "eye",
)
