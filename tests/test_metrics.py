"""Anomaly metrics: hand-computed cases, a brute-force reference, ties, invariances, errors."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vision.metrics import AnomalyMetrics, au_pro, image_auroc, pixel_auroc

Images = tuple[list[np.ndarray], list[np.ndarray]]


def reference(
    maps: list[np.ndarray], masks: list[np.ndarray], limit: float, per_region: bool
) -> float:
    """The definition, one threshold after the other: area up to `limit`, divided by it."""
    regions = []
    for index, mask in enumerate(masks):
        labels, count = ndimage.label(mask > 0, structure=np.ones((3, 3)))
        regions += [(index, labels == number) for number in range(1, count + 1)]
    good = np.concatenate([scores[mask == 0] for scores, mask in zip(maps, masks, strict=True)])
    defect = np.concatenate([scores[mask > 0] for scores, mask in zip(maps, masks, strict=True)])
    curve = [(0.0, 0.0)]
    for threshold in sorted({value for scores in maps for value in scores.ravel()}, reverse=True):
        covered = [(maps[index][region] >= threshold).mean() for index, region in regions]
        hits = np.mean(covered) if per_region else (defect >= threshold).mean()
        curve.append(((good >= threshold).mean(), float(hits)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
        area += (end - x0) * (y0 + y_end) / 2
    return area / limit


@st.composite
def images(draw: st.DrawFn) -> Images:
    """One to four images of varying size with integer scores (so: many ties) and random masks."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels, density = draw(st.integers(1, 12)), draw(st.sampled_from([0.1, 0.3, 0.6, 0.9]))
    sizes = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4))
    maps = [rng.integers(0, levels, size).astype(np.float32) for size in sizes]
    masks = [(rng.random(size) < density).astype(np.uint8) * 255 for size in sizes]
    assume(any(mask.any() for mask in masks))
    assume(not all(mask.all() for mask in masks))
    return maps, masks


# --- hand-computed cases

#   scores  9 2 7      mask  1 0 1
#           4 8 5            1 0 0    -> components {9, 4} and {7}; good pixels {2, 8, 5}
APART: Images = (
    [np.array([[9, 2, 7], [4, 8, 5]], np.float32)],
    [np.array([[1, 0, 1], [1, 0, 0]], np.uint8)],
)


def test_components_touching_by_a_corner_are_one() -> None:
    #   scores  9 4 1      mask  1 0 0      and a second image of one defect pixel, score 0
    #           3 8 5            0 1 0
    # 9 and 8 are one component, covered before any false positive; the other one only at FPR = 1.
    # So PRO = 1/2 throughout (were they two components, 2/3).
    maps = [np.array([[9, 4, 1], [3, 8, 5]], np.float32), np.array([[0]], np.float32)]
    masks = [np.array([[1, 0, 0], [0, 1, 0]], np.uint8), np.array([[1]], np.uint8)]
    assert au_pro(maps, masks) == {0.3: 0.5, 0.05: 0.5}


def test_two_components_by_hand() -> None:
    # Threshold  9: PRO = (1/2 + 0)/2 = 1/4,  FPR = 0
    #            8: PRO = 1/4,                FPR = 1/3
    #            7: PRO = (1/2 + 1)/2 = 3/4,  FPR = 1/3
    #            5: PRO = 3/4,                FPR = 2/3
    #            4: PRO = 1,                  FPR = 2/3
    #            2: PRO = 1,                  FPR = 1
    # Area up to 1/2: 1/3 · 1/4 + 1/6 · 3/4 = 5/24; divided by 1/2: 5/12.
    # Area up to 1: 1/3 · 1/4 + 1/3 · 3/4 + 1/3 · 1 = 2/3.
    areas = au_pro(*APART, limits=(0.3, 0.5, 1.0))
    assert areas == {
        0.3: pytest.approx(1 / 4),
        0.5: pytest.approx(5 / 12),
        1.0: pytest.approx(2 / 3),
    }
    # Pixels: of 3·3 pairs 9 wins 3, 7 wins 2, 4 wins 1.
    assert pixel_auroc(*APART) == pytest.approx(6 / 9)


def test_a_tie_is_a_slope_and_the_limit_is_interpolated() -> None:
    #   scores  5 5 1      mask  1 0 0
    #           1 1 1            0 0 0    -> good pixels {5, 1, 1, 1, 1}
    # Curve: (0, 0) -> (1/5, 1) -> (1, 1).  Up to 0.1: y reaches 1/2, area 0.1 · 1/4, over 0.1: 1/4.
    # Up to 0.3: 0.2 · 1/2 + 0.1 · 1 = 0.2, over 0.3: 2/3.  All pairs: 4 wins and a tie of 5.
    maps = [np.array([[5, 5, 1], [1, 1, 1]], np.float32)]
    masks = [np.array([[1, 0, 0], [0, 0, 0]], np.uint8)]
    areas = au_pro(maps, masks, limits=(0.1, 0.3))
    assert areas == {0.1: pytest.approx(1 / 4), 0.3: pytest.approx(2 / 3)}
    assert pixel_auroc(maps, masks) == pytest.approx(4.5 / 5)


def test_false_positives_count_in_good_images_too() -> None:
    # As above, but the tied good pixel lies in a second, good image of another size.
    maps = [np.array([[5, 1, 1]], np.float32), np.array([[1], [5]], np.float32)]
    masks = [np.array([[1, 0, 0]], np.uint8), np.array([[0], [0]], np.uint8)]
    # Curve: (0, 0) -> (1/4, 1) -> (1, 1): area up to 1/4 is 1/8.
    assert au_pro(maps, masks, limits=(0.25,)) == {0.25: pytest.approx(1 / 2)}


def test_image_auroc_by_hand() -> None:
    # Pairs (defective, good): 3>1, 3>2, 2>1, 2=2  -> 3.5 of 4.
    assert image_auroc([1, 2, 2, 3], [0, 0, 1, 1]) == pytest.approx(3.5 / 4)
    assert image_auroc(torch.tensor([0.1, 0.9]), torch.tensor([0, 1])) == 1.0
    assert image_auroc([0.9, 0.1], [False, True]) == 0.0


def test_scores_too_large_for_a_sigmoid_stay_apart() -> None:
    scores = np.array([100, 101, 102, 103], np.float32)
    assert image_auroc(scores, [0, 0, 1, 1]) == 1.0
    assert image_auroc([-np.inf, 1.0, np.inf, np.inf], [0, 0, 1, 1]) == 1.0


# --- limits of the scale


def test_a_perfect_map_scores_one_and_its_opposite_zero() -> None:
    masks = [np.zeros((6, 7), np.uint8), np.zeros((5, 4), np.uint8)]
    masks[0][1:3, 2:5] = masks[1][4, 3] = 1
    perfect = [mask.astype(np.float32) for mask in masks]
    assert pixel_auroc(perfect, masks) == 1.0
    assert au_pro(perfect, masks) == {0.3: 1.0, 0.05: 1.0}
    inverse = [-scores for scores in perfect]
    assert pixel_auroc(inverse, masks) == 0.0
    assert au_pro(inverse, masks) == {0.3: 0.0, 0.05: 0.0}


def test_a_constant_map_is_a_coin() -> None:
    # One threshold: the curve is the diagonal from (0, 0) to (1, 1), so its area up to L is L²/2.
    masks = [np.eye(5, dtype=np.uint8)]
    maps = [np.full((5, 5), 0.7, np.float32)]
    assert pixel_auroc(maps, masks) == 0.5
    assert au_pro(maps, masks) == {0.3: pytest.approx(0.15), 0.05: pytest.approx(0.025)}
    assert image_auroc([1.0, 1.0, 1.0], [0, 1, 1]) == 0.5


# --- against the definition


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(images(), st.sampled_from([0.05, 0.3, 0.5, 1.0]))
def test_areas_are_those_of_the_definition(data: Images, limit: float) -> None:
    expected = reference(*data, limit, per_region=True)
    assert au_pro(*data, limits=(limit,))[limit] == pytest.approx(expected, abs=1e-12)
    assert pixel_auroc(*data) == pytest.approx(reference(*data, 1.0, per_region=False), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(images())
def test_only_the_order_of_scores_matters(data: Images) -> None:
    maps, masks = data
    for transform in (
        lambda s: np.exp(s.astype(np.float64)),
        lambda s: 0.5 * s - 3,
        lambda s: s**3,
    ):
        moved = [transform(scores) for scores in maps]
        assert au_pro(moved, masks) == au_pro(maps, masks)
        assert pixel_auroc(moved, masks) == pixel_auroc(maps, masks)


@settings(max_examples=50, deadline=None)
@given(images())
def test_the_order_of_images_and_their_orientation_do_not_matter(data: Images) -> None:
    maps, masks = data
    turned = [m.T for m in maps[::-1]], [m.T for m in masks[::-1]]
    assert au_pro(*turned)[0.3] == pytest.approx(au_pro(*data)[0.3], abs=1e-12)
    assert pixel_auroc(*turned) == pytest.approx(pixel_auroc(*data), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(images())
def test_inputs_are_left_as_they_were(data: Images) -> None:
    maps, masks = data
    before = [m.copy() for m in maps + masks]
    au_pro(maps, masks)
    for left, right in zip(before, maps + masks, strict=True):
        np.testing.assert_array_equal(left, right)


def test_auroc_equals_sklearn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 500)
    for scores in (rng.random(500) + 0.3 * labels, rng.integers(0, 9, 500) + 2 * labels):
        assert image_auroc(scores, labels) == pytest.approx(metrics.roc_auc_score(labels, scores))


@pytest.mark.slow
def test_a_large_set_keeps_every_pixel() -> None:
    # Beyond 2^24 pixels float32 cannot count; the one wrong pixel must still be seen.
    scores = np.zeros((4200, 4200), np.float32)
    mask = np.zeros((4200, 4200), np.uint8)
    mask[0, :2] = 1
    scores[0, :2] = 2
    scores[9, 9] = 3
    good = mask.size - 2
    assert pixel_auroc([scores], [mask]) == pytest.approx(1 - 1 / good, abs=1e-12)


# --- the accumulator


@settings(max_examples=25, deadline=None)
@given(images(), st.booleans())
def test_batches_give_what_the_functions_give(data: Images, as_tensors: bool) -> None:
    maps, masks = data
    maps, masks = [*maps, np.full((2, 2), 1, np.float32)], [*masks, np.zeros((2, 2), np.uint8)]
    scores, labels = [float(m.max()) for m in maps], [int(m.any()) for m in masks]
    convert: Any = torch.from_numpy if as_tensors else np.asarray
    metrics = AnomalyMetrics()
    for start in range(0, len(maps), 2):
        part = slice(start, start + 2)
        metrics.update(
            torch.tensor(scores[part]),
            torch.tensor(labels[part]),
            [convert(m) for m in maps[part]],
            [convert(m) for m in masks[part]],
        )
    expected = {"image_auroc": image_auroc(scores, labels), "pixel_auroc": pixel_auroc(maps, masks)}
    expected |= {f"au_pro_{limit}": area for limit, area in au_pro(maps, masks).items()}
    assert metrics.compute() == expected
    assert metrics.compute() == expected  # computing uses nothing up


def test_without_masks_the_pixel_metrics_are_left_out() -> None:
    metrics = AnomalyMetrics()
    metrics.update([0.1, 0.9], [0, 1])
    assert metrics.compute() == {"image_auroc": 1.0}


def test_keys_and_reset() -> None:
    metrics = AnomalyMetrics(limits=(0.3, 0.05))
    mask = torch.zeros(2, 3, 4, dtype=torch.uint8)
    mask[1, 0, 0] = 1
    metrics.update(torch.tensor([0.1, 0.9]), torch.tensor([0, 1]), mask.bfloat16(), mask)
    assert metrics.compute() == dict.fromkeys(
        ("image_auroc", "pixel_auroc", "au_pro_0.3", "au_pro_0.05"), 1.0
    )
    metrics.reset()
    with pytest.raises(ValueError, match=r"call update\(\)"):
        metrics.compute()
    metrics.update([0.9, 0.1], [0, 1])  # after a reset, with or without masks is open again
    assert metrics.compute() == {"image_auroc": 0.0}


# --- bad input

MAP, EMPTY = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint8)
DEFECT = np.eye(2, 3, dtype=np.uint8)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [0, 0], "0 of 2 images are defective.*add the missing one"),
        ([1.0, 2.0], [1, 1], "2 of 2 images are defective"),
        ([], [], "0 of 0 images"),
        ([1.0, np.nan], [0, 1], "score of image 1 is NaN"),
        ([1.0, 2.0], [0, 2], "pass 0 for good and 1 for defective"),
        ([1.0, 2.0], [0], r"\(2,\) and labels of shape \(1,\)"),
        ([[1.0, 2.0]], [[0, 1]], "one of each per image"),
    ],
)
def test_bad_scores(scores: list[float], labels: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        image_auroc(scores, labels)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("metric", [pixel_auroc, au_pro])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([MAP], [EMPTY], "no mask of 1 marks a defect.*leave the pixel metrics out"),
        ([], [], "no mask of 0 marks a defect"),
        ([MAP], [EMPTY + 1], "every pixel as defect.*add good images"),
        ([MAP, MAP + np.nan], [DEFECT, EMPTY], "map 1 holds NaN.*full precision"),
        ([MAP], [DEFECT.T], r"map 0 of shape \(2, 3\).*\(3, 2\).*resized to the mask"),
        ([MAP[None]], [DEFECT[None]], "pass both as H×W"),
        ([MAP, MAP], [DEFECT], "2 maps for 1 masks"),
    ],
)
def test_bad_maps(metric: Any, maps: list[Any], masks: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        metric(maps, masks)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("limit", [0.0, -0.1, 1.5, float("nan")])
def test_bad_limits(limit: float) -> None:
    with pytest.raises(ValueError, match="no false positive rate"):
        au_pro([MAP], [DEFECT], limits=(limit,))
    with pytest.raises(ValueError, match="no false positive rate"):
        AnomalyMetrics(limits=(limit,))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (([1.0], [1], [MAP], None), "pass both with every image, or neither"),
        (([1.0], [1], None, [DEFECT]), "pass both with every image, or neither"),
        (([1.0], [1]), "pass both with every image, or neither"),
        (([1.0], [1], [MAP], [EMPTY]), "image 2 is labelled defective but its mask is empty"),
        (([1.0], [0], [MAP], [DEFECT]), "image 2 is labelled good but its mask is not empty"),
        (([1.0], [1], [MAP + np.nan], [DEFECT]), "map 2 holds NaN"),
        (([np.nan], [1], [MAP], [DEFECT]), "score of image 2 is NaN"),
        (([1.0, 2.0], [1, 1], [MAP], [DEFECT]), "1 maps for 2 labels"),
    ],
)
def test_a_bad_batch_is_refused_and_adds_nothing(batch: Any, message: str) -> None:
    metrics = AnomalyMetrics()
    metrics.update([0.0, 1.0], [0, 1], [MAP, DEFECT], [EMPTY, DEFECT])
    before = metrics.compute()
    with pytest.raises(ValueError, match=message):
        metrics.update(*batch)
    assert metrics.compute() == before
