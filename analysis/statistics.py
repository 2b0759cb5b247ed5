"""Paired contrasts and intervals: arrays in, numbers out. The mathematics is scipy's and statsmodels'."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval; `low` and `high` are nan where one value says nothing of the spread."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """An arm against the baseline, paired by seed. `p` is nan with fewer than two seeds."""

    difference: Interval
    p: float
    seeds: int


def mean_interval(values: np.ndarray) -> Interval:
    """The mean and its Student interval; the values are one a seed."""
    mean = float(np.mean(values)) if len(values) else float("nan")
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1) * stats.sem(values))
    return Interval(mean, mean - half, mean + half)


def paired_contrast(arm: np.ndarray, baseline: np.ndarray) -> Contrast:
    """Mean of `arm - baseline` over seeds, its Student interval, and the exact two-sided sign-flip p.

    Both arrays hold one value a seed, in the same order of seeds.
    """
    differences = arm - baseline
    if len(differences) < 2:
        return Contrast(mean_interval(differences), float("nan"), len(differences))
    flipped = stats.permutation_test(
        (differences,),
        np.mean,
        permutation_type="samples",
        n_resamples=10_000,
        rng=np.random.default_rng(0),
        vectorized=True,
    )
    return Contrast(mean_interval(differences), float(flipped.pvalue), len(differences))


def smallest_p(seeds: int) -> float:
    """The smallest two-sided p that `seeds` sign flips can give."""
    return 2.0 ** (1 - seeds)


def holm(p_values: list[float]) -> list[float]:
    """Holm's adjustment within one family; nan stays nan and does not count."""
    from statsmodels.stats.multitest import multipletests

    given = np.array(p_values, dtype=float)
    known = ~np.isnan(given)
    if known.any():
        given[known] = multipletests(given[known], method="holm")[1]
    return [float(value) for value in given]


def ratio_interval(numerator: np.ndarray, denominator: np.ndarray, resamples: int = 5000) -> Interval:
    """Ratio of two means over paired seeds with a percentile bootstrap interval (seeds are resampled)."""
    ratio = float(np.mean(numerator) / np.mean(denominator))
    if len(numerator) < 2:
        return Interval(ratio, float("nan"), float("nan"))
    rows = np.random.default_rng(0).integers(0, len(numerator), size=(resamples, len(numerator)))
    ratios = numerator[rows].mean(axis=1) / denominator[rows].mean(axis=1)
    low, high = np.quantile(ratios, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Interval(ratio, float(low), float(high))
