"""The threshold's promise on false alarms, by hand and by simulation; calibrated scores."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from vision.anomaly import Scorer
from vision.anomaly.scoring import alarm_threshold, best_scoring

scores = st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=60)


def calibrated(choice: str = "published", threshold: float = 0.0, **options: Any) -> Scorer:
    """A scorer without smoothing whose threshold lies exactly at `threshold`."""
    scorer = Scorer(**{"smooth": 0, "smooth_features": 0, **options})
    scorer.set_threshold(choice, torch.zeros(4))
    scorer.threshold.fill_(threshold)
    return scorer


def flat(*values: float) -> Tensor:
    """A constant 1×1×4×4 map per value."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()


# --- the threshold


@pytest.mark.parametrize(
    ("n", "rate", "rank"),
    [
        (99, 0.01, 99),
        (99, 0.05, 95),
        (100, 0.01, 100),  # ⌈101 · 0.99⌉ = ⌈99.99⌉
        (19, 0.05, 19),
        (9, 0.5, 5),
        (399, 0.45, 220),  # 400 · 0.55 is 220.00000000000003 in floating point
    ],
)
def test_the_conformal_quantile_by_hand(n: int, rate: float, rank: int) -> None:
    shuffled = np.random.default_rng(0).permutation(n) + 1.0  # the r-th smallest is r
    assert alarm_threshold(shuffled.tolist(), rate) == rank


def test_the_extended_tail_by_hand() -> None:
    # n = 8, k = 2: the knee is 6, the excesses 1 and 2; 6 + 3 · ((3/9 / 0.01)^(1/2) − 1).
    assert alarm_threshold([1, 2, 3, 4, 5, 6, 7, 8], 0.01) == pytest.approx(
        3 + 3 * (100 / 3) ** 0.5
    )


@settings(deadline=None)
@given(scores, st.floats(1e-4, 0.5))
def test_an_extended_threshold_is_not_below_what_was_seen(good: list[float], rate: float) -> None:
    threshold = alarm_threshold(good, rate)
    if rate < 1 / (len(good) + 1) - 1e-6:
        assert threshold >= max(good)
    elif rate > 1 / (len(good) + 1) + 1e-6:
        assert threshold in good


@settings(deadline=None)
@given(scores, st.floats(1e-4, 0.5), st.floats(1e-4, 0.5))
def test_fewer_alarms_need_a_higher_threshold(good: list[float], a: float, b: float) -> None:
    rarely, often = sorted((a, b))
    assert alarm_threshold(good, rarely) >= alarm_threshold(good, often)


@settings(deadline=None)
@given(scores, st.floats(1e-3, 0.5), st.integers(-8, 8), st.integers(-100, 100))
def test_the_unit_of_the_scores_does_not_matter(
    good: list[float], rate: float, power: int, shift: int
) -> None:
    moved = alarm_threshold([2.0**power * s + shift for s in good], rate)
    wanted = 2.0**power * alarm_threshold(good, rate) + shift
    assert moved == pytest.approx(wanted, rel=1e-6, abs=1e-6)


def false_alarms(distribution: Any, n: int, rate: float, repetitions: int = 1200) -> float:
    """The exact share of new good pictures above the threshold, on average over calibrations."""
    draws = distribution.rvs((repetitions, n), random_state=np.random.default_rng(0))
    thresholds = [alarm_threshold(good, rate) for good in draws.tolist()]
    return float(distribution.sf(thresholds).mean())


@pytest.mark.parametrize("distribution", [stats.expon(), stats.norm(), stats.gamma(2)])
@pytest.mark.parametrize(("n", "rate"), [(99, 0.05), (99, 0.01), (200, 0.01)])
def test_the_rate_asked_is_the_rate_achieved(distribution: Any, n: int, rate: float) -> None:
    # Conformal: rank/(n+1), at most the rate whatever the distribution.
    promised = int((n + 1) * rate + 1e-9) / (n + 1)
    deviation = (promised / n / 1200) ** 0.5  # of the mean of 1200 Beta variables
    assert false_alarms(distribution, n, rate) == pytest.approx(promised, abs=4 * deviation)


@pytest.mark.parametrize("n", [12, 30, 60])
def test_the_rate_holds_with_fewer_pictures_than_it_needs(n: int) -> None:
    # Below 99 pictures no score that rare was seen: the tail is extended.
    assert 0.007 < false_alarms(stats.expon(), n, 0.01) < 0.0125
    assert false_alarms(stats.norm(), n, 0.01) < 0.0075  # lighter tails alarm less
    assert false_alarms(stats.gamma(2), n, 0.01) < 0.012
    assert false_alarms(stats.lognorm(1), n, 0.01) < 0.025  # a heavy one alarms more


@pytest.mark.parametrize("good", [[], [1.0], [1.0, 2.0, 3.0]])
def test_too_few_pictures(good: Sequence[float]) -> None:
    with pytest.raises(ValueError, match=f"{len(good)} held-out good pictures are too few"):
        alarm_threshold(good, 0.01)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite(broken: float) -> None:
    with pytest.raises(ValueError, match="has no finite score"):
        alarm_threshold([1, 2, 3, broken, 4], 0.01)


def test_equal_scores_are_their_own_threshold() -> None:
    assert alarm_threshold([2.5] * 10, 0.01) == 2.5


# --- the scorer


def test_not_calibrated() -> None:
    scorer = Scorer()
    assert not scorer.calibrated
    for use in (lambda: scorer({"structure": flat(1)}), lambda: scorer.choice):
        with pytest.raises(ValueError, match=r"not calibrated; run `train\.py fit` to the end"):
            use()


@pytest.mark.slow
@settings(deadline=None)
@given(st.floats(-1e4, 1e4, width=32), st.floats(-100, 100), st.floats(0.01, 100))
def test_half_lies_just_above_the_quantile(value: float, level: float, spread: float) -> None:
    scorer = Scorer(smooth=0)
    scorer.level[0], scorer.spread[0] = level, spread
    maps = {"structure": flat(value)}
    at = scorer.fuse(maps, "published").flatten()[0]
    scorer.set_threshold("published", at.expand(4))
    assert scorer.calibrated
    assert scorer.choice == "published"
    assert scorer(maps)[0].item() < 0.5  # a picture like the held-out ones is good
    assert scorer.threshold - at <= 4e-7 * (1 + at.abs())
    scorer.level[0], scorer.spread[0] = 0, 1
    score, map_ = scorer({"structure": flat(scorer.threshold.item())})
    assert score.tolist() == [0.5]
    assert (map_ == 0.5).all()


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=4, max_size=40), st.floats(0.01, 0.5))
def test_no_more_held_out_pictures_alarm_than_promised(good: list[float], rate: float) -> None:
    scorer = Scorer(smooth=0, false_alarms=rate)
    scorer.set_threshold("published", torch.tensor(good))
    scores, _ = scorer({"structure": flat(*good)})
    assert (scores >= 0.5).sum().item() <= rate * (len(good) + 1)


def test_another_rate_needs_no_new_calibration() -> None:
    good = torch.arange(400.0)[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    scorer, other = Scorer(smooth=0, false_alarms=0.01), Scorer(smooth=0, false_alarms=0.05)
    for each in (scorer, other):
        each.set_threshold("published", good)
    strict = scorer.score_at(0.05)
    assert strict < scorer.score_at(0.01) == 0.5
    assert scorer({"structure": flat(other.threshold.item())})[0].item() == strict
    scorer.allow(0.05)
    assert torch.equal(scorer.threshold, other.threshold)
    assert scorer.false_alarms == 0.05
    with pytest.raises(ValueError, match=r"false_alarms=0.7: give a share in \(0, 0.5\]"):
        scorer.allow(0.7)


def test_scores_are_strictly_monotone_far_from_the_threshold() -> None:
    near = torch.linspace(-3, 3, 1201)
    far = torch.arange(4.0, 1000)
    values = torch.cat([-far.flip(0), near, far])
    score, map_ = calibrated()({"structure": flat(*values.tolist())})
    assert (score.diff() > 0).all()
    assert torch.equal(map_[:, 0, 0, 0], score)
    extreme, _ = calibrated()({"structure": flat(-1e6, -1e4, 0, 1e4, 1e6)})
    assert (extreme.diff() > 0).all()
    assert extreme.min() > 0
    assert extreme.max() < 1


def test_the_score_is_the_maximum_of_the_map() -> None:
    maps = {"structure": torch.rand(3, 1, 9, 9, generator=torch.Generator().manual_seed(0))}
    score, map_ = calibrated(smooth=1.5)(maps)
    assert score.shape == (3,)
    assert map_.shape == (3, 1, 9, 9)
    assert torch.equal(score, map_.amax((1, 2, 3)))


def test_the_scale_comes_from_the_peaks_of_good_pictures() -> None:
    scorer = calibrated()
    scorer.set_scale({"features": torch.tensor([1.0, 3.0])})  # μ 2, σ 1; structure as it was
    assert scorer.level.tolist() == [0, 2]
    assert scorer.spread.tolist() == [1, 1]
    scorer.set_scale({"structure": torch.tensor([5.0, 5.0])})
    assert scorer.level[0] == 5
    assert scorer.spread[0] > 0  # equal peaks do not divide by zero


def test_fused_and_single_maps_by_hand() -> None:
    scorer = calibrated()
    scorer.set_scale({"structure": torch.tensor([2.0, 6.0]), "features": torch.tensor([0.0, 1.0])})
    maps = {"structure": flat(8.0), "features": flat(2.0)}  # z = (8−4)/2 and (2−0.5)/0.5
    z = {c: scorer.fuse(maps, c).unique().tolist() for c in ("published", "features", "fused")}
    assert z == {"published": [2.0], "features": [3.0], "fused": [2.5]}
    for choice, threshold, score in (
        ("published", 1.0, 0.75),  # u = 1
        ("features", 0.0, 0.875),  # u = 3
        ("fused", 3.5, 0.5 - 0.5 / 4.5),  # u = −1 / 3.5
    ):
        scorer.set_threshold(choice, torch.full((5,), threshold))
        assert scorer.choice == choice
        assert scorer(maps)[0].tolist() == pytest.approx([score])


def test_a_missing_map_is_not_needed_by_the_published_scoring() -> None:
    assert calibrated()({"structure": flat(0.0)})[0].tolist() == [0.5]


def test_each_map_has_its_own_smoothing() -> None:
    spike = torch.zeros(1, 1, 33, 33)
    spike[..., 16, 16] = 1
    smoothed = Scorer(smooth=4, smooth_features=1).smoothed({"structure": spike, "features": spike})
    assert smoothed["structure"].max() < smoothed["features"].max() < 1
    for map_ in smoothed.values():
        assert map_.sum().item() == pytest.approx(1, abs=1e-5)


def test_a_scorer_is_its_state_dict() -> None:
    scorer = calibrated("fused", 0.3)
    scorer.set_scale({"structure": torch.rand(5), "features": torch.rand(5)})
    other = Scorer(smooth=0, smooth_features=0)
    other.load_state_dict(scorer.state_dict())
    maps = {"structure": torch.rand(2, 1, 5, 5), "features": torch.rand(2, 1, 5, 5)}
    for got, wanted in zip(other(maps), scorer(maps), strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(other.good, scorer.good)  # their number too
    other.allow(0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scoring": "auto"}, "scoring=auto: choose best, published, features, fused"),
        ({"false_alarms": 0}, "false_alarms=0: give a share"),
        ({"false_alarms": 0.6}, "false_alarms=0.6: give a share"),
        ({"false_alarms": 1}, "false_alarms=1: give a share"),
    ],
)
def test_wrong_parameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Scorer(**options)


@pytest.mark.parametrize(
    ("published", "features", "fused", "best"),
    [
        (0.59, 0.9875, 0.9878, "features"),  # ahead, but by chance
        (0.90, 0.80, 0.85, "published"),
        (0.80, 0.80, 0.95, "fused"),
        (0.50, 1.00, 1.00, "features"),
    ],
)
def test_fusing_must_be_worth_it(
    published: float, features: float, fused: float, best: str
) -> None:
    aurocs = {"published": published, "features": features, "fused": fused}
    assert best_scoring(aurocs, 64, 192) == best


def test_the_margin_of_fusing_is_a_standard_error() -> None:
    """By simulation: normal scores, 40 good and 60 bad, a single map with an AUROC of 0.85."""
    rng = np.random.default_rng(0)
    shift = stats.norm.ppf(0.85) * 2**0.5
    good, bad = rng.normal(size=(2000, 40, 1)), rng.normal(shift, size=(2000, 1, 60))
    spread = (bad > good).mean((1, 2)).std()

    def chosen(ahead: float) -> str:
        aurocs = {"published": 0.5, "features": 0.85, "fused": 0.85 + ahead}
        return best_scoring(aurocs, 40, 60)

    assert chosen(0.85 * spread) == "features"
    assert chosen(1.15 * spread) == "fused"
