"""Long parts laid level: where they come to lie, what is left as it is, maps put back."""

from typing import Any

import detectors
import pytest
import torch
from detectors import DetectorContract, tiny_vit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vision.anomaly import AttentionMask, Detector, FeatureNeighbours
from vision.anomaly.level import lie_free, moved, poses

SIDE = 96
EVERYWHERE = AttentionMask(keep=1.0, min_tokens=0)


def bar(angle: float, length: float, width: float = 12, **options: Any) -> Tensor:
    """As `detectors.bar` draws it: 1×3×S×S."""
    picture = detectors.bar(angle, length, width, **options)
    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255


def extent(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest places (y, x) of what is dark."""
    places = torch.nonzero(picture[0, 0] < 0.5)
    return places.amin(0), places.amax(0)


@settings(deadline=None, max_examples=30)
@given(angle=st.floats(0, 180), x=st.integers(42, 54), y=st.integers(42, 54))
def test_a_long_part_comes_to_lie_level_in_the_middle(angle: float, x: int, y: int) -> None:
    picture = bar(angle, 60, middle=(x, y))
    assert lie_free(picture).all()
    low, high = extent(moved(picture, poses(picture)))
    assert 54 <= high[1] - low[1] <= 66
    assert 8 <= high[0] - low[0] <= 18
    assert ((low + high) / 2 - SIDE / 2).abs().max() <= 3


@settings(deadline=None, max_examples=20)
@given(angle=st.floats(0, 180))
def test_maps_are_put_back(angle: float) -> None:
    picture = bar(angle, 60)
    places = poses(picture)
    back = moved(moved(picture, places), places.inverse(), "zeros")
    inside = moved(moved(torch.ones_like(picture), places, "zeros"), places.inverse(), "zeros")
    assert ((back - picture).abs() * (inside > 0.99)).mean() < 0.02


def test_what_is_longer_than_the_picture_is_made_smaller() -> None:
    picture = bar(45, 118)
    low, high = extent(moved(picture, poses(picture)))
    assert low[1] >= 1
    assert high[1] <= SIDE - 2


@pytest.mark.parametrize(
    "picture",
    [
        torch.full((1, 3, SIDE, SIDE), 0.5),
        torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),
        bar(20, 40, 35),
        bar(0, 200),
        bar(90, 300, 30),
        0.5 + 0.004 * torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)),
        bar(30, 40, 1),
    ],
    ids=["nothing", "noise", "short", "across", "wide across", "faint noise", "a scratch"],
)
def test_other_pictures_stay_as_they_are(picture: Tensor) -> None:
    assert not lie_free(picture).any()
    assert torch.equal(poses(picture)[0], torch.eye(3))


@torch.no_grad()
def test_a_detector_that_lays_parts_level_knows_them_at_any_angle() -> None:
    plain, level = (
        FeatureNeighbours(tiny_vit(), grids=(4,), size=SIDE, copies=4, level=level)
        for level in (False, True)
    )
    good = bar(10, 60)
    for net in (plain, level):
        net.remember([good])
    other = bar(67, 60)
    far, near = (net.maps(other)["features"].max() for net in (plain, level))
    assert near < far / 2


@torch.no_grad()
def test_what_is_left_out_is_put_back_too() -> None:
    net = FeatureNeighbours(tiny_vit(), grids=(4,), size=SIDE, copies=4, level=True)
    good = torch.cat([bar(angle, 60) for angle in (0, 30, 60, 90, 120)])
    found = net.remember_few([good])
    without = FeatureNeighbours(tiny_vit(), grids=(4,), size=SIDE, copies=4, level=True)
    without.remember([good[1:]])
    wanted = without.maps(good[:1])["features"]
    torch.testing.assert_close(found[0]["features"], wanted, atol=2e-3, rtol=0)
    assert len(net.remember_few([good[:1]])) == 4


class TestLevel(DetectorContract):
    def make(self) -> Detector:
        return FeatureNeighbours(tiny_vit(), grids=(4,), copies=4, level=True, ensemble=True)


def test_of_a_broken_part_both_pieces_are_looked_at() -> None:
    """Though one is the larger, and out of the frame if that alone were laid level."""
    whole, picture = bar(45, 118), bar(45, 118)
    gap = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    gap[44:58, 44:58] = True
    picture[..., gap] = 0.8
    low, high = extent(moved(picture, poses(picture)))
    assert low[1] >= 1
    assert high[1] <= SIDE - 2
    spread = [(e[1] - e[0])[1] for e in (extent(moved(p, poses(p))) for p in (picture, whole))]
    assert abs(spread[0] - spread[1]) <= 4


def test_dirt_does_not_hide_the_part() -> None:
    picture = bar(30, 60)
    picture[..., :5, :5] = 0
    assert lie_free(picture).all()
    torch.testing.assert_close(poses(picture), poses(bar(30, 60)), atol=0.02, rtol=0)


@torch.no_grad()
def test_a_defect_is_seen_where_it_lies() -> None:
    net = FeatureNeighbours(
        tiny_vit(), grids=(6,), size=SIDE, copies=4, level=True, ensemble=True, gate=EVERYWHERE
    )
    net.remember([bar(10, 70)])
    picture = bar(67, 70)
    alone = net.maps(picture)["features"]
    place = (64, 54)  # y, x, on the bar and not in its middle
    picture[..., place[0] - 4 : place[0] + 4, place[1] - 4 : place[1] + 4] = torch.tensor(
        [1.0, 0.1, 0.1]
    ).view(3, 1, 1)
    rise = net.maps(picture)["features"] - alone
    y, x = divmod(int(rise[0, 0].argmax()), SIDE)
    assert abs(y - place[0]) <= 16
    assert abs(x - place[1]) <= 16


@torch.no_grad()
def test_each_picture_of_a_batch_is_laid_by_itself() -> None:
    net = FeatureNeighbours(tiny_vit(), grids=(4,), size=SIDE, level=True, gate=EVERYWHERE)
    net.remember([bar(10, 60)])
    both = torch.cat([bar(67, 60), bar(20, 40, 35)])
    alone = torch.cat([net.maps(picture[None])["features"] for picture in both])
    assert torch.equal(net.maps(both)["features"], alone)


def test_copies_that_do_not_lie_level() -> None:
    with pytest.raises(ValueError, match="copies=8: of parts that are laid level give 1 or 4"):
        FeatureNeighbours(tiny_vit(), copies=8, level=True)
