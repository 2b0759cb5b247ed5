"""The cost of each arm, and the arms that no other arm beats at their cost."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from analysis.runs import Runs
from analysis.section import Plot, Row, Section, Table
from analysis.statistics import mean_interval
from analysis.style import SOFT, STYLE, colour_of, legend
from analysis.wording import counted, number, spread
from workbench.metrics import lower_is_better, metric

COST = {
    "arm": pl.String,
    "trials": pl.Int64,
    "diverged": pl.Int64,
    "seconds": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "device_seconds": pl.Float64,
    "device_hours": pl.Float64,
    "kilojoules": pl.Float64,
    "mean": pl.Float64,
    "mean_low": pl.Float64,
    "mean_high": pl.Float64,
    "front": pl.Boolean,
}
SECONDS = (0.0, float("inf"))
CAPTION = (
    "Means over seeds with 95 % intervals, against the device time of a trial's training; the dashed line joins the"
    " arms whose means no other one beats at their cost."
)


def section(runs: Runs) -> Section | None:
    """Returns time, device-hours, energy, and the arms on the Pareto front."""
    table = cost_table(runs, runs.record.primary)
    if table.is_empty():
        return None
    hours = device_hours(runs)
    diverged = len(runs.diverged)
    more = f", including {counted(diverged, 'diverged trial')}" if diverged else ""
    return Section(
        "cost",
        "Cost",
        [f"All trials together took {number(hours, 2)} device-hours of training{more}; evaluation is not included."],
        tables=[_table(table, runs.record.primary)],
        plots=[Plot("cost", CAPTION, cost_figure(table, runs.arms, runs.record.primary))],
        frames={"cost": table},
    )


def device_hours(runs: Runs) -> float:
    """Returns the device-hours of all trials, however they ended. A trial that did not log its devices counts with
    one."""
    spent = runs.last("seconds").join(
        runs.last("perf/device_seconds"), on=["arm", "seed"], how="left", suffix="_devices"
    )
    return float(spent.select(pl.coalesce("value_devices", "value")).to_series().sum()) / 3600


def cost_table(runs: Runs, name: str) -> pl.DataFrame:
    """Returns one row per arm.

    `seconds`: mean training time per trial (evaluation excluded) with its Student interval, over the trials that
    completed; `device_seconds`: the same in device time. `device_hours`: of all its trials, including diverged ones.
    `kilojoules`: mean per trial where the device reports energy (NVML; null elsewhere). `mean`: of the metric, with its
    interval. `front`: no other arm is at least as good for less device time. Arms whose time was not logged have no
    row."""
    seconds, spent, values = runs.final("seconds"), runs.last("seconds"), runs.final(name)
    whole = runs.final("perf/device_seconds")
    joules = runs.final("perf/energy_joules")
    ended = runs.outcomes()
    rows = []
    for arm in runs.arms:
        times_of_arm, every, device, used, reached = (
            frame.filter(pl.col("arm") == arm)["value"] for frame in (seconds, spent, whole, joules, values)
        )
        if times_of_arm.is_empty() or reached.is_empty():
            continue
        time, good = (
            mean_interval(times_of_arm.to_numpy(), SECONDS),
            mean_interval(reached.to_numpy(), metric(name).bounds),
        )
        devices = (
            float(device.sum()) / float(times_of_arm.sum())
            if len(device) == len(times_of_arm) and times_of_arm.sum()
            else 1.0
        )
        energy = float(used.sum()) / len(used) / 1000 if len(used) else None
        outcomes = ended.filter(pl.col("arm") == arm)["outcome"]
        counts = (len(outcomes), int((outcomes == "diverged").sum()))
        times = (time.mean, time.low, time.high, time.mean * devices, float(every.sum()) * devices / 3600)
        rows.append((arm, *counts, *times, energy, good.mean, good.low, good.high, False))
    frame = pl.DataFrame(rows, schema=COST, orient="row")
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None), front=_front(frame, lower_is_better(name)))


def _front(frame: pl.DataFrame, lower: bool) -> pl.Series:
    """Returns whether each row is on the Pareto front of device time per trial and mean."""
    goods = [-value if lower else value for value in frame["mean"]]
    points = list(zip(frame["device_seconds"].to_list(), goods, strict=True))
    return pl.Series(
        "front",
        [not any(t <= time and g >= good and (t, g) != (time, good) for t, g in points) for time, good in points],
        dtype=pl.Boolean,
    )


def _table(table: pl.DataFrame, name: str) -> Table:
    rows = [
        Row(
            [
                row["arm"],
                str(row["trials"]) + (f" ({row['diverged']} diverged)" if row["diverged"] else ""),
                number(row["seconds"], 1),
                spread(row["low"], row["high"], lambda end: number(end, 1)),
                number(row["device_hours"]),
                "not measured" if row["kilojoules"] is None else number(row["kilojoules"], 1),
                number(row["mean"]),
                "yes" if row["front"] else "no",
            ]
        )
        for row in table.iter_rows(named=True)
    ]
    heads = ("arm", "trials", "seconds per trial", "95 % interval", "device-hours of all", "kilojoules per trial")
    return Table("Training", (*heads, metric(name).title, "unbeaten"), rows)


def cost_figure(table: pl.DataFrame, arms: Sequence[str], name: str) -> Figure:
    """Draws each arm's mean over the device time of a trial, both with their intervals. The line joins the arms on the
    front."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 3.6))
        front = table.filter(pl.col("front")).sort("device_seconds", "mean")
        axis.plot(front["device_seconds"], front["mean"], color=SOFT, linestyle="--", linewidth=1, zorder=1)
        for row in table.iter_rows(named=True):
            colour, marker = colour_of(arms, row["arm"])
            at, mean = row["device_seconds"], row["mean"]
            if row["low"] is not None and row["mean_low"] is not None:
                devices = at / row["seconds"] if row["seconds"] else 1.0
                axis.plot([row["low"] * devices, row["high"] * devices], [mean, mean], color=colour, alpha=0.5, lw=1)
                axis.plot([at, at], [row["mean_low"], row["mean_high"]], color=colour, alpha=0.5, lw=1)
            axis.plot([at], [mean], marker, color=colour, ms=7, label=row["arm"], linestyle="none")
        axis.set_xlabel("device-seconds per trial")
        axis.set_ylabel(metric(name).title)
        axis.margins(0.12)
        legend(figure, axis, most=3)
        return figure
