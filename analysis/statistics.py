"""Intervals and exact tests over seeds: arrays in, numbers out. The mathematics is scipy's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from workbench.significance import LEVEL, smallest_p

CONFIDENCE = 0.95
MOST_FLIPS = 8192  # sign flips that are enumerated; of more than 14 seeds so many are drawn
NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; `low` and `high` are nan where one value says nothing of the spread."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """An arm against the baseline, paired by seed: the mean difference with its Student interval, the exact two-sided
    sign-flip p, the number of paired seeds, and the standard deviation of the differences. What needs two seeds is nan
    with fewer."""

    difference: Interval
    p: float
    seeds: int
    spread: float


def mean_interval(values: np.ndarray, bounds: tuple[float, float] = (-np.inf, np.inf)) -> Interval:
    """The mean and its Student interval, cut where the quantity itself ends (`bounds`); the values are one per seed."""
    mean = float(np.mean(values)) if len(values) else NAN
    if len(values) < 2 or (np.ptp(values) == 0 and smallest_p(len(values)) > LEVEL):
        return Interval(mean, NAN, NAN)  # few values that happen to be equal say nothing of their spread
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * stats.sem(values))
    low, high = bounds
    return Interval(mean, max(low, mean - half), min(high, mean + half))


def ratio_interval(numerators: np.ndarray, denominators: np.ndarray, bounds: tuple[float, float]) -> Interval:
    """The ratio of two sums over seeds, with the Student interval of its linearisation over seeds (Cochran 1977, 6.3),
    so that the interval is about the very estimate; nan ends with fewer than two seeds."""
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
    """Mean of `arm - baseline` over seeds, its Student interval, and the exact two-sided sign-flip p.

    Both arrays hold one value per seed, in the same order of seeds. A value that is nan makes all of it nan.
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
    """Sign flips of so many seeds, float [flips, seeds], the first one the identity. A flip and its opposite give the
    same two-sided statistic, so that one of each two is enough. All of them where they are at most `most`, else so many
    drawn ones."""
    if 2 ** (seeds - 1) <= most:
        return 1.0 - 2.0 * ((np.arange(2 ** (seeds - 1))[:, None] >> np.arange(seeds)) & 1)
    drawn = np.random.default_rng(0).integers(0, 2, (most, seeds))
    drawn[0] = 0
    return 1.0 - 2.0 * drawn


def percentile_interval(value: float, drawn: np.ndarray, seeds: int) -> Interval:
    """A value with the percentile interval of its bootstrap draws over so many seeds, widened as Hesterberg (2015,
    section 5.3) widens it, since of few seeds the plain one is too narrow."""
    t = stats.t.ppf(0.5 + CONFIDENCE / 2, seeds - 1)
    tail = float(stats.norm.sf(t * np.sqrt(seeds / (seeds - 1))))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def incidence(times: np.ndarray, kinds: np.ndarray) -> list[tuple[float, float, float, float]]:
    """The cumulative incidence of kind 1 beside the competing kind 2; 0 is censored. Rows of time, share and the ends
    of its 95 % interval (variance of Aalen's kind, complementary log-log), nan where it is not defined."""
    survival, share = 1.0, 0.0
    past: list[
        tuple[float, float, float, float, float]
    ] = []  # share, survival before, at risk, all events, events of kind 1
    rows = []
    for time in np.unique(times[kinds > 0]):
        risk = float((times >= time).sum())
        own, every = float(((times == time) & (kinds == 1)).sum()), float(((times == time) & (kinds > 0)).sum())
        share += survival * own / risk
        past.append((share, survival, risk, every, own))
        survival *= 1 - every / risk
        if own:
            rows.append((float(time), share, *_loglog(share, _variance(share, past))))
    return rows


def _variance(share: float, past: Sequence[tuple[float, float, float, float, float]]) -> float:
    total = 0.0
    for then, survival, risk, every, own in past:
        if every < risk:
            total += (share - then) ** 2 * every / (risk * (risk - every))
        total += survival**2 * own * (risk - own) / risk**3
        total -= 2 * (share - then) * survival * own / risk**2
    return total


def _loglog(share: float, variance: float) -> tuple[float, float]:
    if not 0 < share < 1 - 1e-12 or variance <= 0:
        return float("nan"), float("nan")
    half = stats.norm.ppf(0.975) * np.sqrt(variance) / abs(share * np.log(share))
    return float(share ** np.exp(half)), float(share ** np.exp(-half))
