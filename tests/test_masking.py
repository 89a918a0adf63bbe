"""The mask of EAR: against a slow reference, ties, components, both rules, wrong parameters."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from torch import Tensor

from vision.anomaly import AttentionMask
from vision.anomaly.masking import gaussian_blur

# Small integers: their sums are exact in float32, so rule and reference meet the same ties.
grids = hnp.arrays(
    np.int64, st.tuples(st.integers(1, 7), st.integers(1, 7)), elements=st.integers(0, 9)
)
shares = st.integers(1, 16).map(lambda sixteenths: sixteenths / 16)


def exact(**options: Any) -> AttentionMask:
    """A rule without smoothing and without a smallest component, but for what is asked."""
    return AttentionMask(**{"smooth": 0, "min_tokens": 0, **options})


def as_attention(grid: np.ndarray) -> Tensor:
    return torch.from_numpy(grid).float()[None, None]  # 1×1×h×w


def masked(rule: AttentionMask, grid: np.ndarray) -> np.ndarray:
    return rule(as_attention(grid))[0, 0].numpy().astype(bool)


def slow_mass(grid: np.ndarray, keep: float) -> np.ndarray:
    """Take tokens, largest first and the earlier of equals first, until they hold the share."""
    kept = np.zeros(grid.size, bool)
    wanted, held = Fraction(keep) * int(grid.sum()), Fraction(0)
    for token in sorted(range(grid.size), key=lambda i: (-grid.flat[i], i)):
        kept[token] = True
        held += int(grid.flat[token])
        if held >= wanted:
            break
    return kept.reshape(grid.shape)


def slow_quantile(grid: np.ndarray, keep: float) -> np.ndarray:
    count = max(1, round(keep * grid.size))
    kept = np.zeros(grid.size, bool)
    kept[sorted(range(grid.size), key=lambda i: (-grid.flat[i], i))[:count]] = True
    return kept.reshape(grid.shape)


def slow_drop(mask: np.ndarray, least: int) -> np.ndarray:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    areas = [int((labels == i + 1).sum()) for i in range(count)]
    kept = [i + 1 for i, area in enumerate(areas) if area >= min(least, max(areas))]
    return np.isin(labels, kept)


@settings(deadline=None)
@given(grids, st.integers(0, 3))
def test_a_mask_grows_on_all_sides(grid: np.ndarray, tokens: int) -> None:
    plain = masked(exact(keep=0.25), grid)
    square = np.ones((2 * tokens + 1,) * 2, bool)
    wanted = ndimage.binary_dilation(plain, square)
    np.testing.assert_array_equal(masked(exact(keep=0.25, grow=tokens), grid), wanted)


@given(grids, shares)
def test_mass_equals_the_slow_reference(grid: np.ndarray, keep: float) -> None:
    np.testing.assert_array_equal(masked(exact(keep=keep), grid), slow_mass(grid, keep))


@settings(deadline=None)
@given(grids, shares)
def test_quantile_equals_the_slow_reference(grid: np.ndarray, keep: float) -> None:
    rule = exact(rule="quantile", keep=keep)
    np.testing.assert_array_equal(masked(rule, grid), slow_quantile(grid, keep))


@settings(deadline=None)
@given(grids, shares, st.integers(0, 60), st.sampled_from(["mass", "quantile"]))
def test_small_components_are_dropped(grid: np.ndarray, keep: float, least: int, rule: Any) -> None:
    all_of_them = masked(exact(rule=rule, keep=keep), grid)
    got = masked(exact(rule=rule, keep=keep, min_tokens=least), grid)
    np.testing.assert_array_equal(got, slow_drop(all_of_them, least))
    assert got.any()


def test_components_by_hand() -> None:
    grid = np.array([[5, 0, 0, 0], [0, 5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 5]])
    pair = grid.copy()
    pair[3, 3] = 0  # the two that touch at a corner are one component
    np.testing.assert_array_equal(masked(exact(keep=1, min_tokens=2), grid), pair > 0)
    np.testing.assert_array_equal(masked(exact(keep=1, min_tokens=99), grid), pair > 0)
    np.testing.assert_array_equal(masked(exact(keep=1, min_tokens=1), grid), grid > 0)


@pytest.mark.parametrize("rule", ["mass", "quantile"])
def test_ties_go_to_the_first_tokens(rule: Any) -> None:
    flat = masked(exact(rule=rule, keep=0.5), np.ones((4, 4))).ravel()
    assert flat.tolist() == [True] * 8 + [False] * 8


@pytest.mark.parametrize(("heads", "joined"), [("mean", torch.mean), ("max", torch.amax)])
def test_heads_are_joined_first(heads: Any, joined: Callable[..., Tensor]) -> None:
    attention = torch.rand(3, 5, 6, 6, generator=torch.Generator().manual_seed(0))
    one_head = joined(attention, 1)[:, None]
    assert torch.equal(AttentionMask(heads=heads)(attention), AttentionMask()(one_head))


def test_mean_outvotes_a_head_and_max_does_not() -> None:
    attention = torch.zeros(1, 3, 4, 4)
    attention[0, :2, 0, :2] = 0.2  # two heads at the part
    attention[0, 2, 3, 3] = 0.3  # one at the background
    mean = exact(keep=0.7)(attention)[0, 0]
    assert mean[0, :2].all()
    assert not mean[3, 3]
    assert exact(heads="max", rule="quantile", keep=1 / 16)(attention)[0, 0, 3, 3]


def test_uniform_attention_masks_its_share_of_the_picture() -> None:
    mask = AttentionMask(keep=0.75)(torch.full((2, 3, 8, 8), 1 / 65))
    assert mask.shape == (2, 1, 8, 8)
    assert mask.dtype == torch.float32
    assert mask.mean((1, 2, 3)).tolist() == pytest.approx([0.75, 0.75], abs=1 / 64)


def test_peaked_attention_masks_few_tokens() -> None:
    attention = torch.full((1, 1, 16, 16), 1e-5)
    attention[0, 0, 4:6, 9:11] = 0.2
    mask = exact()(attention)[0, 0]
    assert mask[4:6, 9:11].all()
    assert mask.sum() == 4
    smoothed = AttentionMask()(attention)[0, 0]
    assert smoothed[4:6, 9:11].all()
    assert smoothed.sum() <= 16


@pytest.mark.parametrize("rule", ["mass", "quantile"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 2)])
def test_never_empty(rule: Any, shape: tuple[int, int]) -> None:
    for grid in (np.zeros(shape), np.eye(*shape)):
        assert masked(AttentionMask(rule=rule, keep=1e-6, min_tokens=9), grid).any()


def test_a_picture_keeps_its_mask_in_company_and_in_half_precision() -> None:
    attention = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) ** 4
    rule = AttentionMask()
    together = rule(attention)
    assert torch.equal(together, torch.cat([rule(one[None]) for one in attention]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rule(attention), together)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, "keep=0: a share must lie"),
        ({"keep": 1.1}, "keep=1.1: a share must lie"),
        ({"keep": float("nan")}, "keep=nan: a share must lie"),
        ({"smooth": -1}, "smooth=-1"),
        ({"min_tokens": -1}, "min_tokens=-1"),
        ({"grow": -1}, "grow=-1"),
        ({"heads": "sum"}, "heads=sum: choose mean or max"),
        ({"rule": "otsu"}, "rule=otsu: choose mass or quantile"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionMask(**options)


@pytest.mark.parametrize("sigma", [0.7, 2.0, 4.0])
def test_blur_equals_scipy(sigma: float) -> None:
    maps = torch.rand(2, 1, 31, 40, generator=torch.Generator().manual_seed(0))
    wanted = [
        ndimage.gaussian_filter(m[0], sigma, mode="mirror", truncate=3.0) for m in maps.numpy()
    ]
    np.testing.assert_allclose(gaussian_blur(maps, sigma)[:, 0].numpy(), wanted, atol=1e-6)


def test_no_blur_is_the_identity() -> None:
    maps = torch.rand(1, 1, 5, 5)
    assert torch.equal(gaussian_blur(maps, 0), maps)
