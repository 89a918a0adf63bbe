"""Multi-HMR: all people of a picture in one pass, each from the patch that shows the head.

Baradel et al., "Multi-HMR: Multi-Person Whole-Body Human Mesh Recovery in a Single Shot" (ECCV
2024, arXiv 2402.14654), and the variant of the same authors for the free body Anny (Brégier et al.,
arXiv 2511.03589).

    ViT → a score for each patch → patches of people ask all patches, and each other → pose, shape,
    depth

Published checkpoints load as they are; what their code does otherwise than one would expect is kept
for them and marked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vision.backbones import Backbone
from vision.body.camera import unproject
from vision.body.rotations import Order, from_6d, to_6d
from vision.mesh.grid import Cells, assign, peaks
from vision.mesh.people import SHARED, BodyName, MeshSpec, People

FOV = 60.0
"""Degrees: the field of view that depths are normalised to."""
FARTHEST = 50.0
"""Metres."""
SMPLX_53 = (*SHARED, "jaw")


class Seen(NamedTuple):
    """What a net says of a batch of B pictures and N people in them.

    Attributes:
        people: N people.
        heat: B×g×g logits, whether the patch shows somebody's head.
        at: the patches of the N.
        offset: N×2, from the middle of the patch to the head, in patches, x and y.
        depth: N numbers that say how far the head is; see `depth_number` of the net.
        camera: B×3×3, that was given or found.
        fov: B, the angle in radians that the net finds the pictures to be seen with; None if it
            does not look for it.
    """

    people: People
    heat: Tensor
    at: Cells
    offset: Tensor
    depth: Tensor
    camera: Tensor
    fov: Tensor | None = None


class SelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, _: Tensor, there: Tensor) -> Tensor:
        """B×P×D people, of whom B×P are there → B×P×D."""
        q, k, v = self.to_qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Of a picture with nobody, the first place is asked, so that a softmax has a value.
        mask = there.index_fill(1, there.new_zeros(1, dtype=torch.long), True)[:, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # B×heads×P×d
        return self.to_out(out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    def __init__(self, dim: int, context: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, heads * head_dim, bias=False)
        self.to_kv = nn.Linear(context, 2 * heads * head_dim, bias=False)
        self.to_out = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor, context: Tensor, _: Tensor) -> Tensor:
        """B×P×D people, B×N×C patches → B×P×D."""
        q = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.to_kv(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v)  # B×heads×P×d
        return self.to_out(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, *_: Tensor) -> Tensor:
        return self.net(x)


class Part(nn.Module):
    """Norm, then one of the three above, with a skip."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(dim), fn

    def forward(self, x: Tensor, context: Tensor, there: Tensor) -> Tensor:
        return x + self.fn(self.norm(x), context, there)


class Decoder(nn.Module):
    """People ask each other, then the patches, in each layer."""

    def __init__(
        self, dim: int, context: int, depth: int, heads: int, head_dim: int, mlp: int
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(depth):
            kinds = (
                SelfAttention(dim, heads, head_dim),
                CrossAttention(dim, context, heads, head_dim),
                FeedForward(dim, mlp),
            )
            self.layers.append(nn.ModuleList(Part(dim, kind) for kind in kinds))

    def forward(self, x: Tensor, context: Tensor, at: Cells) -> Tensor:
        """N×D people at these cells, B×C×g×g patches → N×D.

        People of one picture see each other: they are laid out as B×P×D, P the most of a picture.
        """
        count = torch.bincount(at[0], minlength=len(context))  # B
        place = torch.arange(len(x), device=x.device) - (count.cumsum(0) - count)[at[0]]
        most = max(1, int(count.max())) if len(count) else 1
        laid = x.new_zeros(len(context), most, x.shape[1])
        laid = torch.index_put(laid, (at[0], place), x)
        there = torch.arange(most, device=x.device) < count[:, None]  # B×P
        patches = context.flatten(2).mT  # B×g²×C
        for parts in self.layers:
            for part in cast("nn.ModuleList", parts):
                laid = part(laid, patches, there)
        return laid[at[0], place]


class OneShot(nn.Module):
    """What both variants share: pictures in, patches of heads, people at them."""

    BODIES: tuple[str, ...] = ("anny", "smplx")
    depth_number: Any

    def __init__(
        self,
        backbone: Backbone,
        size: int,
        body: BodyName,
        joints: tuple[str, ...],
        middle: int | None = None,
        betas: int = 10,
    ) -> None:
        super().__init__()
        if body not in self.BODIES:
            raise ValueError(f"body={body}: {type(self).__name__} gives {' or '.join(self.BODIES)}")
        if size < backbone.patch or size % backbone.patch:
            raise ValueError(f"size={size}: give a multiple of the {backbone.patch} pixels a patch")
        if not backbone.has_class_token:
            raise ValueError(
                f"backbone {backbone.name} is no ViT with a class token; use one such as"
                " vit_small_patch14_dinov2"
            )
        backbone.net.set_input_size((size, size))
        self.backbone, self.size, self.step = backbone, size, backbone.patch
        self.grid = size // backbone.patch
        bones = body == "anny_makehuman"
        self.spec = MeshSpec(
            body, joints, "pictures", (size, size), "head", about_bones=bones, betas=betas
        )
        dim = backbone.channels[-1]
        self.middle = () if middle is None else (middle,)
        self.normal = nn.LayerNorm(backbone.width(self.middle)) if self.middle else None
        self.detect = two_layers(dim, dim, 1)
        # A score of 0.01 everywhere, so that the many patches of nobody do not rule the first steps
        # (Lin et al., "Focal Loss", 3.3).
        begin(self.detect, -math.log(99))

    def see(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B×3×S×S RGB in [0, 1] → class tokens B×D, patches B×D×g×g, heat B×g×g.

        Where the decoder sees a block from the middle too, its patches follow the D numbers.
        """
        if images.shape[1:] != (3, self.size, self.size):
            raise ValueError(
                f"pictures of {tuple(images.shape[1:])}; give 3×{self.size}×{self.size}, padded to"
                " a square and resized"
            )
        normal = (images - self.backbone.mean) / self.backbone.std
        cls, patches, *middle = self.backbone.tokens(normal, self.middle)
        heat = self.detect(patches.movedim(1, -1))[..., 0]
        if self.normal is not None:
            own = self.normal(middle[0].movedim(1, -1)).movedim(-1, 1)
            patches = torch.cat([patches, own], 1)
        return cls, patches, heat

    def cells(self, heat: Tensor, at: Cells | None, threshold: float) -> tuple[Cells, Tensor]:
        """Those asked for, or else those that stand out; and their scores."""
        scores = heat.sigmoid().clamp(1e-4, 1 - 1e-4)
        at = peaks(scores.detach(), threshold, kernel=3) if at is None else at
        return at, scores[at]

    def assign(self, picture: Tensor, anchor: Tensor, box: Tensor) -> tuple[Cells, Tensor]:
        """Patches of true people and who they are; see `vision.mesh.grid.assign`."""
        return assign(picture, anchor, box, self.grid, self.step)

    def head(self, at: Cells, offset: Tensor) -> Tensor:
        """N×2 pixels."""
        return (torch.stack([at[2], at[1]], -1) + 0.5 + offset) * self.step


class MultiHMR(OneShot):
    """The net of the paper.

    Args:
        backbone: any ViT with a class token; DINOv2's ViT-L/14 by default, random.
        size: of a side of the pictures, in pixels.
        body: whose numbers it gives: `smplx` (53 rotations with the jaw, `betas` shapes and 10
            expressions) or `anny` (52 rotations that it shares with SMPL-X, 6 phenotypes).
        dim, depth, heads, head_dim, mlp: of the Human Prediction Head.
        betas: how many shapes of SMPL-X: 10, or 11, which the released code knows too.
        swapped_rays: rows and columns of patches in the places of x and y when rays are computed,
            as the released code has it; for its checkpoints.

    Raises:
        ValueError: a size that is no multiple of the patch; no such body; a backbone that is no ViT
            with a class token.
    """

    def __init__(
        self,
        backbone: Backbone | None = None,
        size: int = 896,
        body: Literal["anny", "smplx"] = "smplx",
        dim: int = 1024,
        depth: int = 2,
        heads: int = 8,
        head_dim: int = 32,
        mlp: int = 1024,
        betas: int = 10,
        swapped_rays: bool = False,
    ) -> None:
        backbone = backbone or Backbone("vit_large_patch14_dinov2", weights="none", frozen=False)
        joints = SMPLX_53 if body == "smplx" else SHARED
        super().__init__(backbone, size, body, joints, betas=betas)
        self.swapped_rays = swapped_rays
        expressions = self.spec.expressions if body == "smplx" else 0
        shapes = betas if body == "smplx" else 6
        pose = 6 * len(self.spec.joints)
        width = backbone.channels[-1]
        context = width + RAY_CHANNELS
        self.offset = two_layers(width, width, 2)
        # Human Prediction Head
        self.query_rows, self.query_columns, self.key_rows, self.key_columns = (
            nn.Parameter(0.2 * torch.randn(self.grid, context)) for _ in range(4)
        )
        self.to_token = nn.Linear(context + pose + shapes + 3, dim)
        self.start = nn.Parameter(torch.randn(dim))
        self.decoder = Decoder(dim, context, depth, heads, head_dim, mlp)
        self.pose, self.shape = nn.Linear(dim, pose), nn.Linear(dim, shapes)
        self.camera = nn.Linear(dim, 3)  # the first number is the depth; the rest is unused
        self.expression = nn.Linear(dim, expressions) if expressions else None
        for layer in (self.pose, self.shape, self.camera, self.expression):
            if layer is not None:
                begin(layer, std=0.002)  # near the mean person; ours
        self.register_buffer("mean_pose", standing(len(self.spec.joints)))
        self.register_buffer("mean_shape", torch.full((shapes,), 0.5 if body == "anny" else 0.0))
        # 4 m away, where people in photographs are; ours. Released: 0.9, 0, 0 from SPIN.
        self.register_buffer("mean_camera", torch.tensor([math.log(4.0), 0, 0]))

    mean_pose: Tensor
    mean_shape: Tensor
    mean_camera: Tensor

    def forward(
        self,
        images: Tensor,
        camera: Tensor,
        at: Cells | None = None,
        threshold: float = 0.3,
    ) -> Seen:
        """B×3×S×S RGB in [0, 1], B×3×3 intrinsics in pixels.

        `at` names the patches to look at, as when training; else those of scores from `threshold`
        on that stand out.
        """
        _, patches, heat = self.see(images)
        at, score = self.cells(heat, at, threshold)
        picture, row, column = at
        central = patches[picture, :, row, column]  # N×D
        offset = self.offset(central)
        context = torch.cat([patches, rays(camera, self.grid, self.step, self.swapped_rays)], 1)
        query = context[picture, :, row, column] + self.query_rows[row] + self.query_columns[column]
        # Keys at the people's patches are moved too; B×g×g×C so that places are written at once.
        moved = self.key_rows[row] + self.key_columns[column]
        context = torch.index_put(context.movedim(1, -1), at, moved, accumulate=True).movedim(-1, 1)
        mean = torch.cat([self.mean_pose, self.mean_shape, self.mean_camera])
        token = self.to_token(torch.cat([query, mean.expand(len(query), -1)], 1)) + self.start
        out = self.decoder(token, context, at)
        rotations = from_6d((self.pose(out) + self.mean_pose).unflatten(1, (-1, 6)))
        shape = self.shape(out) + self.mean_shape
        if self.expression is not None:
            shape = torch.cat([shape, self.expression(out)], 1)
        depth = (self.camera(out) + self.mean_camera)[:, 0]
        own = camera[picture]
        far = (depth * own[:, 0, 0] / self._focal).exp().clamp(0, FARTHEST)
        place = unproject(self.head(at, offset)[:, None], far[:, None], own)[:, 0]
        people = People(picture, score, rotations, shape, place)
        return Seen(people, heat, at, offset, depth, camera)

    def depth_number(self, depth: Tensor, camera: Tensor) -> Tensor:
        """What `Seen.depth` is for heads N metres away under N×3×3 intrinsics."""
        return depth.log() * self._focal / camera[:, 0, 0]

    @property
    def _focal(self) -> float:
        return self.size / 2 / math.tan(math.radians(FOV) / 2)

    @classmethod
    def describe(cls, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """Arguments that build the net of a released checkpoint, None if it is none."""
        if "x_attention_head.decpose.weight" not in state:
            return None
        head = "x_attention_head.transformer.transformer.layers"
        out = state[f"{head}.0.0.fn.to_out.0.weight"]
        return {
            "backbone": dinov2(state, "backbone.encoder."),
            "size": 14 * len(state["x_attention_head.cross_queries_x"]),
            "dim": out.shape[0],
            "depth": len({key.split(".")[4] for key in state if key.startswith(f"{head}.")}),
            "heads": 8,  # leaves no trace in the tensors; all that is published has 8
            "head_dim": out.shape[1] // 8,
            "mlp": state[f"{head}.0.2.fn.net.0.weight"].shape[0],
            "betas": state["x_attention_head.decshape.weight"].shape[0],
            "swapped_rays": True,
        }

    def renamed(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a released checkpoint by our names."""
        found = renamed(state, RELEASED, NOT_OURS)
        found["start"] = found["start"].flatten()
        for name in ("mean_pose", "mean_shape", "mean_camera"):
            found[name] = found[name].flatten()
        return resampled(found, self.grid)


# ---- parts

BANDS = torch.linspace(1, 32, 16)
RAY_CHANNELS = 3 + 2 * 3 * len(BANDS)


def rays(camera: Tensor, grid: int, step: int, swapped: bool) -> Tensor:
    """B×3×3 intrinsics → B×99×g×g: where each patch looks, itself and in sines and cosines."""
    middle = torch.arange(grid, device=camera.device, dtype=camera.dtype) * step + step // 2
    row, column = torch.meshgrid(middle, middle, indexing="ij")
    points = torch.stack([row, column] if swapped else [column, row], -1).flatten(0, 1)
    ray = unproject(points.expand(len(camera), -1, -1), torch.ones_like(points[:, 0]), camera)
    waves = math.pi * (ray[..., None] * BANDS.to(ray)).flatten(2)  # B×g²×48
    return torch.cat([ray, waves.sin(), waves.cos()], -1).mT.unflatten(-1, (grid, grid))


def two_layers(*widths: int) -> nn.Sequential:
    first, middle, last = widths
    return nn.Sequential(nn.Linear(first, middle), nn.ReLU(), nn.Linear(middle, last))


def begin(net: nn.Module, bias: float = 0.0, std: float | None = None) -> None:
    """Start a layer, or the last one of several, at `bias`."""
    layer = [*net.modules()][-1]
    assert isinstance(layer, nn.Linear)
    nn.init.constant_(layer.bias, bias)
    if std is not None:
        nn.init.trunc_normal_(layer.weight, std=std)


def standing(joints: int, order: Order = "columns") -> Tensor:
    """6·R numbers of somebody who stands upright and looks into the camera."""
    still = torch.eye(3).repeat(joints, 1, 1)
    still[0] = torch.diag(torch.tensor([1.0, -1, -1]))
    return to_6d(still, order).flatten()


# ---- released checkpoints

Names = tuple[tuple[str, str], ...]
RELEASED = (
    ("backbone.encoder.", "backbone.net."),
    ("mlp_classif.", "detect."),
    ("mlp_offset.", "offset."),
    ("x_attention_head.transformer.to_token_embedding.", "to_token."),
    ("x_attention_head.transformer.pos_embedding", "start"),
    ("x_attention_head.transformer.transformer.layers.", "decoder.layers."),
    ("x_attention_head.decpose.", "pose."),
    ("x_attention_head.decshape.", "shape."),
    ("x_attention_head.deccam.", "camera."),
    ("x_attention_head.decexpression.", "expression."),
    ("x_attention_head.cross_queries_x", "query_rows"),
    ("x_attention_head.cross_queries_y", "query_columns"),
    ("x_attention_head.cross_values_x", "key_rows"),
    ("x_attention_head.cross_values_y", "key_columns"),
    ("x_attention_head.init_body_pose", "mean_pose"),
    ("x_attention_head.init_betas", "mean_shape"),
    ("x_attention_head.init_cam", "mean_camera"),
)
NOT_OURS = (
    # The body model, which users have from its authors; a token for pictures with holes, which
    # DINOv2 was trained with; means of what no head adds them to.
    "smpl_layer.",
    "backbone.encoder.mask_token",
    "x_attention_head.init_betas_kid",
    "x_attention_head.init_expression",
)


def renamed(
    state: Mapping[str, Tensor], names: Names, left_out: tuple[str, ...]
) -> dict[str, Tensor]:
    """By our names what begins with one of theirs, but for what begins with one of `left_out`."""
    found = {}
    for key, value in state.items():
        if key.startswith(left_out):
            continue
        old, new = next(((o, n) for o, n in names if key.startswith(o)), ("", ""))
        name = new + key.removeprefix(old)
        name = name.replace(".fn.to_out.0.", ".fn.to_out.").replace(".fn.net.3.", ".fn.net.2.")
        found[name] = value
    return found


def resampled(state: dict[str, Tensor], grid: int) -> dict[str, Tensor]:
    """With DINOv2's places for a grid of this many patches, by its own formula."""
    places = state["backbone.net.pos_embed"]
    side = math.isqrt(places.shape[1] - 1)
    if side != grid:
        square = places[:, 1:].mT.unflatten(-1, (side, side))
        scale = (grid + 0.1) / side  # so that rounding gives the grid
        square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
        places = torch.cat([places[:, :1], square.flatten(2).mT], 1)
    return state | {"backbone.net.pos_embed": places}


def dinov2(state: Mapping[str, Tensor], prefix: str) -> Backbone:
    size = {384: "small", 768: "base", 1024: "large"}[state[f"{prefix}cls_token"].shape[-1]]
    return Backbone(f"vit_{size}_patch14_dinov2", weights="none", frozen=False)
