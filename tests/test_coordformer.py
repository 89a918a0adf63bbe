"""CoordFormer: its attention by the formula, who sees whom, cost, places, clips, wrong calls."""

from __future__ import annotations

import math

import pytest
import torch
from jsonargparse import ArgumentParser
from nets import shaken, without_gradient
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vision.backbones import Backbone
from vision.body import Anny
from vision.body.camera import intrinsics, project
from vision.body.smpl import BODY
from vision.mesh import CoordFormer
from vision.mesh.coordformer import CoordinateAwareAttention, SpatialTemporalDecoder

SIZE, GRID, FRAMES = 64, 16, 4
AT = tuple(torch.tensor(part) for part in ([0, 1, 1], [3, 4, 9], [5, 6, 2]))
CAMERA = intrinsics(SIZE, SIZE)


def tiny(backbone: Backbone | None = None, **other: object) -> CoordFormer:
    torch.manual_seed(0)
    backbone = backbone or Backbone("resnet18", "none", frozen=False)
    sizes = {"frames": FRAMES, "size": SIZE, "grid": GRID, "dim": 32, "heads": 2, "mlp": 48}
    return CoordFormer(backbone, **{**sizes, "depth": 1, **other}).eval()


@pytest.fixture(scope="module")
def net() -> CoordFormer:
    return shaken(tiny())


def clip(frames: int = FRAMES, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, frames, 3, SIZE, SIZE, generator=generator)


def cameras(count: int = 1) -> Tensor:
    return CAMERA.expand(count, 3, 3)


def decoder(temporal: bool = True) -> SpatialTemporalDecoder:
    torch.manual_seed(0)
    sizes = {"dim": 32, "heads": 2, "frames": FRAMES, "mlp": 48, "depth": 2, "tile": 4, "reach": 2}
    return shaken(SpatialTemporalDecoder(**sizes, temporal=temporal)).eval()


@pytest.mark.parametrize(
    ("name", "body", "shape"), [("resnet18", "smpl", 10), ("convnext_atto", "anny", 6)]
)
@torch.no_grad()
def test_shapes(name: str, body: str, shape: int) -> None:
    net = tiny(Backbone(name, "none", frozen=False), body=body, shape=shape)
    for frames in (1, 3):
        found = net(clip(frames, 2), cameras(2), AT)
        sizes = [tuple(field.shape) for field in found.people]
        assert sizes == [(3,), (3,), (3, 22, 3, 3), (3, shape), (3, 3)]
        assert found.heat.shape == (2 * frames, GRID, GRID)
        assert found.pixels.shape == (3, 2)
        assert found.log_depth.shape == (3,)
        assert all(field.isfinite().all() for field in found.people)
    assert (net.spec.reads, net.spec.frames, net.spec.joints) == ("clips", FRAMES, BODY)


@pytest.mark.parametrize(
    ("body", "shape", "told"),
    [("smpl", 10, (10, 0)), ("smpl", 16, (16, 0)), ("smplx", 10, (10, 0)), ("smplx", 20, (10, 10))],
)
def test_its_shapes_are_betas_and_then_expressions(
    net: CoordFormer, body: str, shape: int, told: tuple[int, int]
) -> None:
    spec = tiny(net.features.backbone, body=body, shape=shape).spec
    assert (spec.betas, spec.expressions) == told


@pytest.mark.slow
def test_every_parameter_gets_a_gradient() -> None:
    net = shaken(tiny()).train()
    found = net(clip(), cameras(), AT)
    people = found.people
    (people.rotations[..., 0].sum() + people.shape.sum() + people.place.sum()).backward()
    # The centres learn from the people too, and the heatmap multiplies the features.
    assert without_gradient(net) == []


@pytest.mark.parametrize("over_time", [False, True])
@torch.no_grad()
def test_attention_is_the_formula(over_time: bool) -> None:
    """Every query against every key, by the sum in the docstring."""
    side, frames, heads = 8, FRAMES - 1 if over_time else 1, 2
    caa = shaken(CoordinateAwareAttention(32, heads, FRAMES, 4, 2, over_time))
    caa.query.weight *= 3
    x = torch.randn(1, frames, side, side, 32)
    t, row, column = torch.meshgrid(*map(torch.arange, (frames, side, side)), indexing="ij")
    cell, time = torch.stack([column, row], -1).flatten(0, 2), t.flatten()
    p, t = cell / side, time / FRAMES
    query, shift = caa.query(x).view(-1, heads, 10).split([8, 2], -1)
    key, value = caa.key(x).view(-1, heads, 8), caa.value(x).view(-1, heads, 16)
    lag = (t - t[:, None])[..., None, None] if over_time else torch.tensor(1.0)
    aim = p[:, None, None] + lag * (caa.reach / side * shift.tanh())[:, None]  # i×j×heads×2
    distance = (p[None, :, None] - aim).square().sum(-1)
    scores = torch.einsum("ihc,jhc->ijh", query, key) / math.sqrt(8)
    scores -= distance / (2 * (caa.width.exp() / side) ** 2)
    if over_time:
        scores -= lag[..., 0] ** 2 / (2 * caa.duration.exp() ** 2)
    first = cell // 4 * 4  # of the query's tile
    near = ((cell >= first[:, None] - 2) & (cell < first[:, None] + 6)).all(-1)
    weights = scores.masked_fill(~near[..., None], -math.inf).softmax(1)
    wanted = caa.out(torch.einsum("ijh,jhd->ihd", weights, value).flatten(1)).view_as(x)
    torch.testing.assert_close(caa(x), wanted, atol=1e-5, rtol=1e-4)


def person(row: int, column: int, seed: int) -> Tensor:
    """A clip of features, 1×T×32×32×C, that are 0 but for a blob that stands still."""
    x = torch.zeros(1, FRAMES, 32, 32, 32)
    generator = torch.Generator().manual_seed(seed)
    x[:, :, row - 1 : row + 2, column - 1 : column + 2] = torch.randn(32, generator=generator)
    return x


@pytest.mark.slow
@torch.no_grad()
def test_who_moves_moves_nobody_else() -> None:
    net, still = decoder(), person(6, 6, seed=1)
    before, after = (net(still + person(24, column, seed=2)) for column in (22, 26))
    moved = (before - after).abs()
    assert moved[:, :, 23:26, 21:28].mean() > 0.1
    assert moved[:, :, :12, :12].max() == 0  # exactly: out of reach of both layers
    # Nearer, where tiles reach each other, they see each other, but much less than themselves.
    before, after = (net(still + person(6, column, seed=2)) for column in (12, 14))
    moved = (before - after).abs()
    assert moved[:, :, 6, 6].mean() < 0.1 * moved[:, :, 6, 12].mean()


@torch.no_grad()
def test_in_a_picture_who_moves_moves_others_little(net: CoordFormer) -> None:
    """A random backbone sees the whole picture a little, so here is a bound and no zero."""
    image = torch.full((1, FRAMES, 3, SIZE, SIZE), 0.5)
    patch = torch.rand(3, 12, 8, generator=torch.Generator().manual_seed(0))
    image[..., 2:14, 2:10] = patch
    before, after = image.clone(), image.clone()
    before[..., 48:60, 40:48] = patch.flip(0)
    after[..., 48:60, 52:60] = patch.flip(0)
    at = tuple(torch.tensor(part) for part in ([0, 0], [2, 13], [1, 11]))  # the still, the moved
    one, two = (net(images, cameras(), at).people for images in (before, after))
    still, moved = (one.rotations - two.rotations).abs().flatten(1).mean(1)
    assert still < 0.25 * moved


@torch.no_grad()
def test_frames_see_each_other_only_with_the_temporal_transformer() -> None:
    x = person(8, 8, seed=1)
    changed = x.clone()
    changed[:, -1] = person(8, 10, seed=1)[:, -1]  # moves on in the last frame
    for temporal in (False, True):
        net = decoder(temporal)
        moved = (net(x) - net(changed)).abs()[:, 0]
        assert net(x).shape[-1] == net.width == (64 if temporal else 32)
        assert (moved.max() > 1e-3) == temporal
        assert moved[..., :32].max() == 0  # the half from each frame alone


@torch.no_grad()
def test_a_clip_without_the_temporal_transformer_is_its_frames(net: CoordFormer) -> None:
    net, images = shaken(tiny(net.features.backbone, temporal=False)), clip(3)
    at = (torch.arange(3), torch.tensor([3, 8, 9]), torch.tensor([4, 1, 15]))
    whole = net(images, cameras(), at).people
    alone = net(images[0, :, None], cameras(3), at).people
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-4)


def operations(net: torch.nn.Module, *given: object) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        net(*given)
    return counter.get_total_flops()


def test_cost_is_linear_in_the_pixels() -> None:
    small, large = (
        operations(decoder(), torch.zeros(1, FRAMES, side, side, 32)) for side in (16, 32)
    )
    assert large == 4 * small


def test_cost_hardly_grows_with_people(net: CoordFormer) -> None:
    one, many = (
        operations(net, clip(), cameras(), tuple(part[:1].repeat(count) for part in AT))
        for count in (1, 64)
    )
    assert one < many < 1.02 * one


@torch.no_grad()
def test_nobody_and_sixty(net: CoordFormer) -> None:
    nobody = net(clip(), cameras(), threshold=1.0).people
    assert [len(field) for field in nobody] == [0] * 5
    cells = torch.cartesian_prod(torch.arange(2), torch.arange(0, 16, 2), torch.arange(0, 16, 4))
    sixty = net(clip(), cameras(), tuple(cells[:60].T)).people
    assert sixty.place.shape == (60, 3)
    assert all(field.isfinite().all() for field in sixty)


@torch.no_grad()
def test_of_a_crowd_64_are_found_and_none_beside_a_higher_one(
    net: CoordFormer, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tiny(net.features.backbone, grid=32)
    heat = torch.full((1, 1, 32, 32), -6.0)
    heat[..., 1::3, 1::3] = torch.linspace(-1.3, 3, 121).view(11, 11)  # all above 0.2
    heat[..., 30, 31] = -1.0  # beside the highest
    monkeypatch.setattr(net.heat, "forward", lambda _: heat)
    people, _, (_, row, column), *_ = net(clip(1), cameras())
    assert len(people.score) == 64
    assert people.score.min() >= heat[..., 1::3, 1::3].sigmoid().flatten().sort().values[-64]
    assert ((row % 3 == 1) & (column % 3 == 1)).all()
    few = net(clip(1), cameras(), threshold=0.95).people.score  # logits above 2.944
    torch.testing.assert_close(few, torch.tensor([3 - 4.3 / 120, 3.0]).sigmoid())


@torch.no_grad()
def test_the_same_again(net: CoordFormer) -> None:
    one, two = (net(clip(), cameras(), threshold=0.0) for _ in range(2))
    assert len(one.people.score) > 0
    torch.testing.assert_close(one, two, atol=0, rtol=0)


@torch.no_grad()
def test_places_project_to_their_pixels_under_any_camera(net: CoordFormer) -> None:
    near = net(clip(), cameras(), AT)
    log = near.log_depth.exp()
    torch.testing.assert_close(near.people.place[:, 2], log)
    camera = torch.stack([intrinsics(SIZE, SIZE, focal=f) for f in (80.0, 200.0, 50.0, 60.0)])
    found = net(clip(), camera[None], AT)  # one for each frame
    owners = camera[AT[0]]
    seen = project(found.people.place[:, None], owners)[:, 0]
    torch.testing.assert_close(seen, found.pixels, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.people.place[:, 2], log * owners[:, 0, 0] / CAMERA[0, 0])


@torch.no_grad()
def test_it_starts_from_an_average_person_who_looks_here(net: CoordFormer) -> None:
    net = tiny(net.features.backbone, body="anny", shape=6)
    net.numbers.weight.zero_()
    found = net(clip(), cameras(), AT)
    root, *others = found.people.rotations[0]
    torch.testing.assert_close(root, torch.diag(torch.tensor([1.0, -1, -1])))
    torch.testing.assert_close(torch.stack(others), torch.eye(3).expand(21, 3, 3))
    torch.testing.assert_close(found.people.shape[0], Anny().neutral_shape)
    middles = torch.stack([AT[2], AT[1]], 1) * 4.0 + 2
    torch.testing.assert_close(found.pixels, middles)


def test_true_people_get_cells(net: CoordFormer) -> None:
    anchor = torch.tensor([[33.0, 2], [5, 63.9], [34, 3], [64, 3], [34, 1], [3, -0.1]])
    side = torch.tensor([4.0, 9, 8, 9, 2, 9])[:, None]
    box = torch.cat([anchor - side, anchor + side], 1)
    picture = torch.tensor([0, 0, 0, 0, 1, 1])
    at, kept = net.assign(picture, anchor, box)
    assert kept.tolist() == [1, 2, 4]  # 0 shares the cell of 2, 3 and 5 are outside
    assert [part.tolist() for part in at] == [[0, 0, 1], [15, 0, 0], [1, 8, 8]]
    at, kept = net.assign(picture[3:4], anchor[3:4], box[3:4])
    assert len(kept) == 0
    assert len(net(clip(), cameras(), at).people.score) == 0


def test_wrong_calls_name_the_cure(net: CoordFormer) -> None:
    calls = {
        r"give B×T×3×64×64, T from 1 to 4": (clip()[..., :32], cameras()),
        r"clips of shape \[1, 5, 3, 64, 64\]": (clip(5), cameras()),
        r"give 3×3 intrinsics for each of 1 clips": (clip(), cameras(2)),
        r"give picture, row and column": (clip(), cameras(), AT[:2]),
        r"three int64 tensors": (clip(), cameras(), tuple(part.float() for part in AT)),
    }
    for message, given in calls.items():
        with pytest.raises(ValueError, match=message):
            net(*given)
    for message, given in {
        "body=star, shape=10: give anny and 6": {"body": "star"},
        "body=anny, shape=10: give anny and 6": {"body": "anny"},
        "body=smplx, shape=9: .* smplx and 10, 20 with expressions": {"body": "smplx", "shape": 9},
        "size=100: give a multiple of resnet18's 32": {"size": 100},
        "give a grid that the tile divides": {"grid": 15},
        "give heads=4 more than 8 channels each": {"heads": 4},
    }.items():
        with pytest.raises(ValueError, match=message):
            tiny(net.features.backbone, **given)


def test_a_recipe_builds_it() -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--net", type=torch.nn.Module)
    backbone = {"name": "resnet18", "weights": "none", "frozen": False}
    given = {
        "class_path": "vision.mesh.CoordFormer",
        "init_args": {
            "backbone": {"class_path": "vision.backbones.Backbone", "init_args": backbone},
            **{"size": SIZE, "grid": GRID, "dim": 32, "heads": 2, "temporal": False},
        },
    }
    net = parser.instantiate_classes(parser.parse_object({"net": given})).net
    assert isinstance(net, CoordFormer)
    assert net.spec.size == (SIZE, SIZE)


@pytest.mark.slow
def test_the_published_size() -> None:
    net = CoordFormer()
    sizes = [p.numel() for name, p in net.named_parameters() if "backbone" not in name]
    assert sum(sizes) == 4_795_650
