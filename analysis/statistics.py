"""Intervals and exact tests over seeds: arrays in, numbers out. Based on scipy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from workbench.significance import LEVEL, smallest_p

CONFIDENCE = 0.95
MOST_FLIPS = 8192  # maximum number of enumerated sign flips; for more than 14 seeds this many are drawn
NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval. `low` and `high` are nan where a single value does not show the spread."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """An arm compared with the baseline, paired by seed: the mean difference with its Student interval, the exact
    two-sided sign-flip p, the number of paired seeds, and the standard deviation of the differences. Values that need
    two seeds are nan with fewer."""

    difference: Interval
    p: float
    seeds: int
    spread: float


def mean_interval(values: np.ndarray, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """Returns the mean and its Student interval, clipped to the `bounds` of the quantity. There is one value per
    seed."""
    mean = float(np.mean(values)) if len(values) else NAN
    if len(values) < 2 or (np.ptp(values) == 0 and smallest_p(len(values)) > LEVEL):
        return Interval(mean, NAN, NAN)  # a few values that happen to be equal do not show their spread
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * stats.sem(values))
    low, high = bounds
    return Interval(mean, max(low, mean - half), min(high, mean + half))


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, bounds: tuple[float, float]) -> Interval:
    """Returns the ratio of two sums over seeds, with the Student interval of its linearisation over seeds (Cochran
    1977, 6.3), so that the interval is that of the same estimate. The ends are nan with fewer than two seeds."""
    whole = float(denominators.sum())
    if whole <= 0:
        return Interval(NAN, NAN, NAN)
    ratio = float(numerators.sum()) / whole
    count = len(numerators)
    if count < 2:
        return Interval(ratio, NAN, NAN)
    residuals = (numerators - ratio * denominators) / (whole / count)
    error = float(np.std(residuals, ddof=1)) / np.sqrt(count)
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * error
    return Interval(ratio, max(bounds[0], ratio - half), min(bounds[1], ratio + half))


def paired_contrast(arm: np.ndarray, baseline: np.ndarray) -> Contrast:
    """Returns the mean of `arm - baseline` over seeds, its Student interval, and the exact two-sided sign-flip p.

    Both arrays hold one value per seed, in the same order of seeds. A nan value makes the whole result nan.
    """
    differences = np.asarray(arm, dtype=float) - np.asarray(baseline, dtype=float)
    count = len(differences)
    if count < 2 or np.isnan(differences).any():
        mean = float(np.mean(differences)) if count else NAN
        return Contrast(Interval(mean, NAN, NAN), NAN, count, NAN)
    flipped = np.abs(signs(count) @ differences)
    p = float(np.mean(flipped >= flipped[0] - 1e-9 * np.abs(differences).sum()))
    return Contrast(mean_interval(differences), p, count, float(np.std(differences, ddof=1)))


def signs(seeds: int, most: int = MOST_FLIPS) -> np.ndarray:
    """Returns sign flips of `seeds` seeds, float [flips, seeds]; the first one is the identity. A flip and its opposite
    have the same two-sided statistic, so one of each two is enough. Returns all flips where there are at most `most`,
    else `most` random ones."""
    if 2 ** (seeds - 1) <= most:
        return 1.0 - 2.0 * ((np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds)) & 1)
    drawn = np.random.default_rng(0).integers(0, 2, (most, seeds))
    drawn[0] = 0
    return 1.0 - 2.0 * drawn


def percentile_interval(value: float, drawn: np.ndarray, seeds: int) -> Interval:
    """Returns a value with the percentile interval of its bootstrap draws over `seeds` seeds, expanded after Hesterberg
    (2015, section 5.3), since the plain interval is too narrow for few seeds."""
    t = stats.t.ppf(0.5 + CONFIDENCE / 2, seeds - 1)
    tail = float(stats.norm.sf(t * np.sqrt(seeds / (seeds - 1))))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def incidence(times: np.ndarray, kinds: np.ndarray) -> list[tuple[float, float, float, float]]:
    """Returns the cumulative incidence of kind 1 with the competing kind 2; 0 is censored. Rows: time, share and the
    ends of its 95 % interval (Aalen's variance, complementary log-log), nan where it is not defined."""
    survival, share = 1.0, 0.0
    past: list[
        tuple[float, float, float, float, float]
    ] = []  # share, survival before, at risk, all events, events of kind 1
    rows = []
    for time in np.unique(times[kinds > 0]):
        risk = float((times >= time).sum())
        events, every = float(((times == time) & (kinds == 1)).sum()), float(((times == time) & (kinds > 0)).sum())
        share += survival * events / risk
        past.append((share, survival, risk, every, events))
        survival *= 1 - every / risk
        if events:
            rows.append((float(time), share, *_loglog(share, _variance(share, past))))
    return rows


def _variance(share: float, past: Sequence[tuple[float, float, float, float, float]]) -> float:
    total = 0.0
    for then, survival, risk, every, events in past:
        if every < risk:
            total += (share - then) ** 2 * every / (risk * (risk - every))
        total += survival**2 * events * (risk - events) / risk**3
        total -= 2 * (share - then) * survival * events / risk**2
    return total


def _loglog(share: float, variance: float) -> tuple[float, float]:
    if not 0 < share < 1 - 1e-12 or variance <= 0:
        return float("nan"), float("nan")
    half = stats.norm.ppf(0.975) * np.sqrt(variance) / abs(share * np.log(share))
    return float(share ** np.exp(half)), float(share ** np.exp(-half))
