"""RIAD: disjoint random sets that cover the picture, 12 passes, repeatable, wrong parameters."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detectors import DetectorContract, assert_equal, inputs_of, pictures
from torch import Tensor

from vision.anomaly import RIAD, Detector


def riad(**options: Any) -> RIAD:
    """A tiny RIAD in evaluation mode."""
    torch.manual_seed(1)
    return RIAD(**{"unet": "tiny", "size": 64, **options}).eval()


class TestRIAD(DetectorContract):
    def make(self) -> Detector:
        return RIAD(unet="tiny", size=64, regions=(8, 16))


def holes(seen: list[Tensor]) -> Tensor:
    """What was emptied in each U-Net pass over a white picture: passes×S×S bool."""
    return torch.stack([x[0, 0] == 0 for x in seen])


@torch.no_grad()
def test_twelve_passes_over_disjoint_sets_that_cover_everything() -> None:
    net = riad()
    with inputs_of(net.unet) as seen:
        maps = net.maps(torch.ones(1, 3, 64, 64))
    assert maps.keys() == {"structure"}
    assert len(seen) == 12
    assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in seen)
    for i, region in enumerate((2, 4, 8, 16)):
        sets = holes(seen)[3 * i : 3 * i + 3]
        assert (sets.sum(0) == 1).all()
        cells = sets.unfold(1, region, region).unfold(2, region, region).flatten(3)
        assert torch.equal(cells.any(-1), cells.all(-1))  # whole cells of this region size
        shares = sets.float().mean((1, 2))
        assert shares.max() - shares.min() <= (region / 64) ** 2 + 1e-6  # dealt evenly


@pytest.mark.slow
@torch.no_grad()
def test_two_runs_and_two_nets_draw_the_same_sets() -> None:
    net, images = riad(), pictures(2)
    first = net.maps(images)
    torch.rand(7)  # the global generator has no say
    assert_equal(net.maps(images), first)
    assert_equal(riad().maps(images), first)
    other = riad(seed=1).maps(images)
    assert not torch.equal(other["structure"], first["structure"])


@torch.no_grad()
def test_larger_pictures_give_nothing_but_work() -> None:
    net, large = riad(regions=(16,)), pictures(2, 160)
    resized = F.interpolate(large, (64, 64), mode="bilinear", antialias=True)
    assert_equal(net.maps(large), net.maps(resized))


@pytest.mark.parametrize("passes", [1, 2, 3])
@torch.no_grad()
def test_a_step_inpaints_some_sets_and_is_given_the_rest(passes: int) -> None:
    net = riad(sets_per_step=passes)
    with inputs_of(net.unet) as seen:
        recovery = net.recover(torch.ones(1, 3, 64, 64))
    assert len(seen) == passes
    hole = holes(seen)
    assert hole.sum(0).max() == 1
    given = ~hole.any(0)
    assert bool(given.any()) == (passes < 3)
    assert torch.equal(recovery.recovered[..., given], recovery.image[..., given])


@torch.no_grad()
def test_training_draws_fresh_sets_by_the_global_seed() -> None:
    net, white = riad(), torch.ones(1, 3, 64, 64)

    def drawn(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        with inputs_of(net.unet) as seen:
            for _ in range(3):
                net.recover(white)
        return seen

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 72}, "size=72: must divide by the regions"),
        ({"size": 68, "regions": (2, 4)}, "size=68: must divide"),
        ({"unet": "huge"}, "preset huge"),
        ({"sets_per_step": 0}, "sets_per_step=0: choose 1 to sets=3"),
        ({"sets_per_step": 4}, "sets_per_step=4: choose 1 to sets=3"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        riad(**options)
