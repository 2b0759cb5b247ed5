"""How fast each arm gets there: runs in, frames out. `time` is in the unit of `runs.over`: optimiser steps, pairs or device-seconds."""

import warnings

import numpy as np
import polars as pl
from scipy import stats

from analysis.runs import Runs
from analysis.statistics import mean_interval, paired_ratio, with_holm
from workbench.config.schema import lower_is_better

TIMES = {"arm": pl.String, "seed": pl.Int64, "time": pl.Float64}
SPEED = {
    "arm": pl.String,
    "reached": pl.Int64,
    "seeds": pl.Int64,
    "time": pl.Float64,
    "speed_up": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
}
REACHED = {"arm": pl.String, "time": pl.Float64, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64}
CURVES = {
    "arm": pl.String,
    "step": pl.Int64,
    "time": pl.Float64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
PERSISTENCE = 2  # evaluations in a row that must hold the target, so that one lucky value does not count


def mean_curves(runs: Runs, metric: str) -> pl.DataFrame:
    """`arm`, `step`, mean `time`, `mean`, `low`, `high` over seeds; steps that only some seeds have logged are left out."""
    curves = runs.curves(metric)
    seeds = dict(runs.trials.group_by("arm").len().iter_rows())
    rows = []
    for (arm, step), group in curves.group_by("arm", "step", maintain_order=True):
        if len(group) == seeds[arm]:
            interval = mean_interval(group["value"].to_numpy())
            rows.append((arm, step, group["time"].mean(), interval.mean, interval.low, interval.high))
    return pl.DataFrame(rows, schema=CURVES, orient="row").sort("arm", "step")


def time_to_target(times: np.ndarray, values: np.ndarray, target: float, lower: bool = False) -> float | None:
    """The first evaluation that holds the target together with the next one; None where none does. `lower`: values below it hold it."""
    held = values <= target if lower else values >= target
    for place in range(len(held)):
        if held[place : place + PERSISTENCE].all() and (place + PERSISTENCE <= len(held) or place == len(held) - 1):
            return float(times[place])
    return None


def target_value(runs: Runs) -> tuple[str, float]:
    """The metric and the value that the experiment names; `baseline_final` is the baseline's mean final value."""
    target = runs.experiment.get("target", {})
    metric = str(target.get("metric", "val/itm_auc"))
    value = target.get("value", "baseline_final")
    if value == "baseline_final":
        value = runs.final(metric).filter(pl.col("arm") == runs.baseline)["value"].mean()
    return metric, float(value) if value is not None else float("nan")


def speed(runs: Runs) -> pl.DataFrame:
    """One row an arm: how many seeds reached the target, the restricted mean of the time to it (a miss counts as the horizon, so it is a
    lower bound), and the speed-up over the baseline with its interval, exact sign-flip p and Holm's p over the arms."""
    metric, target = target_value(runs)
    times, horizon = times_to(runs.curves(metric), target, lower_is_better(metric))
    return _speeds(runs, times, horizon)


def times_to(curves: pl.DataFrame, target: float, lower: bool = False) -> tuple[pl.DataFrame, float]:
    """`arm`, `seed`, `time` to the target (null for a miss), and the horizon: the longest time that every arm was given. What is reached
    after it is a miss."""
    rows = [
        (arm, seed, time_to_target(curve["time"].to_numpy(), curve["value"].to_numpy(), target, lower))
        for (arm, seed), curve in curves.group_by("arm", "seed", maintain_order=True)
    ]
    times = pl.DataFrame(rows, schema=TIMES, orient="row")
    if times.is_empty():
        return times, float("nan")
    horizon = float(curves.group_by("arm").agg(pl.col("time").max())["time"].min())  # type: ignore[arg-type]
    return times.with_columns(time=pl.when(pl.col("time") <= horizon).then(pl.col("time"))), horizon


def _speeds(runs: Runs, times: pl.DataFrame, horizon: float) -> pl.DataFrame:
    rows = []
    restricted = times.with_columns(pl.col("time").fill_null(horizon))
    base = restricted.filter(pl.col("arm") == runs.baseline).select("seed", base="time")
    for arm in runs.arms:
        own = restricted.filter(pl.col("arm") == arm)
        if own.is_empty():
            continue
        row: dict[str, object] = {
            "arm": arm,
            "reached": times.filter(pl.col("arm") == arm)["time"].drop_nulls().len(),
            "seeds": own.height,
            "time": own["time"].mean(),
        }
        both = own.join(base, on="seed").sort("seed")
        if arm != runs.baseline and both.height:
            ratio, p = paired_ratio(both["base"].to_numpy(), both["time"].to_numpy())
            row |= {"speed_up": ratio.mean, "low": ratio.low, "high": ratio.high, "p": p}
        rows.append(row)
    return with_holm(pl.DataFrame(rows, schema=SPEED))


def targets(runs: Runs, metric: str, count: int = 12) -> list[float]:
    """Levels of the metric at even distances from where the baseline is at its first evaluation to where it ends, both left out."""
    base = runs.curves(metric).filter(pl.col("arm") == runs.baseline)
    steps = base["step"].unique().sort()
    if len(steps) < 2:
        return []
    start = base.filter(pl.col("step") == steps[0])["value"].mean()
    end = runs.final(metric).filter(pl.col("arm") == runs.baseline)["value"].mean()
    if not isinstance(start, float) or not isinstance(end, float):
        return []
    gain = start - end if lower_is_better(metric) else end - start
    return [float(each) for each in np.linspace(start, end, count + 2)[1:-1]] if gain > 0 else []


def speed_over_targets(runs: Runs, metric: str) -> pl.DataFrame:
    """`speed` of every arm at each of `targets`, with the column `target`."""
    curves = runs.curves(metric)
    made = []
    for target in targets(runs, metric):
        times, horizon = times_to(curves, target, lower_is_better(metric))
        made.append(_speeds(runs, times, horizon).with_columns(target=pl.lit(target)))
    return pl.concat(made) if made else pl.DataFrame(schema=SPEED | {"target": pl.Float64})


def fraction_reached(runs: Runs) -> pl.DataFrame:
    """`arm`, `time`, `share`, `low`, `high`: Kaplan and Meier's estimate of the share of seeds that have reached the target by a time, with its
    log-log interval; seeds that miss it are censored at their last evaluation, or at the horizon."""
    metric, target = target_value(runs)
    curves = runs.curves(metric)
    times, horizon = times_to(curves, target, lower_is_better(metric))
    lasts = curves.group_by("arm", "seed").agg(last=pl.col("time").max().clip(upper_bound=horizon))
    rows = []
    for arm in runs.arms:
        own = times.filter(pl.col("arm") == arm).join(lasts, on=["arm", "seed"])
        if own.is_empty():
            continue
        reached = own["time"].drop_nulls().to_numpy()
        missed = own.filter(pl.col("time").is_null())["last"].to_numpy()
        rows.append({"arm": arm, "time": 0.0, "share": 0.0, "low": 0.0, "high": 0.0})
        if len(reached):
            survival = stats.ecdf(stats.CensoredData(uncensored=reached, right=missed)).sf
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # where all have reached it, the interval is not defined
                interval = survival.confidence_interval(method="log-log")
            low, high = interval.low.probabilities, interval.high.probabilities
            for at, left, under, over in zip(survival.quantiles, survival.probabilities, low, high, strict=True):
                rows.append({"arm": arm, "time": at, "share": 1 - left, "low": 1 - over, "high": 1 - under})
        rows.append({"arm": arm, "time": horizon} | {name: rows[-1][name] for name in ("share", "low", "high")})
    return pl.DataFrame(rows, schema=REACHED).with_columns(pl.col("low", "high").fill_nan(None))


def curve_area(curves: pl.DataFrame) -> pl.DataFrame:
    """`arm`, `seed`, `value`: the normalised area under each curve, its mean height between the first and the last evaluation."""
    rows = []
    for (arm, seed), curve in curves.group_by("arm", "seed", maintain_order=True):
        times, values = curve["time"].to_numpy(), curve["value"].to_numpy()
        if len(times) > 1:
            area = float(np.trapezoid(values, times) / (times[-1] - times[0]))
            rows.append({"arm": arm, "seed": seed, "value": area})
    return pl.DataFrame(rows, schema={"arm": pl.String, "seed": pl.Int64, "value": pl.Float64})


def time_profile(over_targets: pl.DataFrame, points: int = 81) -> pl.DataFrame:
    """AlgoPerf's performance profile (Dahl et al. 2023): `arm`, `tau`, `share` of the targets for which the arm's restricted mean of times is at
    most `tau` times the fastest arm's; a target that none of an arm's seeds reaches is never within reach."""
    if over_targets.is_empty():
        return pl.DataFrame(schema={"arm": pl.String, "tau": pl.Float64, "share": pl.Float64})
    timed = over_targets.with_columns(time=pl.when(pl.col("reached") > 0).then(pl.col("time")).otherwise(float("inf")))
    ratios = timed.with_columns(ratio=pl.col("time") / pl.col("time").min().over("target"))
    finite = ratios.filter(pl.col("ratio").is_finite())["ratio"]
    most = max(1.1, float(finite.max())) if len(finite) else 1.1  # type: ignore[arg-type]
    rows = [
        {"arm": arm, "tau": float(tau), "share": float((part["ratio"] <= tau + 1e-12).mean())}
        for (arm,), part in ratios.group_by("arm", maintain_order=True)
        for tau in np.linspace(1.0, most, points)
    ]
    return pl.DataFrame(rows, schema={"arm": pl.String, "tau": pl.Float64, "share": pl.Float64})
