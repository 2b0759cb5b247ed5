"""What each arm costs, and which arms no other one beats at their cost: runs in, frames out."""

import polars as pl

from analysis.runs import Runs
from analysis.statistics import mean_interval
from workbench.config.schema import lower_is_better

COST = {
    "arm": pl.String,
    "trials": pl.Int64,
    "seconds": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "device_hours": pl.Float64,
    "kilojoules": pl.Float64,
    "mean": pl.Float64,
    "mean_low": pl.Float64,
    "mean_high": pl.Float64,
    "front": pl.Boolean,
}


def cost_table(runs: Runs, metric: str) -> pl.DataFrame:
    """A row an arm: mean `seconds` of training a trial (evaluation excluded) with their Student interval, `device_hours` of all its trials,
    mean `kilojoules` a trial where the device tells (NVML; null elsewhere), the metric's `mean` with its interval, and whether the arm is on the `front`:
    no other arm is at least as good for less device time. Arms whose time was not logged have no row."""
    seconds, values = runs.final("seconds"), runs.final(metric)
    whole = runs.final("perf/device_seconds")
    device = whole if len(whole) == len(seconds) else seconds
    joules = runs.final("perf/energy_joules")
    rows = []
    for arm in runs.arms:
        own, spent, used, reached = (
            frame.filter(pl.col("arm") == arm)["value"] for frame in (seconds, device, joules, values)
        )
        if own.is_empty() or reached.is_empty():
            continue
        time = mean_interval(own.to_numpy())
        energy = used.mean() / 1000 if isinstance(used.mean(), float) else None  # type: ignore[operator]
        hours = spent.sum() / 3600
        good = mean_interval(reached.to_numpy())
        times = (time.mean, time.low, time.high)
        rows.append((arm, len(own), *times, hours, energy, good.mean, good.low, good.high, False))
    frame = pl.DataFrame(rows, schema=COST, orient="row")
    intervals = pl.col("low", "high", "mean_low", "mean_high").fill_nan(None)
    return frame.with_columns(intervals, front=_front(frame, lower_is_better(metric)))


def _front(frame: pl.DataFrame, lower: bool) -> pl.Series:
    """Whether each row is undominated in device time a trial and in its mean."""
    times = (frame["device_hours"] / frame["trials"]).to_list()
    goods = [-value if lower else value for value in frame["mean"]]
    points = list(zip(times, goods, strict=True))
    return pl.Series(
        "front",
        [not any(t <= time and g >= good and (t, g) != (time, good) for t, g in points) for time, good in points],
        dtype=pl.Boolean,
    )
