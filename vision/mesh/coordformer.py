"""CoordFormer: the people of a clip, all of them and all its frames in one pass.

Li et al., "Coordinate Transformer: Achieving Single-stage Multi-person Mesh Recovery from Videos"
(ICCV 2023, arXiv 2308.10334). Nobody is detected, cropped and tracked first: parameters of bodies
are computed as maps, and read where the map of centres has a peak.

    frames → backbone → features ─┬→ centres ──┐
                                  └──── × ─────┴→ transformer of each frame ─┬→ maps → people
                                                → transformer of the clip ───┘

The paper does not give the formula of its Coordinate-Aware Attention (CAA), and its code is not
usable; ours, and what else is ours, is marked so.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from vision.backbones import Backbone
from vision.body.camera import intrinsics, unproject
from vision.body.rotations import from_6d
from vision.body.smpl import BODY
from vision.mesh.grid import Cells, assign, peaks
from vision.mesh.people import MeshSpec, People

COORDINATES = 8  # numbers of a head that carry them
OUTSIDE = -1e4  # in place of −∞, which half precision could not multiply
ANNY = (0.5, 2 / 3, 0.5, 0.5, 0.5, 0.5)  # an average adult
BETAS = 10  # of SMPL-X
METRES = 4.0  # from the camera, before anything is learned


class CoordinateAwareAttention(nn.Module):
    """CAA (ours): each pixel attends to those around it, by content and by where and when they are.

    A pixel is at p = (x, y), in parts of the picture, in a frame at t, in parts of a full clip. The
    weight of pixel j for pixel i is a softmax over j of

        q_i·k_j/√c  −  α |p_j − p_i − s_i|²                          in one frame,
        q_i·k_j/√c  −  α |p_j − p_i − s_i (t_j − t_i)|²  −  β (t_j − t_i)²    over the clip.

    Content times a bell around the place where the query looks. q, k and the shift s come from the
    features of the pixel, so over the clip s is a velocity: the bell follows who moves. Each head
    learns its α and β. The bell is a polynomial in the coordinates of j, so these ride in queries
    and keys: eight numbers of a head are

        k_j  |p|²   x, y    x·t, y·t   t                 t²             outside
        q_i  −α     2αa     2αs        2(βt_i − αa·s)    −(β + α|s|²)   −10⁴

    with a = p_i + s_i in one frame and a = p_i − s_i t_i over the clip. The eighth takes away keys
    outside the picture. What is left is plain attention, and fused kernels apply.

    Queries of a tile attend to the tile and to `reach` cells around it, in all frames. Hence a cost
    linear in the pixels, T² in the frames, and a person further away has no weight at all: that is
    wanted, for one who moves must not move another. Far context is the backbone's business.
    Coordinates count from the middle of the tile, which changes no difference and keeps them small
    enough for half precision.

    Args:
        dim: channels.
        heads: parts of them that attend apart.
        frames: of a full clip.
        tile, reach: in cells; a side of the map is a multiple of the tile.
        over_time: whether to attend to all frames.
    """

    def __init__(
        self, dim: int, heads: int, frames: int, tile: int, reach: int, over_time: bool
    ) -> None:
        super().__init__()
        self.heads, self.frames, self.over_time = heads, frames, over_time
        self.tile, self.reach = tile, reach
        self.content = dim // heads - COORDINATES
        self.query = nn.Linear(dim, heads * (self.content + 2))  # and the shift
        # No bias: it would add the same to all scores of a query.
        self.key = nn.Linear(dim, heads * self.content, bias=False)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        # Logarithms of the bells' widths, in cells and in clips. To begin with, the heads look at
        # all sizes from a cell to what is within reach, and at the whole clip.
        self.width = nn.Parameter(torch.logspace(0, 1, heads, base=float(tile + reach)).log())
        if over_time:
            self.duration = nn.Parameter(torch.zeros(heads))

    def forward(self, x: Tensor) -> Tensor:
        """B×T×H×W×C → the same. T is 1 unless `over_time`."""
        seen = torch.cat([self.key(x), self.value(x), torch.ones_like(x[..., :1])], -1)
        seen = self._tiles(seen, self.reach)  # N×S×…, S = T·(tile + 2·reach)²
        sizes = [self.key.out_features, self.value.out_features, 1]
        k, v, inside = seen.split(sizes, -1)
        q = self._heads(self._tiles(self.query(x), 0))  # N×heads×L×(c+2), L = T·tile²
        q, shift = q.split([self.content, 2], -1)
        q = torch.cat([q * self.content**-0.5, self._query_coordinates(shift, x)], -1)
        k = torch.cat([self._heads(k), self._key_coordinates(inside, x)], -1)
        y = F.scaled_dot_product_attention(q, k, self._heads(v), scale=1.0)  # N×heads×L×d
        y = y.transpose(1, 2).flatten(2)  # N×L×C
        batch, frames, height, width, dim = x.shape
        n, m, side = height // self.tile, width // self.tile, self.tile
        y = y.reshape(batch, n, m, frames, side, side, dim).permute(0, 3, 1, 4, 2, 5, 6)
        return self.out(y.reshape(x.shape))

    def _query_coordinates(self, shift: Tensor, x: Tensor) -> Tensor:
        """N×heads×L×8, of the shifts N×heads×L×2 before they are bounded."""
        p, t = self._coordinates(x, 0)
        alpha = 0.5 * (-2 * (self.width - math.log(x.shape[2]))).exp()[:, None, None]
        shift = self.reach / x.shape[2] * shift.tanh()  # what lies further cannot be seen
        if self.over_time:
            beta = 0.5 * (-2 * self.duration).exp()[:, None, None]
            a, speed = p - shift * t, shift
        else:
            beta = torch.zeros_like(alpha)
            a, speed = p + shift, torch.zeros_like(shift)
        along = 2 * (beta * t - alpha * (a * speed).sum(-1, keepdim=True))
        square = -beta - alpha * speed.square().sum(-1, keepdim=True)
        one = torch.ones_like(along)
        parts = [-alpha * one, 2 * alpha * a, 2 * alpha * speed, along, square, OUTSIDE * one]
        return torch.cat(parts, -1)

    def _key_coordinates(self, inside: Tensor, x: Tensor) -> Tensor:
        """N×heads×S×8, of N×S×1 that is 0 outside the picture."""
        p, t = self._coordinates(x, self.reach)
        fixed = torch.cat([p.square().sum(-1, keepdim=True), p, p * t, t, t * t], -1)  # S×7
        parts = torch.cat([fixed.to(inside.dtype).expand(len(inside), -1, -1), 1 - inside], -1)
        return parts[:, None].expand(-1, self.heads, -1, -1)

    def _coordinates(self, x: Tensor, reach: int) -> tuple[Tensor, Tensor]:
        """(T·s²)×2 places and (T·s²)×1 times, from the middle of a tile and of the frames."""
        side, frames = self.tile + 2 * reach, x.shape[1]
        axis = (torch.arange(side, device=x.device) - (side - 1) / 2) / x.shape[2]
        times = (torch.arange(frames, device=x.device) - (frames - 1) / 2) / self.frames
        t, row, column = torch.meshgrid(times, axis, axis, indexing="ij")
        return torch.stack([column, row], -1).flatten(0, 2), t.flatten()[:, None]

    def _tiles(self, x: Tensor, reach: int) -> Tensor:
        """B×T×H×W×C → (B·n·m)×(T·s²)×C: n·m tiles and `reach` cells around each, 0 outside."""
        side = self.tile + 2 * reach
        x = F.pad(x, (0, 0, reach, reach, reach, reach))
        x = x.unfold(2, side, self.tile).unfold(3, side, self.tile)  # B×T×n×m×C×s×s
        return x.permute(0, 2, 3, 1, 5, 6, 4).flatten(3, 5).flatten(0, 2)

    def _heads(self, x: Tensor) -> Tensor:
        """N×L×(heads·d) → N×heads×L×d."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Layer(nn.Module):
    """CAA → add and norm → FFN → add and norm."""

    def __init__(
        self, dim: int, heads: int, frames: int, mlp: int, tile: int, reach: int, over_time: bool
    ) -> None:
        super().__init__()
        self.attention = CoordinateAwareAttention(dim, heads, frames, tile, reach, over_time)
        self.ffn = nn.Sequential(nn.Linear(dim, mlp), nn.GELU(), nn.Linear(mlp, dim))
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """B×T×H×W×C → the same."""
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.ffn(x))


class SpatialTemporalDecoder(nn.Module):
    """A transformer within each frame, one over the clip; what they give is joined.

    Without the second, each frame is on its own.
    """

    def __init__(
        self, dim: int, heads: int, frames: int, mlp: int, depth: int, temporal: bool, tile: int,
        reach: int,
    ) -> None:  # fmt: skip
        super().__init__()
        sizes = (dim, heads, frames, mlp, tile, reach)
        self.space = nn.Sequential(*(Layer(*sizes, over_time=False) for _ in range(depth)))
        self.time = nn.Sequential(*(Layer(*sizes, over_time=True) for _ in range(depth * temporal)))
        self.width = dim * (1 + temporal)
        self.temporal = temporal

    def forward(self, x: Tensor) -> Tensor:
        """B×T×H×W×C → B×T×H×W×`width`."""
        space = self.space(x.flatten(0, 1)[:, None]).view_as(x)  # each frame a clip of its own
        return torch.cat([space, self.time(x)], -1) if self.temporal else space


class Features(nn.Module):
    """Four maps of the backbone as one, with two maps of coordinates (ROMP's).

    Of a pyramid the last four, strides 4 to 32 in timm's; of a plain ViT four blocks from its
    middle to its end. The paper takes what its backbones give. Ours takes any of timm's: a 1×1
    convolution for each map, a sum at the size of the grid, and a 3×3 convolution.
    """

    def __init__(self, backbone: Backbone, dim: int, grid: int) -> None:
        super().__init__()
        self.backbone, self.grid = backbone, grid
        count = backbone.blocks
        last = range(max(0, count - 4), count)
        plain = count >= 6 and len(set(backbone.channels)) == 1
        self.blocks = [count * part // 6 - 1 for part in (3, 4, 5, 6)] if plain else [*last]
        self.lateral = nn.ModuleList(nn.Conv2d(backbone.channels[b], dim, 1) for b in self.blocks)
        # Norms over channels alone: over the picture, they would tie people to each other.
        self.fuse = nn.Sequential(nn.Conv2d(dim + 2, dim, 3, padding=1), LayerNorm2d(dim))

    def forward(self, images: Tensor) -> Tensor:
        """B×3×S×S RGB in [0, 1] → B×dim×grid×grid."""
        side = images.shape[-1] // self.backbone.patch
        maps = self.backbone.pyramid(self.backbone.prepare(images, side), self.blocks)
        levels = [self._resized(conv(x)) for conv, x in zip(self.lateral, maps, strict=True)]
        axis = torch.linspace(-1, 1, self.grid, dtype=levels[0].dtype, device=images.device)
        x, y = torch.meshgrid(axis, axis, indexing="xy")
        coordinates = torch.stack([x, y]).expand(len(images), -1, -1, -1)  # B×2×grid×grid
        return F.gelu(self.fuse(torch.cat([torch.stack(levels).sum(0), coordinates], 1)))

    def _resized(self, x: Tensor) -> Tensor:
        mode = "area" if x.shape[-1] > self.grid else "bilinear"
        return F.interpolate(x, (self.grid, self.grid), mode=mode)


class ClipPeople(NamedTuple):
    """What the net gives, and what its losses need.

    Attributes:
        people: N of them; `People.picture` counts frames, one clip after another.
        heat: B·T×grid×grid, logits of the centres.
        at: the cells that the people were read from.
        pixels: N×2, where in the picture their pelvis is.
        log_depth: N, the logarithm of the depth in metres, were the picture of 60°.
    """

    people: People
    heat: Tensor
    at: Cells
    pixels: Tensor
    log_depth: Tensor


class CoordFormer(nn.Module):
    """Clips in, the people of all their frames out.

    A person is read from the cell that the pelvis is in. Rotations begin at rest, with the whole
    body standing and looking into the camera, and the shape begins at the average. Place (ours, for
    cameras that are known; ROMP gives a weak perspective): the pelvis lies at a learned offset from
    the middle of its cell, and as deep as exp(number) metres times the focal length over that of
    60°, Multi-HMR's. So a number means the same size in the picture under every camera.

    Defaults are the published sizes. Ours are tile and reach: a layer sees 2 to 5 cells of 8 pixels
    around a pixel, two layers twice that.

    Args:
        backbone: any pyramid of timm (HRNet, ResNet, ConvNeXt); None: HRNet-32, not pretrained. To
            begin with ImageNet's weights, give one with weights `auto`.
        frames: of a full clip; shorter ones will do.
        size: of the pictures, a multiple of the backbone's last stride.
        grid: cells a side of all maps, a multiple of the tile.
        body, shape: the body model, and how many numbers its shape has: 6 of Anny, in [0, 1]; betas
            of SMPL; of SMPL-X 10 betas and, beyond these, expressions.
        dim, heads, depth, mlp: of the transformers.
        temporal: whether there is one over the clip; without it every frame is on its own.
        tile, reach: cells that attend together, and how many around them they see.

    Raises:
        ValueError: sizes that do not fit each other, a body that is unknown.
    """

    start: Tensor

    def __init__(
        self,
        backbone: Backbone | None = None,
        frames: int = 8,
        size: int = 512,
        grid: int = 64,
        body: Literal["anny", "smplx", "smpl"] = "smpl",
        shape: int = 10,
        dim: int = 256,
        heads: int = 8,
        depth: int = 2,
        mlp: int = 1024,
        temporal: bool = True,
        tile: int = 4,
        reach: int = 2,
    ) -> None:
        super().__init__()
        backbone = backbone or Backbone("hrnet_w32", "none", frozen=False)
        right = {"anny": shape == len(ANNY), "smplx": shape >= BETAS, "smpl": shape > 0}
        if not right.get(body, False):
            raise ValueError(
                f"body={body}, shape={shape}: give anny and 6, smpl and 10, or smplx and 10, 20"
                " with expressions"
            )
        if size % backbone.patch:
            raise ValueError(f"size={size}: give a multiple of {backbone.name}'s {backbone.patch}")
        if grid % tile or reach < 1:
            raise ValueError(
                f"grid={grid}, tile={tile}, reach={reach}: give a grid that the tile divides, and a"
                " reach of 1 or more"
            )
        if dim % heads or dim // heads <= COORDINATES:
            raise ValueError(f"dim={dim}: give heads={heads} more than {COORDINATES} channels each")
        self.grid, self.shape, self.bounded = grid, shape, body == "anny"
        betas = BETAS if body == "smplx" else shape
        self.spec = MeshSpec(
            body, BODY, "clips", (size, size), "pelvis", frames, betas=betas,
            expressions=shape - betas,
        )  # fmt: skip
        self.features = Features(backbone, dim, grid)
        self.centre = nn.Sequential(nn.Conv2d(dim, dim, 3, padding=1), nn.GELU())
        self.heat = nn.Conv2d(dim, 1, 1)
        self.decoder = SpatialTemporalDecoder(dim, heads, frames, mlp, depth, temporal, tile, reach)
        start = _start(torch.tensor(ANNY).logit() if self.bounded else torch.zeros(shape))
        self.register_buffer("start", start, persistent=False)
        self.numbers = nn.Linear(self.decoder.width, len(start))
        nn.init.xavier_uniform_(self.numbers.weight, gain=0.01)  # near the start, not at it
        nn.init.zeros_(self.numbers.bias)
        assert self.heat.bias is not None
        nn.init.constant_(self.heat.bias, -2.2)  # a chance of 0.1, before anything is learned
        self.to(memory_format=torch.channels_last)

    def forward(
        self, clips: Tensor, camera: Tensor, at: Cells | None = None, threshold: float = 0.2
    ) -> ClipPeople:
        """Find people, or read them from cells that are given.

        Args:
            clips: B×T×3×S×S RGB in [0, 1], T from 1 to `frames`, S the size.
            camera: B×3×3 or B×T×3×3 intrinsics K in pixels of these pictures.
            at: picture (of B·T), row and column of people, as `assign` gives them.
            threshold: of the score, where `at` is not given.

        Raises:
            ValueError: another size, too many frames, cameras or cells of another shape.
        """
        self._check(clips, camera, at)
        batch, frames = clips.shape[:2]
        features = self.features(clips.flatten(0, 1))  # B·T×C×grid×grid
        heat = self.heat(self.centre(features))
        centred = features * heat.sigmoid()  # Body Center Attention
        centred = centred.unflatten(0, (batch, frames)).movedim(2, -1)
        maps = self.decoder(centred).flatten(0, 1)  # B·T×grid×grid×C
        heat = heat[:, 0].float()
        if camera.ndim == 3:
            camera = camera[:, None].expand(-1, frames, -1, -1)
        at = peaks(heat.detach().sigmoid(), threshold, kernel=5, most=64) if at is None else at
        return self._read(maps, heat, camera.flatten(0, 1), at)

    def _read(self, maps: Tensor, heat: Tensor, camera: Tensor, at: Cells) -> ClipPeople:
        """People at cells of maps B·T×grid×grid×C and B·T×grid×grid, of cameras B·T×3×3."""
        # A 1×1 convolution at a cell is the same before and after the cell is read.
        numbers = self.start + self.numbers(maps[at]).float()
        turns, shape, offset, depth = numbers.split([6 * len(BODY), self.shape, 2, 1], 1)
        picture, row, column = at
        pixels = (torch.stack([column, row], 1) + 0.5 + offset) * (self.spec.size[0] / self.grid)
        camera = camera[picture].float()  # N×3×3
        metres = depth[:, 0].exp() * camera[:, 0, 0] / intrinsics(*self.spec.size)[0, 0]
        people = People(
            picture,
            heat[at].sigmoid(),
            from_6d(turns.unflatten(1, (-1, 6))),
            shape.sigmoid() if self.bounded else shape,
            unproject(pixels[:, None], metres[:, None], camera)[:, 0],
        )
        return ClipPeople(people, heat, at, pixels, depth[:, 0])

    def assign(self, picture: Tensor, anchor: Tensor, box: Tensor) -> tuple[Cells, Tensor]:
        """Which cells true people are to be read from.

        Args:
            picture: int64 N, of B·T.
            anchor: N×2, where the pelvis is, in pixels.
            box: N×4 pixels: left, top, right, bottom.

        Returns:
            Cells of M people, and int64 M, who they are. Whose pelvis lies outside the picture is
            left out; of several in a cell, the one with the largest box stays.
        """
        return assign(picture, anchor, box, self.grid, self.spec.size[0] / self.grid)

    def depth_number(self, depth: Tensor, camera: Tensor) -> Tensor:
        """What `ClipPeople.log_depth` is for pelvises N metres away under N×3×3 intrinsics."""
        return (depth * intrinsics(*self.spec.size)[0, 0] / camera[:, 0, 0]).log()

    def _check(self, clips: Tensor, camera: Tensor, at: Cells | None) -> None:
        size, frames = self.spec.size[0], self.spec.frames
        if clips.shape[2:] != (3, size, size) or not 1 <= clips.shape[1] <= frames:
            raise ValueError(
                f"clips of shape {[*clips.shape]}: give B×T×3×{size}×{size}, T from 1 to {frames},"
                " or build the net with another size or more frames"
            )
        if camera.shape not in ((len(clips), 3, 3), (*clips.shape[:2], 3, 3)):
            raise ValueError(
                f"camera of shape {[*camera.shape]}: give 3×3 intrinsics for each of {len(clips)}"
                " clips, or for each of their frames"
            )
        if at is not None and not (
            len(at) == 3
            and all(part.dtype == torch.int64 and part.ndim == 1 for part in at)
            and len({len(part) for part in at}) == 1
        ):
            raise ValueError("at: give picture, row and column, three int64 tensors of one length")


def _start(shape: Tensor) -> Tensor:
    """What the numbers of a person are before anything is learned: rotations, shape, camera."""
    root = torch.tensor([1.0, 0, 0, 0, -1, 0])  # by half around x
    rest = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(len(BODY) - 1)
    return torch.cat([root, rest, shape, torch.tensor([0.0, 0, math.log(METRES)])])
