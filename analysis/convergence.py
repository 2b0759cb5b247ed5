"""How fast each arm gets there: runs in, frames out."""

import numpy as np
import polars as pl

from analysis.runs import Runs
from analysis.statistics import mean_interval, ratio_interval

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
    curves = runs.curves(metric)
    schema = {
        "arm": pl.String,
        "reached": pl.Int64,
        "seeds": pl.Int64,
        "steps": pl.Float64,
        "speed_up": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
    }
    if curves.is_empty():
        return pl.DataFrame(schema=schema)
    horizon = float(curves["step"].max())  # type: ignore[arg-type]
    times: dict[str, dict[int, float]] = {}
    reached: dict[str, int] = {}
    for arm in runs.arms:
        times[arm], reached[arm] = {}, 0
        for (seed,), curve in curves.filter(pl.col("arm") == arm).group_by("seed", maintain_order=True):
            at = steps_to_target(curve["step"].to_numpy(), curve["value"].to_numpy(), target)
            reached[arm] += at is not None
            times[arm][int(seed)] = horizon if at is None else at
    rows = []
    for arm in runs.arms:
        if not times[arm]:
            continue
        both = sorted(set(times[arm]) & set(times.get(runs.baseline, {})))
        row: dict[str, object] = {
            "arm": arm,
            "reached": reached[arm],
            "seeds": len(times[arm]),
            "steps": float(np.mean(list(times[arm].values()))),
        }
        if arm != runs.baseline and both:
            ratio = ratio_interval(
                np.array([times[runs.baseline][seed] for seed in both]), np.array([times[arm][seed] for seed in both])
            )
            row |= {"speed_up": ratio.mean, "low": ratio.low, "high": ratio.high}
        rows.append(row)
    return pl.DataFrame(rows, schema=schema)
