"""How a metric responds to a number that is varied, such as a temperature or a ratio: runs in, frames out."""

import numpy as np
import polars as pl
from scipy.interpolate import PchipInterpolator

from analysis.runs import Runs
from analysis.statistics import mean_interval

POINTS = {"level": pl.Float64, "seeds": pl.Int64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
CURVE = {"level": pl.Float64, "fit": pl.Float64, "low": pl.Float64, "high": pl.Float64}
FEWEST = 4  # levels that a curve is fitted to
WIDE = 20.0  # ratio of the levels from which on they are spaced by their logarithms


def varied(runs: Runs) -> tuple[str, dict[str, float]] | None:
    """The one factor that is varied, where it is a number with at least `FEWEST` levels, and the level of each arm."""
    arms = {arm: values for arm, values in runs.experiment.get("arm_values", {}).items() if arm in runs.arms}
    if len(arms) < FEWEST:
        return None
    changing = [name for name in next(iter(arms.values())) if len({str(values[name]) for values in arms.values()}) > 1]
    if len(changing) != 1:
        return None
    levels = {arm: values[changing[0]] for arm, values in arms.items()}
    if not all(isinstance(level, int | float) and not isinstance(level, bool) for level in levels.values()):
        return None
    return changing[0], {arm: float(level) for arm, level in levels.items()}


def points(runs: Runs, metric: str, levels: dict[str, float]) -> pl.DataFrame:
    """A row a level: the mean over seeds with its Student interval."""
    final = runs.final(metric)
    rows = []
    for arm, level in sorted(levels.items(), key=lambda each: each[1]):
        values = final.filter(pl.col("arm") == arm)["value"].to_numpy()
        if len(values):
            reached = mean_interval(values)
            rows.append((level, len(values), reached.mean, reached.low, reached.high))
    return pl.DataFrame(rows, schema=POINTS, orient="row")


def logarithmic(levels: list[float]) -> bool:
    return min(levels) > 0 and max(levels) / min(levels) >= WIDE


def curve(found: pl.DataFrame, count: int = 121) -> pl.DataFrame:
    """Fritsch and Carlson's monotone interpolation of the means and of the ends of their intervals: between two levels it neither overshoots nor turns.

    A Gaussian process was tried and dropped: with so few levels, each of its own spread, it passed far from the points where the response bends.
    """
    known = found.filter(pl.col("low").is_not_nan() & pl.col("low").is_not_null())
    if known.height < FEWEST:
        return pl.DataFrame(schema=CURVE)
    levels = known["level"].to_list()
    log = logarithmic(levels)
    x = np.log(levels) if log else np.array(levels)
    at = np.linspace(x.min(), x.max(), count)
    parts = [PchipInterpolator(x, known[name].to_numpy())(at) for name in ("mean", "low", "high")]
    rows = zip(np.exp(at) if log else at, *parts, strict=True)
    return pl.DataFrame([tuple(map(float, row)) for row in rows], schema=CURVE, orient="row")
