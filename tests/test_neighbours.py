"""Distances to the features of good pictures: the gate, several grids, passes, wrong parameters."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectors import DetectorContract, assert_equal, inputs_of, pictures, tiny_vit
from torchvision.transforms.functional import InterpolationMode, rotate

from vision.anomaly import EAR, AttentionMask, Detector, FeatureNeighbours
from vision.anomaly.neighbours import FOLDS, unit_vectors


def share(keep: float) -> AttentionMask:
    return AttentionMask(rule="quantile", keep=keep, smooth=0, min_tokens=0)


def neighbours(keep: float = 1, **options: Any) -> FeatureNeighbours:
    return FeatureNeighbours(
        tiny_vit(), **{"grids": [4], "size": 64, "gate": share(keep)} | options
    )


class TestNeighbours(DetectorContract):
    def make(self) -> Detector:
        return neighbours(0.5, blocks=(6, -1), capacity=20)


class TestNeighboursAtTwoScales(DetectorContract):
    def make(self) -> Detector:
        return neighbours(0.5, grids=(4, 6), whiten=0.5, relative=True, pool=3)


def test_unit_vectors_give_each_block_the_same_say() -> None:
    loud, quiet = 100 * torch.randn(2, 5, 3, 3), torch.randn(2, 7, 3, 3)
    joined = unit_vectors([loud, quiet])
    assert joined.shape == (2, 9, 12)
    halves = (joined[..., :5].norm(dim=-1), joined[..., 5:].norm(dim=-1))
    for half in halves:
        torch.testing.assert_close(half, torch.full((2, 9), 0.5**0.5))
    torch.testing.assert_close(joined[1, 5, :5], F.normalize(loud[1, :, 1, 2], dim=0) / 2**0.5)


def test_pooled_vectors_are_the_mean_direction_of_what_lies_around() -> None:
    features = torch.randn(1, 5, 4, 4)
    units = F.normalize(features, dim=1)
    pooled = unit_vectors([features], pool=3).view(4, 4, 5)
    inner = F.normalize(units[0, :, 0:3, 1:4].mean((1, 2)), dim=0)
    corner = F.normalize(units[0, :, :2, :2].mean((1, 2)), dim=0)
    torch.testing.assert_close(pooled[1, 2], inner)
    torch.testing.assert_close(pooled[0, 0], corner)
    with pytest.raises(ValueError, match="pool=2: a square around a token has an odd side"):
        neighbours(pool=2)


@torch.no_grad()
def test_remembered_pictures_are_near_and_others_are_not() -> None:
    net, good = neighbours(), pictures(3)
    net.remember([good[:2], good[2:]])
    assert len(net.memories[0].bank) == 3 * 16
    assert not net.learns
    near, far = net.maps(good)["features"], net.maps(pictures(3, seed=5))["features"]
    assert near.max() < 2e-3  # float16
    assert far.max() > 2 * near.max()


@torch.no_grad()
def test_one_vit_pass_and_only_the_gate_counts() -> None:
    net = neighbours(0.25)
    net.remember([pictures(1, seed=5)])
    assert len(net.memories[0].bank) == 4
    images = pictures(1)
    with inputs_of(tiny_vit().net.patch_embed) as passes:
        map_ = net.maps(images)["features"]
    assert len(passes) == 1
    region = net.region(images)
    assert region.mean() == 0.25
    reach = F.max_pool2d(region, 17, stride=1, padding=8)  # enlarging spreads half a token
    assert not map_[reach == 0].any()
    assert map_[region == 1].max() > 0


@torch.no_grad()
def test_two_scales_are_the_mean_of_each() -> None:
    good, images = [pictures(2)], pictures(2, seed=5)
    nets = [neighbours(grids=grids) for grids in ((4, 6), (4,), (6,))]
    for net in nets:
        net.remember(good)
    assert [net.input_size for net in nets] == [96, 64, 96]
    both, coarse, fine = (net.maps(images)["features"] for net in nets)
    torch.testing.assert_close(both, (coarse + fine) / 2)


@torch.no_grad()
def test_larger_pictures_give_nothing_but_work() -> None:
    net, large = neighbours(), pictures(2, 160)
    net.remember([pictures(2)])
    assert net.input_size == 64
    resized = F.interpolate(large, (64, 64), mode="bilinear", antialias=True)
    assert_equal(net.maps(large), net.maps(resized))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grids": []}, r"no grid of features; give one or more, say \[32\]"),
        ({"blocks": (12,)}, "vit_tiny_patch16_224 has 12 blocks; 12 is none of them"),
        ({"blocks": (6, -13)}, "has 12 blocks; -13 is none of them"),
        ({"capacity": 0}, "the memory must hold something"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbours(**options)


def test_an_empty_detector() -> None:
    with pytest.raises(ValueError, match="memory is empty"):
        neighbours().maps(pictures(1))


@torch.no_grad()
def test_copies_are_remembered() -> None:
    """A part that lies otherwise is near only to a memory that has seen its turns."""
    good = pictures(1)
    plain, turning = neighbours(), neighbours(copies=8)
    for net in (plain, turning):
        net.remember([good])
    assert len(turning.memories[0].bank) == 8 * 16
    for moved in (good.rot90(1, (2, 3)), good.flip(3), good.rot90(3, (2, 3)).flip(2)):
        far, near = (net.maps(moved)["features"].max() for net in (plain, turning))
        assert near < 1e-3 < far
    slanting = neighbours(copies=16)
    slanting.remember([good])
    slanted = rotate(good, 45, InterpolationMode.BILINEAR, fill=good[0].mean((1, 2)).tolist())
    far, near = (net.maps(slanted)["features"].mean() for net in (turning, slanting))
    assert near < far / 2
    with pytest.raises(ValueError, match="copies=2: give 1, 4, 8 or 16"):
        neighbours(copies=2)


@torch.no_grad()
@pytest.mark.parametrize(
    ("count", "copies", "judged"), [(1, 8, 8), (1, 16, 16), (3, 4, 12), (5, 1, 5)]
)
def test_few_pictures_are_judged_by_the_others(count: int, copies: int, judged: int) -> None:
    good = pictures(count)
    few = neighbours(copies=copies)
    found = few.remember_few([good[:2], good[2:]])
    assert len(found) == judged
    whole = neighbours(copies=copies)
    whole.remember([good])
    torch.testing.assert_close(few.maps(good), whole.maps(good), atol=2e-3, rtol=0)
    if count > 1:
        without = neighbours(copies=copies)
        without.remember([good[1:]])
        torch.testing.assert_close(found[0], without.maps(good[:1]), atol=2e-3, rtol=0)


@torch.no_grad()
def test_of_more_pictures_a_group_is_left_out() -> None:
    good = pictures(FOLDS + 2)
    few, without = neighbours(), neighbours()
    found = few.remember_few([good])
    assert len(found) == len(good)
    without.remember([torch.cat([good[1:FOLDS], good[FOLDS + 1 :]])])
    for own, picture in zip(found, (0, FOLDS), strict=False):
        wanted = without.maps(good[picture : picture + 1])
        torch.testing.assert_close(own, wanted, atol=2e-3, rtol=0)


@torch.no_grad()
def test_copies_of_a_picture_are_no_other_pictures() -> None:
    good = pictures(2)
    net = neighbours(copies=4, relative=True)
    net.remember([good])
    bank, spacing = net.memories[0].bank.float(), net.memories[0].spacing
    half = len(bank) // 2  # of the first picture and its copies
    apart = torch.cdist(bank, bank).square() / 2
    nearest = apart[:half, half:].topk(3, largest=False).values.mean(1)
    torch.testing.assert_close(spacing[:half], nearest, atol=1e-3, rtol=0)


def test_one_picture_without_copies() -> None:
    with pytest.raises(ValueError, match="one good picture, of which copies=1"):
        neighbours().remember_few([pictures(1)])


def test_nets_that_learn_need_more() -> None:
    with pytest.raises(ValueError, match="EAR cannot leave out pictures one by one"):
        EAR(tiny_vit()).remember_few([pictures(1)])


@torch.no_grad()
@pytest.mark.parametrize(("copies", "level"), [(8, False), (4, True)])
def test_an_ensemble_is_the_mean_over_copies(copies: int, level: bool) -> None:
    options = {"copies": copies, "level": level}
    alone, together = neighbours(**options), neighbours(**options, ensemble=True)
    good, image = pictures(2), pictures(1, seed=5)
    for net in (alone, together):
        net.remember([good])
    found = []
    for quarter in (0, 2) if level else range(4):
        copy = image.rot90(quarter, (2, 3))
        found.append(alone.maps(copy)["features"].rot90(-quarter, (2, 3)))
        mirrored = alone.maps(copy.flip(3))["features"].flip(3)
        found.append(mirrored.rot90(-quarter, (2, 3)))
    torch.testing.assert_close(together.maps(image)["features"], torch.stack(found).mean(0))
    few = neighbours(**options, ensemble=True)
    left = few.remember_few([pictures(5)])
    together.remember([pictures(5)[1:]])
    wanted = together.maps(pictures(5)[:1])["features"]
    torch.testing.assert_close(left[0]["features"], wanted, atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="copies=16: with ensemble give 1, 4 or 8"):
        neighbours(copies=16, ensemble=True)
