"""Many scores of each run as one number with its interval, after rliable (Agarwal et al. 2021): arrays in, frames out.

A score array is [seeds, tasks]: here the tasks are kinds of foils, disturbances or suites, on a scale from 0 to 1.
"""

from collections.abc import Callable, Mapping

import numpy as np
import polars as pl
from scipy import stats

from analysis.runs import Runs
from analysis.statistics import CONFIDENCE, Interval, percentile_interval

Statistic = Callable[[np.ndarray], np.ndarray]
AGGREGATES = {"arm": pl.String, "aggregate": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
PROFILE = {"arm": pl.String, "threshold": pl.Float64, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def mean(scores: np.ndarray) -> np.ndarray:
    """The mean of the tasks' means, of [..., seeds, tasks]."""
    return np.mean(scores, axis=(-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """The median of the tasks' means."""
    return np.median(np.mean(scores, axis=-2), axis=-1)


def iqm(scores: np.ndarray) -> np.ndarray:
    """Interquartile mean: the mean of the middle half of all scores, of whatever seed and task."""
    return stats.trim_mean(scores.reshape(*scores.shape[:-2], -1), proportiontocut=0.25, axis=-1)


STATISTICS: dict[str, Statistic] = {"IQM": iqm, "mean": mean, "median": median}


def resampled(scores: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Stratified bootstrap, [resamples, seeds, tasks]: the seeds of each task are drawn anew, independently of the other tasks."""
    seeds, tasks = scores.shape
    return np.take_along_axis(scores[None], rng.integers(0, seeds, (resamples, seeds, tasks)), axis=1)


def stratified_interval(scores: np.ndarray, statistic: Statistic, resamples: int = 2000, seed: int = 0) -> Interval:
    """The statistic of [seeds, tasks] with its percentile interval of the stratified bootstrap; without one where there is one seed."""
    if len(scores) < 2:
        return Interval(float(statistic(scores)), float("nan"), float("nan"))
    drawn = statistic(resampled(scores, resamples, np.random.default_rng(seed)))
    return percentile_interval(float(statistic(scores)), drawn)


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of all scores of [..., seeds, tasks] above each threshold."""
    return np.mean(scores[..., None] > thresholds, axis=(-3, -2))


def profile_interval(
    scores: np.ndarray, thresholds: np.ndarray, resamples: int = 1000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The profile, and its pointwise interval of the stratified bootstrap."""
    drawn = performance_profile(resampled(scores, resamples, np.random.default_rng(0)), thresholds)
    low, high = np.quantile(drawn, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2], axis=0)
    return performance_profile(scores, thresholds), low, high


def probability_of_improvement(arm: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """How likely a score of the arm is above one of the baseline on the same task, ties counting half, averaged over tasks."""
    found = stats.mannwhitneyu(arm, baseline, axis=-2, method="asymptotic").statistic
    return np.mean(found / (arm.shape[-2] * baseline.shape[-2]), axis=-1)


def improvement_interval(arm: np.ndarray, baseline: np.ndarray, resamples: int = 2000) -> Interval:
    """The probability of improvement with its interval of the stratified bootstrap of both."""
    value = float(probability_of_improvement(arm, baseline))
    if min(len(arm), len(baseline)) < 2:
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    drawn = resampled(arm, resamples, rng), resampled(baseline, resamples, rng)
    return percentile_interval(value, probability_of_improvement(*drawn))


def score_arrays(runs: Runs, prefix: str = "val/foil/") -> dict[str, np.ndarray]:
    """Arm -> [seeds, tasks], the tasks being all metrics that begin with `prefix`; seeds that lack one of them are left out."""
    names = runs.names(prefix)
    arrays = {}
    for arm in runs.arms if names else []:
        table = pl.concat(
            [runs.final(name).filter(pl.col("arm") == arm).with_columns(task=pl.lit(name)) for name in names]
        ).pivot("task", on_columns=names, index="seed", values="value")
        whole = table.sort("seed").drop("seed").drop_nulls()
        if whole.height:
            arrays[arm] = whole.to_numpy()
    return arrays


def aggregate_table(arrays: Mapping[str, np.ndarray], baseline: str) -> pl.DataFrame:
    """A row an arm and aggregate: IQM, mean and median over all tasks, and the probability of improvement over the baseline."""
    rows = []
    for arm, scores in arrays.items():
        found = {name: stratified_interval(scores, statistic) for name, statistic in STATISTICS.items()}
        if arm != baseline and baseline in arrays:
            found["probability of improvement"] = improvement_interval(scores, arrays[baseline])
        rows += [
            {"arm": arm, "aggregate": name, "value": each.mean, "low": each.low, "high": each.high}
            for name, each in found.items()
        ]
    return pl.DataFrame(rows, schema=AGGREGATES).with_columns(pl.col("low", "high").fill_nan(None))


def profile_table(arrays: Mapping[str, np.ndarray], points: int = 81) -> pl.DataFrame:
    """A row an arm and threshold between the lowest and the highest score."""
    rows = []
    if arrays:
        low = min(float(scores.min()) for scores in arrays.values())
        high = max(float(scores.max()) for scores in arrays.values())
        thresholds = np.linspace(low, high, points)
        for arm, scores in arrays.items():
            for each in zip(thresholds, *profile_interval(scores, thresholds), strict=True):
                rows.append({"arm": arm} | dict(zip(list(PROFILE)[1:], map(float, each), strict=True)))
    return pl.DataFrame(rows, schema=PROFILE)
