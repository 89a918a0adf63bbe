"""From raw maps to a calibrated score: smoothing, fusion, the threshold for a stated alarm rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vision.anomaly.masking import gaussian_blur

Scoring = Literal["best", "published", "features", "fused"]
COMPONENTS: dict[str, tuple[str, ...]] = {
    "published": ("structure",),
    "features": ("features",),
    "fused": ("structure", "features"),
}


def check_rate(rate: float, told: str = "") -> None:
    """ValueError unless so many false alarms may be asked for; `told` is how a caller says it."""
    if not 0 < rate <= 0.5:
        told = told or f"false_alarms={rate}"
        raise ValueError(f"{told}: give a share in (0, 0.5], say 0.01")


class Scorer(nn.Module):
    """Raw maps → one map and one score per picture, both calibrated: 0.5 is the threshold.

    Each raw map is smoothed, and put on the scale of good pictures: z = (map − μ) / σ with μ and σ
    of the image maxima over held-out good pictures. The fused map is the mean of the z of the
    chosen components. The image score is its maximum. A raw value r becomes
    0.5 + 0.5·u/(1 + |u|) with u = (r − threshold)/unit: monotone, 0.5 at the threshold, and slow to
    saturate: scores hundreds of spreads away are still told apart. The unit is the threshold for
    one false alarm in a hundred, at least a spread, so the average good picture has about 0.25.

    Args:
        scoring: `published` (MSGMS alone), `features`, `fused`, or `best`: whichever of them tells
            held-out good pictures from the same with synthetic defects best (`best_scoring`).
        false_alarms: share of good pictures that may be called defective, in (0, 0.5].
        smooth: standard deviation in pixels of the Gaussian over the structure map; 7 is RIAD's.
        smooth_features: the same over the feature map.
    """

    chosen: Tensor
    level: Tensor
    spread: Tensor
    threshold: Tensor
    unit: Tensor
    good: Tensor

    def __init__(
        self,
        scoring: Scoring = "best",
        false_alarms: float = 0.01,
        smooth: float = 7.0,
        smooth_features: float = 4.0,
    ) -> None:
        super().__init__()
        if scoring != "best" and scoring not in COMPONENTS:
            raise ValueError(f"scoring={scoring}: choose best, {', '.join(COMPONENTS)}")
        check_rate(false_alarms)
        self.scoring, self.false_alarms = scoring, false_alarms
        self.smooth = {"structure": smooth, "features": smooth_features}
        # Index of the chosen key of COMPONENTS; -1 while not calibrated.
        self.register_buffer("chosen", torch.tensor(-1))
        self.register_buffer("level", torch.zeros(2))  # μ of structure, features
        self.register_buffer("spread", torch.ones(2))  # σ
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("unit", torch.ones(()))
        # Raw scores of the held-out good pictures, so that another rate needs no new training.
        self.register_buffer("good", torch.zeros(0))

    @property
    def calibrated(self) -> bool:
        return int(self.chosen) >= 0

    @property
    def choice(self) -> str:
        """The scoring in use. Raises ValueError while not calibrated."""
        if not self.calibrated:
            raise ValueError("the detector is not calibrated; run `train.py fit` to the end first")
        return list(COMPONENTS)[int(self.chosen)]

    def smoothed(self, raw: dict[str, Tensor]) -> dict[str, Tensor]:
        """Named B×1×S×S raw maps → the same, smoothed."""
        return {name: gaussian_blur(m.float(), self.smooth[name]) for name, m in raw.items()}

    def fuse(self, smoothed: dict[str, Tensor], choice: str | None = None) -> Tensor:
        """Named B×1×S×S smoothed maps → B×1×S×S map in units of the spread of good pictures."""
        names = COMPONENTS[choice or self.choice]
        order = list(self.smooth)
        scaled = [
            (smoothed[n] - self.level[order.index(n)]) / self.spread[order.index(n)] for n in names
        ]
        return torch.stack(scaled).mean(0)

    def forward(self, raw: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Named raw maps → calibrated scores B and map B×1×S×S, both in (0, 1).

        Raises:
            ValueError: not calibrated yet.
        """
        squashed = self._squash(self.fuse(self.smoothed(raw)) - self.threshold)
        return squashed.flatten(1).amax(1), squashed

    def score_at(self, rate: float) -> float:
        """The calibrated score that is the threshold for another false-alarm rate."""
        return float(self._squash(self._threshold_for(rate) - self.threshold))

    def allow(self, rate: float) -> None:
        """Move the threshold to another false-alarm rate."""
        check_rate(rate)
        self.false_alarms = rate
        self.threshold.copy_(self._threshold_for(rate))

    def _squash(self, distance: Tensor) -> Tensor:
        ratio = distance / self.unit
        return 0.5 + 0.5 * ratio / (1 + ratio.abs())

    def _threshold_for(self, rate: float) -> Tensor:
        """Just above the rate's threshold, so a held-out picture exactly at it is still good.

        Where that is small beside the unit, the next float is so close that squashing would round
        the picture up to 0.5.
        """
        exact = torch.tensor(alarm_threshold(self.good.tolist(), rate))
        above = torch.nextafter(exact, torch.tensor(torch.inf)).to(self.good)
        return above.maximum(exact.to(self.good) + 2 * torch.finfo(exact.dtype).eps * self.unit)

    def set_scale(self, peaks: dict[str, Tensor]) -> None:
        """Take μ and σ from the image maxima (one vector per map) of held-out good pictures."""
        for i, name in enumerate(self.smooth):
            if name in peaks:
                self.level[i] = peaks[name].mean()
                self.spread[i] = peaks[name].std(correction=0).clamp_min(1e-8)

    def set_threshold(self, choice: str, good: Tensor) -> None:
        """Fix the scoring, and the threshold from the raw scores of held-out good pictures."""
        self.chosen.fill_(list(COMPONENTS).index(choice))
        self.good = good.detach().to(self.threshold).sort().values
        self.unit.fill_(max(alarm_threshold(self.good.tolist(), 0.01), 1.0))
        self.allow(self.false_alarms)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: object) -> None:
        if f"{prefix}good" in state:  # their number is data, not architecture
            self.good = self.good.new_empty(len(state[f"{prefix}good"]))
        super()._load_from_state_dict(state, prefix, *args)


def best_scoring(aurocs: Mapping[str, float], n_good: int, n_bad: int) -> str:
    """The scoring whose AUROC over `n_good` and `n_bad` pictures is highest; a single map if close.

    Fusing has to be ahead of the best single map by a standard error (Hanley & McNeil 1982) of its
    AUROC; what is closer is chance, and then the simpler stands (Breiman et al. 1984). Our choice:
    a map that adds nothing on painted defects may still add noise on parts not seen before.
    """
    single = max((n for n in aurocs if len(COMPONENTS[n]) == 1), key=aurocs.__getitem__)
    best = max(aurocs, key=aurocs.__getitem__)
    a = aurocs[single]
    bad_pair = a / (2 - a) - a**2  # two bad pictures both above one good one, beyond chance
    good_pair = 2 * a**2 / (1 + a) - a**2
    variance = (a * (1 - a) + (n_bad - 1) * bad_pair + (n_good - 1) * good_pair) / (n_good * n_bad)
    return best if aurocs[best] > a + math.sqrt(variance) else single


def alarm_threshold(good: Sequence[float], rate: float) -> float:
    """The score that a share `rate` of good pictures exceeds, from held-out good pictures alone.

    With enough pictures it is the conformal quantile, the ⌈(n+1)(1−rate)⌉-th smallest score, whose
    false-alarm rate on new pictures is at most `rate` on average. With fewer than 1/rate − 1
    pictures no such score was seen; then the upper quarter is extended as an exponential tail
    (peaks over threshold), our choice because a dozen pictures are enough for it. How uncertain its
    scale is with k excesses is allowed for, so for an exponential tail the rate holds on average
    whatever n; a lighter tail, such as the normal one, gives fewer alarms, a heavier one more.

    Raises:
        ValueError: fewer than 4 pictures, or a score that is not finite.
    """
    n = len(good)
    if n < 4:
        raise ValueError(f"{n} held-out good pictures are too few for a threshold; give 4 or more")
    if not all(math.isfinite(score) for score in good):
        raise ValueError("a held-out good picture has no finite score; train with a lower lr")
    ranked = sorted(good)
    rank = math.ceil((n + 1) * (1 - rate) - 1e-9)  # 400 × 0.55 is a little more than 220
    if rank <= n:
        return ranked[rank - 1]
    k = max(2, round(n / 4))
    knee, total = ranked[-k - 1], sum(s - ranked[-k - 1] for s in ranked[-k:])
    # On average (k+1)/(n+1) of new scores exceed the knee, and (1 + t/total)^-k of those exceed it
    # by t: the mean of exp(-t/scale), as total is a Gamma(k) multiple of the scale.
    tail = knee + total * (((k + 1) / (n + 1) / rate) ** (1 / k) - 1)
    return max(tail, ranked[-1])
