"""How fast each arm gets there: runs in, frames out."""

import warnings

import numpy as np
import polars as pl
from scipy import stats

from analysis.runs import Runs
from analysis.statistics import mean_interval, ratio_interval

TIMES = {"arm": pl.String, "seed": pl.Int64, "steps": pl.Float64}
SPEED = {
    "arm": pl.String,
    "reached": pl.Int64,
    "seeds": pl.Int64,
    "steps": pl.Float64,
    "speed_up": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
REACHED = {"arm": pl.String, "step": pl.Float64, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64}
CURVES = {"arm": pl.String, "step": pl.Int64, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
PERSISTENCE = 2  # evaluations in a row that must hold the target, so that one lucky value does not count


def mean_curves(runs: Runs, metric: str) -> pl.DataFrame:
    """`arm`, `step`, `mean`, `low`, `high` over seeds; steps that only some seeds have logged are left out."""
    curves = runs.curves(metric)
    rows = []
    for (arm, step), group in curves.group_by("arm", "step", maintain_order=True):
        seeds = runs.trials.filter(pl.col("arm") == arm).height
        if len(group) == seeds:
            interval = mean_interval(group["value"].to_numpy())
            rows.append({"arm": arm, "step": step, "mean": interval.mean, "low": interval.low, "high": interval.high})
    return pl.DataFrame(rows, schema=CURVES).sort("arm", "step")


def steps_to_target(steps: np.ndarray, values: np.ndarray, target: float) -> float | None:
    """The first evaluated step that holds the target together with the next evaluation; None where none does."""
    held = values >= target
    for place in range(len(held)):
        if held[place : place + PERSISTENCE].all() and (place + PERSISTENCE <= len(held) or place == len(held) - 1):
            return float(steps[place])
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
    """One row an arm: how many seeds reached the target, the restricted mean of steps to it (a miss counts as the
    horizon, so it is a lower bound), and the speed-up over the baseline with its interval."""
    metric, target = target_value(runs)
    times, horizon = times_to(runs.curves(metric), target)
    return _speeds(runs, times, horizon)


def times_to(curves: pl.DataFrame, target: float) -> tuple[pl.DataFrame, float]:
    """`arm`, `seed`, `steps` to the target (null for a miss), and the last step of all."""
    rows = [
        {
            "arm": arm,
            "seed": seed,
            "steps": steps_to_target(curve["step"].to_numpy(), curve["value"].to_numpy(), target),
        }
        for (arm, seed), curve in curves.group_by("arm", "seed", maintain_order=True)
    ]
    horizon = curves["step"].max()
    return pl.DataFrame(rows, schema=TIMES), float(horizon) if isinstance(horizon, int) else float("nan")


def _speeds(runs: Runs, times: pl.DataFrame, horizon: float) -> pl.DataFrame:
    rows = []
    restricted = times.with_columns(pl.col("steps").fill_null(horizon))
    base = restricted.filter(pl.col("arm") == runs.baseline).select("seed", base="steps")
    for arm in runs.arms:
        own = restricted.filter(pl.col("arm") == arm)
        if own.is_empty():
            continue
        row: dict[str, object] = {
            "arm": arm,
            "reached": times.filter(pl.col("arm") == arm)["steps"].drop_nulls().len(),
            "seeds": own.height,
            "steps": own["steps"].mean(),
        }
        both = own.join(base, on="seed").sort("seed")
        if arm != runs.baseline and both.height:
            ratio = ratio_interval(both["base"].to_numpy(), both["steps"].to_numpy())
            row |= {"speed_up": ratio.mean, "low": ratio.low, "high": ratio.high}
        rows.append(row)
    return pl.DataFrame(rows, schema=SPEED)


def targets(runs: Runs, metric: str, count: int = 12) -> list[float]:
    """Levels of the metric at even distances from where the baseline is at its first evaluation to where it ends, both left out."""
    base = runs.curves(metric).filter(pl.col("arm") == runs.baseline)
    steps = base["step"].unique().sort()
    if len(steps) < 2:
        return []
    start = base.filter(pl.col("step") == steps[0])["value"].mean()
    end = runs.final(metric).filter(pl.col("arm") == runs.baseline)["value"].mean()
    if not isinstance(start, float) or not isinstance(end, float) or not end > start:
        return []
    return [float(each) for each in np.linspace(start, end, count + 2)[1:-1]]


def speed_over_targets(runs: Runs, metric: str) -> pl.DataFrame:
    """`speed` of every arm at each of `targets`, with the column `target`."""
    curves = runs.curves(metric)
    made = []
    for target in targets(runs, metric):
        times, horizon = times_to(curves, target)
        made.append(_speeds(runs, times, horizon).with_columns(target=pl.lit(target)))
    return pl.concat(made) if made else pl.DataFrame(schema=SPEED | {"target": pl.Float64})


def fraction_reached(runs: Runs) -> pl.DataFrame:
    """`arm`, `step`, `share`, `low`, `high`: Kaplan and Meier's estimate of the share of seeds that have reached the target by a step, with its
    log-log interval; seeds that miss it are censored at their last step."""
    metric, target = target_value(runs)
    curves = runs.curves(metric)
    times, horizon = times_to(curves, target)
    lasts = curves.group_by("arm", "seed").agg(last=pl.col("step").max())
    rows = []
    for arm in runs.arms:
        own = times.filter(pl.col("arm") == arm).join(lasts, on=["arm", "seed"])
        if own.is_empty():
            continue
        reached = own["steps"].drop_nulls().to_numpy()
        missed = own.filter(pl.col("steps").is_null())["last"].to_numpy().astype(float)
        rows.append({"arm": arm, "step": 0.0, "share": 0.0, "low": 0.0, "high": 0.0})
        if len(reached):
            survival = stats.ecdf(stats.CensoredData(uncensored=reached, right=missed)).sf
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # where all have reached it, the interval is not defined
                interval = survival.confidence_interval(method="log-log")
            low, high = interval.low.probabilities, interval.high.probabilities
            for at, left, under, over in zip(survival.quantiles, survival.probabilities, low, high, strict=True):
                rows.append({"arm": arm, "step": at, "share": 1 - left, "low": 1 - over, "high": 1 - under})
        rows.append({"arm": arm, "step": horizon} | {name: rows[-1][name] for name in ("share", "low", "high")})
    return pl.DataFrame(rows, schema=REACHED).with_columns(pl.col("low", "high").fill_nan(None))


def curve_area(curves: pl.DataFrame) -> pl.DataFrame:
    """`arm`, `seed`, `value`: the normalised area under each curve, its mean height between the first and the last step."""
    rows = []
    for (arm, seed), curve in curves.group_by("arm", "seed", maintain_order=True):
        steps, values = curve["step"].to_numpy(), curve["value"].to_numpy()
        if len(steps) > 1:
            area = float(np.trapezoid(values, steps) / (steps[-1] - steps[0]))
            rows.append({"arm": arm, "seed": seed, "value": area})
    return pl.DataFrame(rows, schema={"arm": pl.String, "seed": pl.Int64, "value": pl.Float64})


def time_profile(over_targets: pl.DataFrame, points: int = 81) -> pl.DataFrame:
    """AlgoPerf's performance profile (Dahl et al. 2023): `arm`, `tau`, `share` of the targets for which the arm's restricted mean of steps is at
    most `tau` times the fastest arm's; a target that none of an arm's seeds reaches is never within reach."""
    if over_targets.is_empty():
        return pl.DataFrame(schema={"arm": pl.String, "tau": pl.Float64, "share": pl.Float64})
    timed = over_targets.with_columns(
        steps=pl.when(pl.col("reached") > 0).then(pl.col("steps")).otherwise(float("inf"))
    )
    ratios = timed.with_columns(ratio=pl.col("steps") / pl.col("steps").min().over("target"))
    finite = ratios.filter(pl.col("ratio").is_finite())["ratio"]
    most = max(1.1, float(finite.max())) if len(finite) else 1.1  # type: ignore[arg-type]
    rows = [
        {"arm": arm, "tau": float(tau), "share": float((part["ratio"] <= tau + 1e-12).mean())}
        for (arm,), part in ratios.group_by("arm", maintain_order=True)
        for tau in np.linspace(1.0, most, points)
    ]
    return pl.DataFrame(rows, schema={"arm": pl.String, "tau": pl.Float64, "share": pl.Float64})
