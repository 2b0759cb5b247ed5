"""Aggregates over all kinds of foils: the many scores of each run as one number with its interval, after rliable
(Agarwal et al. 2021).

A score array is [seeds, tasks]: here the tasks are kinds of foils, on a scale from 0 to 1. One run scores all tasks, so
the bootstrap draws whole seeds. rliable draws seeds separately for each task, which treats the scores of one run as
independent.
"""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from scipy import stats

from analysis.foils import PREFIX, at_chance, suite_table
from analysis.runs import Runs
from analysis.section import Plot, Row, Section, Table
from analysis.statistics import Interval, mean_interval, percentile_interval
from analysis.style import STYLE, colour_of, dash_of, legend
from analysis.wording import counted, listed, number, spread
from workbench.metrics import OWN_SUITES, SCENES, spaced
from workbench.significance import fewest_seeds

CAPTION = (
    "Left: interquartile mean, mean and median of the accuracy over kinds of foils and seeds. Right: the share of kinds"
    " and seeds above each accuracy. 95 % intervals of a bootstrap of whole seeds (after Agarwal et al. 2021)."
)
Statistic = Callable[[np.ndarray], np.ndarray]
AGGREGATES = {"arm": pl.String, "aggregate": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64}
PROFILE = {"arm": pl.String, "threshold": pl.Float64, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64}


def section(runs: Runs) -> Section | None:
    """Returns aggregates and the performance profile over the kinds of foils that some arm solves above chance."""
    suite = next((own for own in OWN_SUITES if runs.names(f"{PREFIX}{own}/")), SCENES)
    names = runs.names(f"{PREFIX}{suite}/")
    guessed = at_chance(suite_table(runs, suite)) if names else []
    kept = [name for name in names if name.removeprefix(f"{PREFIX}{suite}/") not in guessed]
    arrays = score_arrays(runs, kept)
    if not arrays:
        return None
    table, profile = aggregate_table(arrays, runs.baseline), profile_table(arrays)
    over = f"Over {counted(len(kept), 'kind')} of foils"
    lead = [f"{over}."]
    if guessed:
        lead = [f"{over}; left out, since at chance in every arm: {listed([spaced(kind) for kind in guessed])}."]
    rows = [
        Row([row["arm"], row["aggregate"], number(row["value"]), spread(row["low"], row["high"])])
        for row in table.iter_rows(named=True)
    ]
    return Section(
        "aggregates",
        "All foils together",
        lead,
        tables=[Table("Aggregates", ("arm", "aggregate", "value", "95 % interval"), rows, folded=True)],
        plots=[Plot("aggregates", CAPTION, aggregate_figure(table, profile, runs.arms, "accuracy"))],
        split="test",
        frames={"aggregates": table, "performance_profile": profile},
    )


def mean(scores: np.ndarray) -> np.ndarray:
    """Returns the mean of the tasks' means, for [..., seeds, tasks]."""
    return np.mean(scores, axis=(-2, -1))


def median(scores: np.ndarray) -> np.ndarray:
    """Returns the median of the tasks' means."""
    return np.median(np.mean(scores, axis=-2), axis=-1)


def iqm(scores: np.ndarray) -> np.ndarray:
    """Returns the interquartile mean: the mean of the middle half of all scores over seeds and tasks."""
    return stats.trim_mean(scores.reshape(*scores.shape[:-2], -1), proportiontocut=0.25, axis=-1)


STATISTICS: dict[str, Statistic] = {"IQM": iqm, "mean": mean, "median": median}


def resampled(scores: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Returns bootstrap samples of whole seeds, [resamples, seeds, tasks]. One run scores all tasks, so tasks are not
    independent."""
    seeds = len(scores)
    return scores[rng.integers(0, seeds, (resamples, seeds))]


def seed_interval(scores: np.ndarray, statistic: Statistic, resamples: int = 2000, seed: int = 0) -> Interval:
    """Returns the statistic of [seeds, tasks] with its bootstrap interval over seeds; for the mean, with Student's.
    There is no interval where the seeds are too few for a bootstrap."""
    if statistic is mean:
        return mean_interval(scores.mean(axis=1), (0.0, 1.0))
    if len(scores) < fewest_seeds():
        return Interval(float(statistic(scores)), float("nan"), float("nan"))
    drawn = statistic(resampled(scores, resamples, np.random.default_rng(seed)))
    return percentile_interval(float(statistic(scores)), drawn, len(scores))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Returns the share of all scores of [..., seeds, tasks] above each threshold."""
    return np.mean(scores[..., None] > thresholds, axis=(-3, -2))


def profile_interval(
    scores: np.ndarray, thresholds: np.ndarray, resamples: int = 1000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the profile with its pointwise bootstrap interval over seeds."""
    drawn = performance_profile(resampled(scores, resamples, np.random.default_rng(0)), thresholds)
    whole = performance_profile(scores, thresholds)
    if len(scores) < fewest_seeds():
        return whole, np.full_like(whole, np.nan), np.full_like(whole, np.nan)
    ends = [percentile_interval(0.0, draws, len(scores)) for draws in drawn.T]
    return whole, np.array([end.low for end in ends]), np.array([end.high for end in ends])


def probability_of_improvement(arm: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Returns the probability that a score of the arm exceeds one of the baseline on the same task, averaged over
    tasks. Ties count half."""
    wins = stats.mannwhitneyu(arm, baseline, axis=-2, method="asymptotic").statistic
    return np.mean(wins / (arm.shape[-2] * baseline.shape[-2]), axis=-1)


def improvement_interval(arm: np.ndarray, baseline: np.ndarray, resamples: int = 2000) -> Interval:
    """Returns the probability of improvement with its bootstrap interval over the seeds of both arms."""
    value = float(probability_of_improvement(arm, baseline))
    if min(len(arm), len(baseline)) < fewest_seeds():
        return Interval(value, float("nan"), float("nan"))
    rng = np.random.default_rng(0)
    drawn = resampled(arm, resamples, rng), resampled(baseline, resamples, rng)
    return percentile_interval(value, probability_of_improvement(*drawn), min(len(arm), len(baseline)))


def score_arrays(runs: Runs, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns arm -> [seeds, tasks], where the tasks are the metrics. Seeds that lack a metric are left out."""
    arrays = {}
    for arm in runs.arms if names else []:
        frames = [runs.final(name).filter(pl.col("arm") == arm).with_columns(task=pl.lit(name)) for name in names]
        table = pl.concat(frames).pivot("task", on_columns=names, index="seed", values="value")
        whole = table.sort("seed").drop("seed").drop_nulls()
        if whole.height:
            arrays[arm] = whole.to_numpy()
    return arrays


def aggregate_table(arrays: Mapping[str, np.ndarray], baseline: str) -> pl.DataFrame:
    """Returns one row per arm and aggregate: IQM, mean and median over all tasks, and the probability of improvement
    over the baseline."""
    rows = []
    for arm, scores in arrays.items():
        intervals = {name: seed_interval(scores, statistic) for name, statistic in STATISTICS.items()}
        if arm != baseline and baseline in arrays:
            intervals["probability of improvement"] = improvement_interval(scores, arrays[baseline])
        rows += [
            {"arm": arm, "aggregate": name, "value": interval.mean, "low": interval.low, "high": interval.high}
            for name, interval in intervals.items()
        ]
    return pl.DataFrame(rows, schema=AGGREGATES).with_columns(pl.col("low", "high").fill_nan(None))


def profile_table(arrays: Mapping[str, np.ndarray], points: int = 81) -> pl.DataFrame:
    """Returns one row per arm and threshold, from the lowest to the highest score."""
    rows = []
    if arrays:
        low = min(float(scores.min()) for scores in arrays.values())
        high = max(float(scores.max()) for scores in arrays.values())
        thresholds = np.linspace(low, high, points)
        for arm, scores in arrays.items():
            for point in zip(thresholds, *profile_interval(scores, thresholds), strict=True):
                rows.append({"arm": arm} | dict(zip(list(PROFILE)[1:], map(float, point), strict=True)))
    return pl.DataFrame(rows, schema=PROFILE).with_columns(pl.col("low", "high").fill_nan(None))


def aggregate_figure(table: pl.DataFrame, profiles: pl.DataFrame, arms: Sequence[str], what: str) -> Figure:
    """Draws on the left IQM, mean and median of all scores with their intervals, on the right the share of scores above
    each threshold."""
    names = [name for name in ("median", "mean", "IQM") if name in table["aggregate"].to_list()]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.3))
        for index, arm in enumerate(arms):
            colour, marker = colour_of(arms, arm)
            part = table.filter(pl.col("arm") == arm)
            for y, name in enumerate(names):
                for row in part.filter(pl.col("aggregate") == name).iter_rows(named=True):
                    at = y - (index - (len(arms) - 1) / 2) * 0.7 / max(1, len(arms))
                    if row["low"] is not None:
                        left.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=1.6)
                    left.plot([row["value"]], [at], marker, color=colour, ms=4.5, label=arm if name == "IQM" else None)
            curve = profiles.filter(pl.col("arm") == arm)
            right.plot(curve["threshold"], curve["share"], color=colour, linewidth=1.4, linestyle=dash_of(arms, arm))
            curve = curve.drop_nulls()
            right.fill_between(curve["threshold"], curve["low"], curve["high"], color=colour, alpha=0.12, linewidth=0)
        left.set_yticks(range(len(names)), names)
        left.set_xlabel(what)
        left.set_title("over all kinds and seeds", fontsize=10, loc="left")
        right.set_xlabel(f"{what} above")
        right.set_ylabel("share of kinds and seeds")
        right.set_title("performance profile", fontsize=10, loc="left")
        legend(figure, left)
        return figure
