"""OSX: the person of a crop, body, hands and face in one net.

Lin et al., "One-Stage 3D Whole-Body Mesh Recovery with Component Aware Transformer" (CVPR 2023,
arXiv 2303.16160).

    crop → ViT with a token for each task ─┬→ tokens, heat maps of joints → body, shape, camera
                                           ├→ boxes of hands and face
                                           └→ features, enlarged and cut to the boxes
                                                  → decoder guided by keypoints → fingers, face

Published checkpoints load as they are (`OSX.describe`, `OSX.renamed`); what their code does
otherwise than one would expect is kept for them and marked.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchvision.ops import roi_align

from vision.backbones import Backbone
from vision.body.camera import unproject
from vision.body.rotations import from_6d, to_6d
from vision.body.smpl import BODY, FINGERS, HANDS
from vision.layers.precision import exact
from vision.mesh.crops import CROP, PATCH, At, check, crop_of, cut_out, real_place, towards
from vision.mesh.deformable import Decoder
from vision.mesh.people import SHARED, MeshSpec, People

GRID = (16, 12)  # tokens of a crop
DEPTH = 16  # bins of heat maps from front to back
HAND, FACE = 16, 8  # bins a side of heat maps of a hand and of the face
WIDE = {"body": 2.0, "hand": 0.3, "face": 0.3}  # metres that these bins span
GROW = (2.0, 2.0, 1.5)  # of the boxes of left hand, right hand and face
# Metres from the camera before a crop, where 2.5 m nearly fill it.
FARTHEST = 5000 * 2.5 / math.sqrt(256 * 192)
SHAPE, CAM, EXPRESSION, JAW = range(4)  # task tokens; two of hands follow, which nothing reads
LIMBS = 6  # then those of the points of the body

# fmt: off
SMPLX_BODY = (
    "pelvis", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle",
    "neck", "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist",
    "right_wrist", "left_big_toe", "left_small_toe", "left_heel", "right_big_toe",
    "right_small_toe", "right_heel", "left_ear", "right_ear", "left_eye", "right_eye", "nose",
)
# fmt: on
SMPLX_HAND = tuple(
    f"{finger}{i}"
    for finger in ("thumb", "index", "middle", "ring", "pinky")
    for i in ("1", "2", "3", "")  # a tip bears the finger's name, as in smplx
)
ANNY_HAND = tuple(f"{finger}{i}" for finger in FINGERS for i in (1, 2, 3))
FACE_POINTS = 72  # jaw, head, left eye, right eye, then the 68 landmarks of smplx, 76 … 143


class Found(NamedTuple):
    """What the net says of N crops. Points are x, y in pixels of the crop, z in metres.

    Attributes:
        rotations: N×R×3×3, as of `People`.
        shape: N×S, as of `People`.
        virtual: N×3, the place before a camera of focal length FOCAL that looks at the middle.
        body: N×P×3, z from the pelvis; P by `OSX.points`.
        hands: N×2×Q×3, left and right, z from the wrist.
        face: N×72×3, z from the neck; of a body without expressions N×0×3. The released training
            code compares bins of the face's box with bins of the crop, so the points that published
            weights give need not lie on the face.
        centres: N×3×2 of the boxes of left hand, right hand and face, in pixels of the crop.
        sizes: N×3×2, width and height of what is in them.
        boxes: N×3×4 left, top, right, bottom: grown to squares, where features are cut; no
            gradient.
    """

    rotations: Tensor
    shape: Tensor
    virtual: Tensor
    body: Tensor
    hands: Tensor
    face: Tensor
    centres: Tensor
    sizes: Tensor
    boxes: Tensor


class OSXPeople(NamedTuple):
    """People before the camera of their picture, and what was found in their crops."""

    people: People
    crop: Found


# ---- parts


class Encoder(nn.Module):
    """A ViT whose blocks see task tokens before those of the patches.

    Of the published layout (`backbone` None): patches of 16 pixels of a picture of 256×192, padded
    by 2; no class token, but its position, which is added to all patches; no normalisation. Any
    other ViT of timm takes the crop at the size that gives as many patches, normalised as it was
    trained; its class and register tokens stay, after those of the tasks, which are the class token
    and something of their own (ours). They join at block `join`; those before it stay as they are.
    """

    def __init__(
        self,
        tokens: int,
        backbone: Backbone | None,
        width: int,
        depth: int,
        drop_path: float,
        join: int = 0,
    ) -> None:
        super().__init__()
        self.join, self.pretrained = join, backbone is not None
        if backbone is None:
            self.size, heads = (16 * GRID[0], 16 * GRID[1]), max(1, width // 64)
            net: Any = VisionTransformer(
                self.size,
                embed_dim=width,
                depth=depth,
                num_heads=heads,
                num_classes=0,
                global_pool="",
                class_token=False,
                drop_path_rate=drop_path,
            )
            net.patch_embed.proj.padding = (2, 2)
            mean, std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        else:
            net, mean, std = _plain(backbone), backbone.mean[0], backbone.std[0]
            self.size = (backbone.patch * GRID[0], backbone.patch * GRID[1])
        self.resize = "nearest" if backbone is None else "bilinear"  # as the released code does
        self.register_buffer("mean", mean.clone(), persistent=False)
        self.register_buffer("std", std.clone(), persistent=False)
        self.task_tokens = nn.Parameter(
            nn.init.trunc_normal_(torch.empty(1, tokens, width), std=0.02)
        )
        own = [getattr(net, f"{kind}_token", None) for kind in ("cls", "dist", "reg")]
        prefix = torch.cat([torch.empty(1, 0, width), *(t for t in own if t is not None)], 1)
        places = torch.zeros(1, 192, width) if net.pos_embed is None else net.pos_embed
        if places.shape[1] > net.patch_embed.num_patches:
            prefix = prefix + places[:, : prefix.shape[1]]
            places = places[:, prefix.shape[1] :]
        places = resample_abs_pos_embed(places, [*GRID], [*net.patch_embed.grid_size], 0)
        self.prefix = nn.Parameter(prefix.detach()) if prefix.shape[1] else None
        self.pos_embed = nn.Parameter(F.pad(places.detach(), (0, 0, 1, 0)))  # 1×193×D
        self.patch_embed, self.norm_pre, self.blocks = net.patch_embed, net.norm_pre, net.blocks
        self.last_norm = net.fc_norm if isinstance(net.norm, nn.Identity) else net.norm
        if not 0 <= join < len(self.blocks):
            raise ValueError(f"join={join}: the ViT has blocks 0 to {len(self.blocks) - 1}")
        if join:
            for parameter in (*self._before(), *self.blocks[:join].parameters()):
                parameter.requires_grad_(False)

    mean: Tensor
    std: Tensor

    def _before(self) -> list[nn.Parameter]:
        """What comes before the first block."""
        found = [self.pos_embed, *self.patch_embed.parameters(), *self.norm_pre.parameters()]
        return found if self.prefix is None else [*found, self.prefix]

    def brought(self) -> list[nn.Parameter]:
        """What the ViT learned before it came here."""
        if not self.pretrained:
            return []
        return [*self._before(), *self.blocks.parameters(), *self.last_norm.parameters()]

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """N×3×512×384 RGB in [0, 1] → features N×D×16×12, task tokens N×T×D."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.join):
            x = self.blocks[: self.join](self.embed(crops))
        tasks = self.task_tokens.expand(len(x), -1, -1)
        if self.prefix is not None:
            tasks = tasks + x[:, :1]
        x = self.last_norm(self.blocks[self.join :](torch.cat([tasks, x], 1)))
        return x[:, -GRID[0] * GRID[1] :].mT.unflatten(2, GRID), x[:, : tasks.shape[1]]

    def embed(self, crops: Tensor) -> Tensor:
        """Tokens before the first block, those of patches last: N×(P+192)×D."""
        smooth = self.resize == "bilinear"
        pixels = F.interpolate(crops, self.size, mode=self.resize, antialias=smooth)
        x = self.patch_embed((pixels - self.mean) / self.std).flatten(1, -2)  # N×192×D
        x = x + self.pos_embed[:, 1:] + self.pos_embed[:, :1]
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(len(x), -1, -1), x], 1)
        return self.norm_pre(x)


class PositionNet(nn.Module):
    """Heat maps of points and where they are; with `features`, what the map shows there as well."""

    def __init__(self, width: int, points: int, depth: int, features: bool = False) -> None:
        super().__init__()
        self.points = points
        self.conv = nn.Sequential(nn.Conv2d(width, points * depth, 1))
        self.features = _conv(width, 256) if features else None

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """N×D×h×w → heat N×P×d×h×w, which sums to 1, and N×P×3 x, y, z in its bins."""
        return soft_argmax(self.conv(maps).unflatten(1, (self.points, -1)))

    def queries(self, maps: Tensor, points: Tensor) -> Tensor:
        """N×P×256 at N×P×3 points."""
        assert self.features is not None
        return sample(self.features(maps), points.detach())


class BodyRegressor(nn.Module):
    def __init__(self, width: int, points: int, rotations: int, shapes: int) -> None:
        super().__init__()
        self.body_conv = _linear(width, 512)
        self.root_pose_out = _linear(points * (512 + 3), 6)
        self.body_pose_out = _linear(points * (512 + 3), (rotations - 1) * 6)
        self.shape_out = _linear(width, shapes)
        self.cam_out = _linear(width, 3)

    def forward(self, tokens: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """N×T×D task tokens, N×P×3 → N×R×6 rotations, N×S shapes, N×3 camera."""
        seen = torch.cat([self.body_conv(tokens[:, LIMBS:]), points], -1).flatten(1)
        pose = torch.cat([self.root_pose_out(seen), self.body_pose_out(seen)], 1)
        shape, cam = self.shape_out(tokens[:, SHAPE]), self.cam_out(tokens[:, CAM])
        return pose.unflatten(1, (-1, 6)), shape, cam


class BoxNet(nn.Module):
    def __init__(self, width: int, points: int, inner: int) -> None:
        super().__init__()
        self.deconv = _deconv(width + points * DEPTH, inner, inner, inner)
        self.bbox_center = nn.Sequential(nn.Conv2d(inner, 3, 1))
        self.lhand_size = _linear(inner, inner, 2)
        self.rhand_size = _linear(inner, inner, 2)
        self.face_size = _linear(inner, inner, 2)

    def forward(self, features: Tensor, heat: Tensor) -> tuple[Tensor, Tensor]:
        """Features and heat N×P×16×16×12 → centres and sizes N×3×2 of boxes, in tokens."""
        x = self.deconv(torch.cat([features, heat.flatten(1, 2)], 1))  # N×C×128×96
        _, centres = soft_argmax(self.bbox_center(x))
        seen = sample(x, centres.detach()).unbind(1)  # 3 of N×C
        nets = (self.lhand_size, self.rhand_size, self.face_size)
        sizes = [net(part) for net, part in zip(nets, seen, strict=True)]
        return centres / 8, torch.stack(sizes, 1).float()


class Levels(nn.Module):
    """Features as they are, twice and four times as large, each cut to boxes."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        widths = (width, width // 2, width // 4)
        same = nn.Sequential(nn.Conv2d(width, width, 1))
        self.deconv = nn.ModuleList([same, _deconv(*widths[:2]), _deconv(*widths)])

    def forward(self, features: Tensor, boxes: Tensor) -> list[Tensor]:
        """N×D×16×12, N×K×4 boxes in tokens → K×N×C×s×s, fine to coarse: s = 2, 1, ½ of a side."""
        cuts = [
            cut(net(features), boxes * 2**level, self.side * 2**level // 2)
            for level, net in enumerate(self.deconv)
        ]
        return cuts[::-1]


class Enlarged(nn.Module):
    """Features four times as large, cut to boxes: all that hands get without a decoder."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.deconv = _deconv(width, width // 2, width // 4)
        self.conv = nn.Sequential(nn.Conv2d(width // 4, width, 1))

    def forward(self, features: Tensor, boxes: Tensor) -> list[Tensor]:
        """N×D×16×12, N×K×4 boxes in tokens → K×N×D×s×s, alone in a list."""
        cuts = cut(self.deconv(features), boxes * 4, self.side)
        return [self.conv(cuts.flatten(0, 1)).unflatten(0, cuts.shape[:2])]


class HandRegressor(nn.Module):
    """Fingers, from queries of a decoder or else from a map at the points."""

    def __init__(self, width: int, points: int, decoder: bool) -> None:
        super().__init__()
        self.hand_conv = _linear(256, 512) if decoder else _conv(width, 512)
        self.hand_pose_out = _linear(points * (512 + 3), 15 * 6)

    def forward(self, seen: Tensor, points: Tensor) -> Tensor:
        """N×Q×256 or N×D×s×s, N×Q×3 points → N×15×6 rotations."""
        x = self.hand_conv(seen)
        x = sample(x, points) if x.ndim == 4 else x
        return self.hand_pose_out(torch.cat([x, points], -1).flatten(1)).unflatten(1, (15, 6))


class FaceRegressor(nn.Module):
    """Expression and jaw, from queries of a decoder and the whole face, or else from two tokens."""

    def __init__(self, width: int, decoder: bool) -> None:
        super().__init__()
        if decoder:
            self.conv, self.joint_conv = _linear(width, 512), _linear(256, 512)
            width = 512 + FACE_POINTS * (512 + 3)
        self.expr_out, self.jaw_pose_out = _linear(width, 10), _linear(width, 6)

    def gather(self, seen: Tensor, points: Tensor, face: Tensor) -> Tensor:
        """N×72×256 queries, N×72×3 points, N×D×s×s → what both numbers are told from."""
        around = torch.cat([self.joint_conv(seen), points], -1).flatten(1)
        return torch.cat([self.conv(face.mean((2, 3))), around], 1)


# ---- the net


class OSX(nn.Module):
    """Whole pictures and boxes of people in, these people out.

    Args:
        backbone: any plain ViT of timm, not frozen; None: of the published layout, random.
        decoder: the decoder guided by keypoints; without it fingers come from one map of each hand,
            expression and jaw from tokens (published as osx_l_wo_decoder).
        body: whose numbers it gives: `smplx` (53 rotations with the jaw; 10 shapes, then 10
            expressions) or, ours, `anny` (52 rotations that it shares with SMPL-X, 6 phenotypes),
            whose points are these joints themselves and which has no face to tell.
        width, depth: of the published ViT: 1024 and 24 (L), 768 and 12 (B); heads have 64.
        drop_path: of the published ViT in training; the authors take 0.5 for L, 0.3 for B.
        box_width: channels of the net that finds boxes, most of the cost where the ViT is small.
        along_ray: the whole body is turned from the view along the ray through the middle of its
            box into the camera's (ours). A crop does not show from which side the camera sees it:
            at the edge of a wide picture 30° are missing. Published weights were trained without.
        layers: of the decoder; the published ones have 6.
        join: block of the ViT at which the task tokens join (ours; published is the first). Blocks
            before it see patches alone and do not learn, which halves the cost of a step.

    Hands and face are cut by the boxes that the net finds, in training too, as in the released
    code: no true boxes are mixed in, and no gradient runs through the cutting.

    Attributes:
        points: names of the points of `body` and `hand`, in their order; fingers are those of each
            hand. Rotations of fingers follow SMPL-X: index, middle, pinky, ring, thumb.

    Raises:
        ValueError: a frozen backbone, or one that is no plain ViT; no such block; another body.
    """

    def __init__(
        self,
        backbone: Backbone | None = None,
        decoder: bool = True,
        body: Literal["anny", "smplx"] = "smplx",
        width: int = 1024,
        depth: int = 24,
        drop_path: float = 0.0,
        box_width: int = 256,
        along_ray: bool = False,
        join: int = 0,
        layers: int = 6,
    ) -> None:
        super().__init__()
        if body not in ("anny", "smplx"):
            raise ValueError(f"body={body}: OSX gives anny or smplx")
        smplx = body == "smplx"
        joints, anchor = ((*BODY, "jaw", *HANDS), None) if smplx else (SHARED, "pelvis")
        self.spec = MeshSpec(body, joints, "crops", CROP, anchor, hands_from_relaxed=smplx)
        self.along_ray = along_ray
        named = (SMPLX_BODY, SMPLX_HAND) if smplx else (BODY, ANNY_HAND)
        self.points = dict(zip(("body", "hand"), named, strict=True))
        limbs, fingers = map(len, named)
        width = width if backbone is None else backbone.channels[-1]
        half = width // 2 if decoder else width
        self.encoder = Encoder(LIMBS + limbs, backbone, width, depth, drop_path, join)
        self.body_position_net = PositionNet(width, limbs, DEPTH)
        self.body_regressor = BodyRegressor(width, limbs, len(BODY), 10 if smplx else 6)
        self.box_net = BoxNet(width, limbs, box_width)
        self.hand_position_net = PositionNet(half, fingers, HAND, decoder)
        self.hand_roi_net = Levels(width, HAND) if decoder else Enlarged(width, HAND)
        self.hand_regressor = HandRegressor(width, fingers, decoder)
        self.hand_decoder = Decoder(width, fingers, layers) if decoder else None
        self.face_regressor = FaceRegressor(width, decoder) if smplx else None
        if smplx and decoder:
            self.face_position_net = PositionNet(half, FACE_POINTS, FACE, True)
            self.face_roi_net = Levels(width, FACE)
            self.face_decoder = Decoder(width, FACE_POINTS, layers)
        self._begin()

    @torch.no_grad()
    def _begin(self) -> None:
        """Start at somebody who stands and looks into the camera; ours."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear) and name.endswith("pose_out.0"):
                still = torch.eye(3).repeat(len(layer.bias) // 6, 1, 1)
                if "root" in name:
                    still[0] = torch.diag(torch.tensor([1.0, -1, -1]))
                layer.bias.copy_(to_6d(still, "rows").flatten())
                nn.init.trunc_normal_(layer.weight, std=0.001)

    def forward(self, images: Tensor, camera: Tensor, at: At) -> OSXPeople:
        """B×3×H×W RGB in [0, 1], B×3×3 intrinsics in pixels, N boxes of people.

        Raises:
            ValueError: pictures, cameras or boxes of another shape, or boxes without area.
        """
        picture, box = at
        check(images, camera, picture, box)
        corner, scale = crop_of(box)
        found = self.regress(cut_out(images, picture, corner, scale))
        own = camera[picture]
        place = real_place(found.virtual, own, corner, scale)
        rotations = found.rotations
        if self.along_ray:
            middle = (corner + corner.new_tensor(CROP[::-1]) / 2 / scale[:, None])[:, None]
            ray = unproject(middle, torch.ones_like(middle[..., 0]), own)[:, 0]
            with exact(ray.device):
                root = towards(ray)[:, None] @ rotations[:, :1]
            rotations = torch.cat([root, rotations[:, 1:]], 1)
        people = People(picture, torch.ones_like(scale), rotations, found.shape, place)
        return OSXPeople(people, found)

    def regress(self, crops: Tensor) -> Found:
        """N×3×512×384 RGB in [0, 1]: the net proper."""
        if crops.shape[1:] != (3, *CROP):
            raise ValueError(f"crops of {tuple(crops.shape[1:])}; give 3×{CROP[0]}×{CROP[1]}")
        features, tokens = self.encoder(crops)
        heat, points = self.body_position_net(features)
        # Half precision, where it is asked for, ends here: it is too coarse for metres and pixels.
        told = self.body_regressor(tokens, points.detach())
        pose, shape, cam = (part.float() for part in told)
        centres, sizes = self.box_net(features, heat.detach())
        boxes = _grown(centres, sizes).detach()  # in tokens
        fingers, hands = self._hands(features, boxes[:, :2])
        rotations = _turns(pose)
        if self.face_regressor is None:
            shape, face = shape.sigmoid(), points[:, :0]
            rotations = torch.cat([rotations, fingers], 1)
        else:
            expression, jaw, face = self._face(features, boxes[:, 2:], tokens)
            shape = torch.cat([shape, expression], 1)
            rotations = torch.cat([rotations, _turns(jaw[:, None]), fingers], 1)
        virtual = torch.cat([cam[:, :2], FARTHEST * cam[:, 2:].sigmoid()], 1)
        whole = boxes.new_tensor([0, 0, GRID[1], GRID[0]])
        return Found(
            rotations,
            shape,
            virtual,
            _placed(points, whole, (GRID[1], GRID[0], DEPTH), WIDE["body"]),
            _placed(hands, boxes[:, :2], (HAND,) * 3, WIDE["hand"]),
            _placed(face, boxes[:, 2], (FACE,) * 3, WIDE["face"]),
            centres * PATCH,
            sizes * PATCH,
            boxes * PATCH,
        )

    def _hands(self, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes N×2×4 → N×30×3×3 rotations, N×2×Q×3 points in bins; left, then right.

        The left hand is mirrored, so that the net knows right hands only.
        """
        cuts = self.hand_roi_net(features, boxes)
        maps = [torch.cat([m[:1].flip(-1), m[1:]]).flatten(0, 1) for m in cuts]  # 2N×C×s×s
        if self.hand_decoder is None:
            seen = maps[0]
            _, points = self.hand_position_net(seen)
        else:
            points, seen = _ask(self.hand_position_net, self.hand_decoder, maps, HAND)
        turns = _turns(self.hand_regressor(seen, points.detach())).unflatten(0, (2, -1))
        left, right = points.unflatten(0, (2, -1))
        x = HAND - 1 - left[..., :1]
        points = torch.stack([torch.cat([x, left[..., 1:]], -1), right], 1)
        flip = turns.new_tensor([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]])  # of a rotation in a mirror
        return torch.cat([turns[0] * flip, turns[1]], 1), points

    def _face(self, features: Tensor, box: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box N×1×4 → N×10 expression, N×6 jaw, N×72×3 points in bins (or N×0×3)."""
        head = self.face_regressor
        assert head is not None
        if self.hand_decoder is None:
            points = features.new_zeros(len(features), 0, 3)
            return head.expr_out(tokens[:, EXPRESSION]), head.jaw_pose_out(tokens[:, JAW]), points
        maps = [m[0] for m in self.face_roi_net(features, box)]
        points, seen = _ask(self.face_position_net, self.face_decoder, maps, FACE)
        seen = head.gather(seen, points.detach(), maps[-1])
        return head.expr_out(seen), head.jaw_pose_out(seen), points

    def assign(self, picture: Tensor, anchor: Tensor, box: Tensor) -> tuple[At, Tensor]:
        """Where true people are looked for, and the indices of those who have a box with area."""
        chosen = torch.where((box[:, 2:] > box[:, :2]).all(1))[0]
        return (picture[chosen], box[chosen]), chosen

    @classmethod
    def describe(cls, state: Mapping[str, Tensor]) -> dict[str, Any] | None:
        """The arguments that build the net of a published checkpoint, or None if it is none."""
        own = cls.renamed(state)
        if "encoder.task_tokens" not in own or "box_net.bbox_center.0.weight" not in own:
            return None
        blocks = {name.split(".")[2] for name in own if name.startswith("encoder.blocks.")}
        return {
            "decoder": any(name.startswith("hand_decoder.") for name in own),
            "width": own["encoder.task_tokens"].shape[2],
            "depth": len(blocks),
            "box_width": own["box_net.bbox_center.0.weight"].shape[1],
        }

    @staticmethod
    def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a published checkpoint by our names."""
        found = {}
        for name, value in state.items():
            for old, new in RELEASED:
                name = re.sub(old, new, name)
            if not re.match(NOT_OURS, name):
                found[name] = value
        return found


RELEASED = (
    (r"^module\.", ""),
    # What older files call them.
    (r"^backbone\.", "encoder."),
    (r"^(body|hand)_rotation_net\.", r"\1_regressor."),
    # The two decoders are models of mmpose there.
    (r"_decoder\.keypoint_head\.transformer\.(decoder\.)?", "_decoder."),
    (r"_decoder\.neck\.convs\.(\d)\.conv\.", r"_decoder.neck.\1.0."),
    (r"_decoder\.neck\.convs\.(\d)\.gn\.", r"_decoder.neck.\1.1."),
    (r"\.attentions\.0\.attn\.", ".attention."),
    (r"\.attentions\.1\.value_proj_(weight|bias)\.weight$", r".deformable.value_\1"),
    (r"\.attentions\.1\.", ".deformable."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".ffn.0."),
    (r"\.ffns\.0\.layers\.1\.", ".ffn.3."),
    (r"_position_net\.(hand|face)_conv\.", "_position_net.features."),
)
NOT_OURS = (
    # The body model, which users have from its authors.
    r"smplx_layer\.|"
    # What the decoders inherit from Poseur and never run: a ResNet-50; flows of a likelihood and
    # branches that would tell coordinates; first guesses, which heat maps give instead.
    r"(hand|face)_decoder\.(backbone\.|keypoint_head\.|fc_|pos_trans)"
)


# ---- functions


def soft_argmax(maps: Tensor) -> tuple[Tensor, Tensor]:
    """N×P×(d×)h×w → softmax over each map, and the mean place N×P×2 or 3: x, y (, z) in bins."""
    heat = maps.flatten(2).float().softmax(-1).unflatten(2, maps.shape[2:])
    axes = range(2, maps.ndim)
    means = []
    for axis in reversed(axes):
        share = heat.sum([other for other in axes if other != axis])
        means.append((share * torch.arange(share.shape[2], device=maps.device)).sum(-1))
    return heat, torch.stack(means, -1)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """N×C×h×w at N×P×2 (or 3) points in pixels whose middles are whole numbers → N×P×C."""
    last = points.new_tensor([*maps.shape[:1:-1]]) - 1
    grid = points[:, :, None, :2] / last * 2 - 1
    return F.grid_sample(maps, grid, align_corners=True)[..., 0].mT


def cut(maps: Tensor, boxes: Tensor, side: int) -> Tensor:
    """N×C×h×w, N×K×4 boxes in pixels → K×N×C×s×s by RoIAlign."""
    count, kinds = boxes.shape[:2]
    index = torch.arange(count, device=maps.device).to(boxes).repeat(kinds)[:, None]
    rois = torch.cat([index, boxes.transpose(0, 1).flatten(0, 1)], 1)
    cuts = roi_align(maps.to(rois.dtype), rois, (side, side))
    return cuts.to(maps.dtype).unflatten(0, (kinds, count))


def _ask(
    net: PositionNet, decoder: Decoder, maps: list[Tensor], bins: int
) -> tuple[Tensor, Tensor]:
    """Points N×P×3 found in the middle one of three maps, and what a decoder sees there N×P×256."""
    _, points = net(maps[1])
    return points, decoder(maps, net.queries(maps[1], points), points.detach()[..., :2] / bins)


def _turns(numbers: Tensor) -> Tensor:
    return from_6d(numbers.float(), "rows")


def _grown(centres: Tensor, sizes: Tensor) -> Tensor:
    """N×3×2 each → squares N×3×4 around them, larger by GROW."""
    half = sizes.amax(-1, keepdim=True) * sizes.new_tensor(GROW)[:, None] / 2
    return torch.cat([centres - half, centres + half], -1)


def _placed(points: Tensor, box: Tensor, bins: tuple[int, int, int], wide: float) -> Tensor:
    """…×P×3 in bins over a box …×4 in tokens → x, y in pixels of the crop, z in metres."""
    parts = points / points.new_tensor(bins)
    corner, size = box[..., None, :2], (box[..., 2:] - box[..., :2])[..., None, :]
    return torch.cat([(corner + parts[..., :2] * size) * PATCH, (parts[..., 2:] - 0.5) * wide], -1)


def _plain(backbone: Backbone) -> VisionTransformer:
    net = backbone.net
    if not isinstance(net, VisionTransformer) or not isinstance(net.patch_embed, PatchEmbed):
        raise ValueError(
            f"backbone {backbone.name} is no plain ViT, so it takes no task tokens; use one such as"
            " vit_small_patch16_224 or vit_small_patch14_dinov2"
        )
    if backbone.frozen:
        raise ValueError(
            f"backbone {backbone.name} is frozen, but has to learn what task tokens are; give"
            " frozen=False"
        )
    return net


def _linear(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(widths[i], widths[i + 1])]
    return nn.Sequential(*layers)


def _conv(width: int, wanted: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width, wanted, 1), nn.BatchNorm2d(wanted), nn.ReLU())


def _deconv(*widths: int) -> nn.Sequential:
    """Twice as large for each step."""
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layer = nn.ConvTranspose2d(widths[i], widths[i + 1], 4, 2, 1, bias=False)
        layers += [layer, nn.BatchNorm2d(widths[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers)
