"""How fast each arm reaches a target. `time` is in the unit of `runs.over`: optimiser steps, pairs or device-seconds.

A trial reaches the target at some time, misses it (the time is censored at its last evaluation), or diverges before (it
never reaches the target). Where one of two times is only bounded, their ratio is only bounded, too.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.families import judge
from analysis.paired import FEW, UNDECIDED
from analysis.runs import UNITS, Runs
from analysis.section import Plot, Row, Section, Table
from analysis.statistics import incidence, mean_interval
from analysis.style import SOFT, STYLE, colour_of, dash_of, legend, limits
from analysis.wording import DASH, counted, number, p_is, probability, spread
from workbench.metrics import METRICS, lower_is_better, metric, title
from workbench.significance import LEVEL, fewest_seeds

REACHED, LEFT, MISSED, DIVERGED = "reached", "from the start", "missed", "diverged"
FASTER, SLOWER, INCOMPARABLE, FORBIDDEN = "faster", "slower", "not comparable", "bounded on the other side"
AT_MOST, AT_LEAST = "at most", "at least"
TIMES = {
    "arm": pl.String,
    "seed": pl.Int64,
    "event": pl.String,
    "time": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "end": pl.Float64,
}
RATIO = {
    "arm": pl.String,
    "reached": pl.Int64,
    "diverged": pl.Int64,
    "seeds": pl.Int64,
    "time": pl.Float64,
    "paired": pl.Int64,
    "bound": pl.String,
    "speed_up": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
SPEED = RATIO | {
    "all_low": pl.Float64,
    "all_high": pl.Float64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "verdict": pl.String,
}
SHARES = {"arm": pl.String, "time": pl.Float64, "share": pl.Float64, "low": pl.Float64, "high": pl.Float64}
CURVES = {
    "arm": pl.String,
    "step": pl.Int64,
    "time": pl.Float64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
PERSISTENCE = 2  # consecutive evaluations that must hold the target, so that one lucky value does not count
WAY = 0.8  # `baseline_final`: the share of the baseline's gain from chance to its last value
CREDIT = 0.5  # the share of seeds that must reach a target for the time to count in the profile


def section(runs: Runs) -> Section | None:
    """Returns curves, times to the target, speed-ups, and the performance profile."""
    name, target = target_value(runs)
    curves = {shown: runs.curves(shown) for shown in dict.fromkeys((name, *_shown()))}
    curves = {shown: frame for shown, frame in curves.items() if not frame.is_empty()}
    if not curves:
        return None
    unit = UNITS[runs.over]
    means = {shown: mean_curves(runs, shown) for shown in curves}
    caption = "Mean over seeds with its 95 % interval; single seeds are faint; the dotted line is the target."
    plots = [Plot("convergence", caption, curves_figure(curves, means, runs.arms, (name, target), unit))]
    frames: dict[str, pl.DataFrame] = {}
    lead, points, tables = [NO_TARGET], [], []
    if name in curves and np.isfinite(target):
        times = times_to(runs, name, target)
        speeds, over_targets = speed(runs, times), speed_over_targets(runs, name)
        shares, profile = fraction_reached(runs, times), time_profile(over_targets)
        lead = [
            f"{unit.capitalize()} until {metric(name).title} holds {number(target)}{_origin(runs)}; above 1 is faster"
            " than the baseline."
        ]
        points, tables = sentences(speeds), [_table(speeds, unit)]
        frames = {
            "convergence": speeds,
            "times_to_target": times,
            "speed_over_targets": over_targets,
            "fraction_reached": shares,
            "time_profile": profile,
        }
        plots.append(Plot("speed", SPEED_CAPTION, reached_figure(shares, over_targets, profile, runs.arms, name, unit)))
    return Section(
        "convergence",
        "Convergence",
        lead,
        points,
        tables=tables,
        plots=plots,
        notes=NOTES,
        split="validation",
        frames=frames,
    )


NO_TARGET = (
    "There is no target to compare speeds at: the baseline has no value of it, or does not measurably exceed its"
    " starting value, as `baseline_final` requires."
)
SPEED_CAPTION = (
    "Left: the share of seeds that have reached the target, with 95 % intervals; a trial that diverges never reaches"
    " it (Aalen and Johansen 1978). Middle: the speed-up over the baseline at up to twelve targets, with 95 %"
    " intervals; where the marker is hollow it is a bound. Right: for how many of these targets an arm is within a"
    f" factor of the fastest; without credit where fewer than {CREDIT:.0%} of its seeds reach it (AlgoPerf, Dahl et al."
    " 2023)."
)
NOTES = (
    (
        "A target is reached where two evaluations in a row hold it; the time is interpolated between the last"
        " evaluation below and the first above. A trial that misses it is censored at its own last evaluation. `at"
        " most` and `at least` say which side of a ratio has misses; with misses on both sides, or where nobody reaches"
        " it, there is no ratio. Where more reach it in the direction that a bound leaves open, there is no verdict."
        " The restricted mean counts no time beyond what every arm was given."
    ),
)


def _shown() -> list[str]:
    """Returns the metrics whose curves are drawn."""
    return [f"val/{row.name}" for row in METRICS if row.outcome and row.headline and row.better == "higher"]


def _origin(runs: Runs) -> str:
    return (
        f", {WAY:.0%} of the baseline's way from chance to its last value"
        if runs.record.target.value == "baseline_final"
        else ""
    )


def mean_curves(runs: Runs, name: str) -> pl.DataFrame:
    """Returns `arm`, `step`, mean `time`, `mean`, `low`, `high` over the seeds that did not diverge. Steps that only
    some of these have logged are left out."""
    kept = runs.outcomes().filter(pl.col("outcome") != "diverged")
    seeds = dict(kept.group_by("arm").len().iter_rows())
    curves = runs.curves(name).join(kept, on=["arm", "seed"], how="semi")
    rows = []
    for (arm, step), group in curves.group_by("arm", "step", maintain_order=True):
        if len(group) == seeds[arm]:
            interval = mean_interval(group["value"].to_numpy(), metric(name).bounds)
            rows.append((arm, step, group["time"].mean(), interval.mean, interval.low, interval.high))
    return pl.DataFrame(rows, schema=CURVES, orient="row").sort("arm", "step")


def crossing(times: np.ndarray, values: np.ndarray, target: float, lower: bool = False) -> tuple[str, float]:
    """Returns the event (`reached`, `from the start`, `missed`) and its time. `reached`: where the curve crosses the
    target for two consecutive evaluations, interpolated linearly. `from the start`: the first evaluation. `missed`: the
    last evaluation. `lower`: values below the target hold it."""
    held = values <= target if lower else values >= target
    for index in range(len(held)):
        if held[index : index + PERSISTENCE].all():
            if index == 0:
                return LEFT, float(times[0])
            before, after = values[index - 1], values[index]
            share = (target - before) / (after - before)
            return REACHED, float(times[index - 1] + share * (times[index] - times[index - 1]))
    return MISSED, float(times[-1])


def target_value(runs: Runs) -> tuple[str, float]:
    """Returns the experiment's target metric and value.

    `baseline_final`: a share `WAY` of the gain from chance (without a chance level, from the baseline's first
    evaluation) to the baseline's last value, as medians over seeds, so that it is reached well before the end. It is
    nan where the baseline's gain is not positive by its 95 % interval."""
    target = runs.record.target
    name = target.metric
    if target.value != "baseline_final":
        return name, float(target.value)
    ends = runs.final(name).filter(pl.col("arm") == runs.baseline)["value"].to_numpy()
    base = runs.curves(name).filter(pl.col("arm") == runs.baseline)
    if not len(ends) or base.is_empty():
        return name, float("nan")
    chance = metric(name).chance
    start = float(np.median(base.filter(pl.col("step") == base["step"].min())["value"])) if chance is None else chance
    gains = (start - ends) if lower_is_better(name) else (ends - start)
    sure = mean_interval(gains)
    if not (sure.low > 0 if np.isfinite(sure.low) else sure.mean > 0):
        return name, float("nan")
    return name, start + WAY * (float(np.median(ends)) - start)


def times_to(runs: Runs, name: str, target: float) -> pl.DataFrame:
    """Returns one row per trial, as `TIMES`: the event, the `time` where the target was reached, and the range from
    `low` to `high` that contains the time."""
    diverged = set(runs.outcomes().filter(pl.col("outcome") == "diverged").select("arm", "seed").iter_rows())
    rows = []
    for (arm, seed), curve in runs.curves(name).group_by("arm", "seed", maintain_order=True):
        times, values = curve["time"].to_numpy(), curve["value"].to_numpy()
        event, at = crossing(times, values, target, lower_is_better(name))
        end = float(times[-1])
        if event == MISSED and (arm, seed) in diverged:
            event = DIVERGED
        low, high = {REACHED: (at, at), LEFT: (0.0, at)}.get(event, (end, np.inf))
        rows.append((arm, seed, event, at if event in (REACHED, LEFT) else None, low, high, end))
    for arm, seed in sorted(diverged - {(row[0], row[1]) for row in rows}):  # before its first evaluation
        rows.append((arm, seed, DIVERGED, None, 0.0, np.inf, 0.0))
    return pl.DataFrame(rows, schema=TIMES, orient="row")


def horizon(times: pl.DataFrame) -> float:
    """Returns the longest time that all arms were trained for: the minimum over arms of the longest trial that did not
    diverge."""
    whole = times.filter(pl.col("event") != DIVERGED)
    if whole.is_empty():
        return beyond(times)
    return float(whole.group_by("arm").agg(pl.col("end").max())["end"].min())  # type: ignore[arg-type]


def beyond(times: pl.DataFrame) -> float:
    """Returns a time that no trial exceeds: the time of trials that diverge and so never reach the target."""
    return float(times["end"].max()) if times.height else float("nan")  # type: ignore[arg-type]


def speed(runs: Runs, times: pl.DataFrame) -> pl.DataFrame:
    """Returns one row per arm, as `SPEED`: how many seeds reached the target, the restricted mean time to it, and the
    speed-up over the baseline with its intervals, bound and verdict. All arms are one family."""
    frame = ratios(runs, times)
    arms = frame.filter(pl.col("paired") > 0)["arm"].to_list()
    more: dict[str, dict[str, Any]] = {}
    if arms:
        logs = _substituted(runs, times, arms)
        family = judge(logs)
        for index, arm in enumerate(arms):
            row = frame.row(by_predicate=pl.col("arm") == arm, named=True)
            verdict = _verdict(row["bound"], float(family.adjusted[index]), float(np.nanmean(logs[:, index])))
            judged: dict[str, Any] = {"verdict": verdict}
            if verdict not in (INCOMPARABLE, FORBIDDEN):
                judged |= {"p": float(family.p[index]), "p_adjusted": float(family.adjusted[index])}
            low, high = float(np.exp(family.low[index])), float(np.exp(family.high[index]))
            more[arm] = judged | {
                "all_low": None if row["bound"] in (AT_MOST, INCOMPARABLE) else low,
                "all_high": None if row["bound"] in (AT_LEAST, INCOMPARABLE) else high,
            }
    rows = [row | more.get(row["arm"], {}) for row in frame.iter_rows(named=True)]
    return pl.DataFrame(rows, schema=SPEED).with_columns(pl.col(pl.Float64).fill_nan(None))


def _verdict(bound: str, adjusted: float, direction: float) -> str:
    if bound == INCOMPARABLE:
        return INCOMPARABLE
    if np.isnan(adjusted):
        return FEW
    if adjusted <= LEVEL and direction < 0 and bound in ("", AT_MOST):
        return SLOWER
    if adjusted <= LEVEL and direction > 0 and bound in ("", AT_LEAST):
        return FASTER
    return FORBIDDEN if adjusted <= LEVEL else UNDECIDED


def ratios(runs: Runs, times: pl.DataFrame) -> pl.DataFrame:
    """Returns the speed of each arm, as `RATIO`, without columns that depend on the other arms. A ratio is the
    baseline's time divided by the arm's: the geometric mean over paired seeds with the Student interval of the
    logarithms, or a bound on it, whose other end is open."""
    limit, never = horizon(times), beyond(times)
    base = times.filter(pl.col("arm") == runs.baseline).select("seed", "event", base_low="low", base_high="high")
    rows: list[dict[str, object]] = []
    for arm in runs.arms:
        trials = times.filter(pl.col("arm") == arm)
        if trials.is_empty():
            continue
        restricted = trials.select(
            pl.when(pl.col("event") == DIVERGED)
            .then(limit)
            .otherwise(pl.coalesce("time", "end"))
            .clip(upper_bound=limit)
        ).to_series()
        row: dict[str, object] = {
            "arm": arm,
            "reached": trials["time"].is_not_null().sum(),
            "diverged": (trials["event"] == DIVERGED).sum(),
            "seeds": trials.height,
            "time": restricted.mean(),
        }
        both = trials.join(base, on="seed", suffix="_base").sort("seed")
        if arm != runs.baseline:
            row |= {"paired": both.height} | _ratio(both, never)
        rows.append(row)
    return pl.DataFrame(rows, schema=RATIO).with_columns(pl.col(pl.Float64).fill_nan(None))


def _ratio(both: pl.DataFrame, limit: float) -> dict[str, object]:
    """Returns the ratio of paired times, each of which is known to be in a range. Those of diverged trials are beyond
    `limit`."""
    if both.is_empty():
        return {}
    arm_low, base_low = (
        np.maximum(both[low].to_numpy(), np.where(both[event] == DIVERGED, limit, 0.0))
        for low, event in (("low", "event"), ("base_low", "event_base"))
    )
    arm_high, base_high = both["high"].to_numpy(), both["base_high"].to_numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        highest, lowest = np.log(base_high) - np.log(arm_low), np.log(base_low) - np.log(arm_high)
    if np.isfinite(highest).all() and np.isfinite(lowest).all():
        interval, bound = mean_interval(highest), ""
        low, high = interval.low, interval.high
    elif np.isfinite(highest).all():
        interval, bound = mean_interval(highest), AT_MOST
        low, high = float("nan"), interval.high
    elif np.isfinite(lowest).all():
        interval, bound = mean_interval(lowest), AT_LEAST
        low, high = interval.low, float("nan")
    else:
        return {"bound": INCOMPARABLE}
    return {"bound": bound, "speed_up": np.exp(interval.mean), "low": np.exp(low), "high": np.exp(high)}


def _substituted(runs: Runs, times: pl.DataFrame, arms: Sequence[str]) -> np.ndarray:
    """Returns log(baseline's time / arm's time), [seeds, arms], nan where a seed is not paired. A miss counts at its
    last evaluation and a divergence beyond all times: exchanging arm and baseline then changes only the sign, as sign
    flips require."""
    limit = beyond(times)
    at = {
        (arm, seed): np.log(max(limit if event == DIVERGED else end if time is None else time, 1e-12))
        for arm, seed, event, time, end in times.select("arm", "seed", "event", "time", "end").iter_rows()
    }
    seeds = sorted({seed for _, seed in at})
    nan = float("nan")
    return np.array(
        [[at.get((runs.baseline, seed), nan) - at.get((arm, seed), nan) for arm in arms] for seed in seeds], dtype=float
    )


def sentences(speeds: pl.DataFrame) -> list[str]:
    """Returns one sentence per arm about its time to the target."""
    return [f"{row['arm']}: {_sentence(row)}." for row in speeds.iter_rows(named=True)]


def _sentence(row: dict[str, Any]) -> str:
    reached = f"{row['reached']} of {counted(row['seeds'], 'seed')} reach{'es' if row['seeds'] == 1 else ''} it"
    if row["diverged"]:
        reached += f", {row['diverged']} diverge{'s' if row['diverged'] == 1 else ''} before"
    if row["bound"] is None:
        return reached
    if row["bound"] == INCOMPARABLE:
        return f"{reached}; no ratio, since in some seeds neither time bounds it"
    interval = spread(row["low"], row["high"], lambda end: number(end, 2))
    ratio = (
        f"{row['bound']} {number(row['speed_up'], 2)} times as fast{'' if interval == DASH else ' ' + interval}".strip()
    )
    certainty = {
        FEW: f"too few seeds for a verdict ({fewest_seeds()} are needed)",
        FORBIDDEN: "no verdict, since the true ratio may lie on the other side of 1",
        UNDECIDED: f"undecided (adjusted {p_is(row['p_adjusted'])})",
    }.get(row["verdict"], f"adjusted {p_is(row['p_adjusted'])}")
    verdict = f"{row['verdict']}, " if row["verdict"] in (FASTER, SLOWER) else ""
    return f"{verdict}{ratio}, {certainty}; {reached}"


def _table(speeds: pl.DataFrame, unit: str) -> Table:
    rows = []
    for row in speeds.iter_rows(named=True):
        bounds = (row["low"], row["high"]), (row["all_low"], row["all_high"])
        rows.append(
            Row(
                [
                    row["arm"],
                    f"{row['reached']} of {row['seeds']}"
                    + (f", {row['diverged']} diverged" if row["diverged"] else ""),
                    number(row["time"], 1),
                    (
                        f"{row['bound']} {number(row['speed_up'])}".strip()
                        if row["speed_up"] is not None
                        else number(None)
                    ),
                    *(spread(*interval) for interval in bounds),
                    probability(row["p_adjusted"]),
                    row["verdict"] or "–",
                ],
                row["verdict"] in (FASTER, SLOWER),
            )
        )
    heads = ("arm", "seeds that reach it", f"restricted mean, {unit}", "speed-up", "95 %, this arm alone")
    note = (
        "Bold: the adjusted p is at most .05 in the direction that the bound allows; p is adjusted over the arms"
        " (step-down max-T)."
    )
    return Table("Times to the target", (*heads, "95 %, all arms at once", "adjusted p", "verdict"), rows, note)


def targets(runs: Runs, name: str, count: int = 12) -> list[float]:
    """Returns equally spaced levels of the metric between the baseline's first evaluation and its final value, both
    excluded."""
    base = runs.curves(name).filter(pl.col("arm") == runs.baseline)
    steps = base["step"].unique().sort()
    if len(steps) < 2:
        return []
    start = base.filter(pl.col("step") == steps[0])["value"].mean()
    end = runs.final(name).filter(pl.col("arm") == runs.baseline)["value"].mean()
    if not isinstance(start, float) or not isinstance(end, float):
        return []
    gain = start - end if lower_is_better(name) else end - start
    return [float(level) for level in np.linspace(start, end, count + 2)[1:-1]] if gain > 0 else []


def speed_over_targets(runs: Runs, name: str) -> pl.DataFrame:
    """Returns `ratios` of every arm at each of `targets`, with the column `target`."""
    frames = [
        ratios(runs, times_to(runs, name, target)).with_columns(target=pl.lit(target)) for target in targets(runs, name)
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=RATIO | {"target": pl.Float64})


def fraction_reached(runs: Runs, times: pl.DataFrame) -> pl.DataFrame:
    """Returns `arm`, `time`, `share`, `low`, `high`: Aalen and Johansen's estimate of the share of seeds that have
    reached the target by a time, with its log-log interval. Divergence is a competing event; a miss is censored at its
    last evaluation."""
    rows = []
    for arm in runs.arms:
        trials = times.filter(pl.col("arm") == arm)
        if trials.is_empty():
            continue
        rows.append((arm, 0.0, 0.0, 0.0, 0.0))
        at = trials.select(pl.coalesce("time", "end")).to_series().to_numpy()
        kind = (
            trials["event"]
            .replace_strict({REACHED: 1, LEFT: 1, DIVERGED: 2, MISSED: 0}, return_dtype=pl.Int64)
            .to_numpy()
        )
        rows += [(arm, *row) for row in incidence(at, kind)]
        rows.append((arm, float(trials["end"].max()), *rows[-1][2:]))  # type: ignore[arg-type]
    return pl.DataFrame(rows, schema=SHARES, orient="row").with_columns(pl.col("low", "high").fill_nan(None))


def curve_area(curves: pl.DataFrame) -> pl.DataFrame:
    """Returns `arm`, `seed`, `value`: the normalised area under each curve, its mean height between the first and the
    last evaluation."""
    rows = []
    for (arm, seed), curve in curves.group_by("arm", "seed", maintain_order=True):
        times, values = curve["time"].to_numpy(), curve["value"].to_numpy()
        if len(times) > 1:
            area = float(np.trapezoid(values, times) / (times[-1] - times[0]))
            rows.append({"arm": arm, "seed": seed, "value": area})
    return pl.DataFrame(rows, schema={"arm": pl.String, "seed": pl.Int64, "value": pl.Float64})


def time_profile(over_targets: pl.DataFrame, points: int = 81) -> pl.DataFrame:
    """Returns AlgoPerf's performance profile (Dahl et al. 2023): `arm`, `tau`, and the `share` of targets for which the
    arm's restricted mean time is at most `tau` times the fastest arm's. A target that fewer than `CREDIT` of an arm's
    seeds reach never counts for the arm."""
    if over_targets.is_empty():
        return pl.DataFrame(schema={"arm": pl.String, "tau": pl.Float64, "share": pl.Float64})
    credited = pl.col("reached") >= CREDIT * pl.col("seeds")
    timed = over_targets.with_columns(time=pl.when(credited).then("time").otherwise(float("inf")))
    ratio = timed.with_columns(ratio=pl.col("time") / pl.col("time").min().over("target"))
    finite = ratio.filter(pl.col("ratio").is_finite())["ratio"]
    most = max(1.1, float(finite.max())) if len(finite) else 1.1  # type: ignore[arg-type]
    rows = [
        {"arm": arm, "tau": float(tau), "share": float((part["ratio"] <= tau + 1e-12).mean())}
        for (arm,), part in ratio.group_by("arm", maintain_order=True)
        for tau in np.linspace(1.0, most, points)
    ]
    return pl.DataFrame(rows, schema={"arm": pl.String, "tau": pl.Float64, "share": pl.Float64})


def curves_figure(
    seeds: dict[str, pl.DataFrame],
    means: dict[str, pl.DataFrame],
    arms: Sequence[str],
    target: tuple[str, float],
    unit: str,
) -> Figure:
    """Draws one panel per metric: the mean of each arm with its 95 % band over time, with its seeds faint behind it."""
    with plt.rc_context(STYLE):
        columns = min(2, max(1, len(means)))
        rows = -(-len(means) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.1 * rows), squeeze=False)
        for axis in axes.flat[len(means) :]:
            axis.set_visible(False)
        for axis, (name, mean) in zip(axes.flat, means.items(), strict=False):
            for arm in arms:
                colour, marker = colour_of(arms, arm)
                for _, curve in seeds[name].filter(pl.col("arm") == arm).group_by("seed", maintain_order=True):
                    axis.plot(curve["time"], curve["value"], color=colour, alpha=0.15, linewidth=0.7)
                part = mean.filter(pl.col("arm") == arm)
                axis.fill_between(part["time"], part["low"], part["high"], color=colour, alpha=0.12, linewidth=0)
                axis.plot(part["time"], part["mean"], color=colour, marker=marker, markersize=3.5, label=arm)
            if name == target[0] and np.isfinite(target[1]):
                axis.axhline(target[1], color=SOFT, linestyle=":", linewidth=1)
            limits(axis, seeds[name]["value"])
            axis.set_title(title(name), fontsize=10, loc="left")
            axis.set_xlabel(unit)
            _ticks(axis, seeds[name]["time"])
        legend(figure, axes.flat[0])
        return figure


def _ticks(axis: Axes, times: pl.Series) -> None:
    """Sets ticks at the evaluations, as far as they fit."""
    ticks = sorted(set(times.to_list()))
    if len(ticks) > 40:
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    elif ticks:
        axis.set_xticks(ticks[::-1][:: -(-len(ticks) // 5)])


def reached_figure(
    shares: pl.DataFrame,
    over_targets: pl.DataFrame,
    profile: pl.DataFrame,
    arms: Sequence[str],
    name: str,
    unit: str,
) -> Figure:
    """Draws three panels. Left: the share of seeds that have reached the target, over time. Middle: the speed-up over
    the baseline at each of several targets; a hollow marker is a bound. Right: AlgoPerf's performance profile over
    those targets."""
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11.4, 3.3))
        for arm in arms:
            colour, marker = colour_of(arms, arm)
            dashes = dash_of(arms, arm)
            part = shares.filter(pl.col("arm") == arm)
            left.step(part["time"], part["share"], where="post", color=colour, linewidth=1.4, linestyle=dashes)
            band = part.drop_nulls()
            left.fill_between(
                band["time"], band["low"], band["high"], step="post", color=colour, alpha=0.1, linewidth=0
            )
            faster = over_targets.filter((pl.col("arm") == arm) & pl.col("speed_up").is_not_null()).sort("target")
            whole = faster.drop_nulls(["low", "high"])
            middle.fill_between(whole["target"], whole["low"], whole["high"], color=colour, alpha=0.1, linewidth=0)
            middle.plot(faster["target"], faster["speed_up"], color=colour, linewidth=1.2)
            for exact, face in ((True, colour), (False, "white")):
                chosen = faster.filter((pl.col("bound") == "") == exact)
                middle.plot(chosen["target"], chosen["speed_up"], marker, color=colour, markerfacecolor=face, ms=4)
            curve = profile.filter(pl.col("arm") == arm)
            right.step(curve["tau"], curve["share"], where="post", color=colour, linewidth=1.4, linestyle=dashes)
            left.plot([], [], marker, color=colour, linestyle=dashes, ms=4, label=arm)
        left.set_xlabel(unit)
        left.set_ylabel("share of seeds")
        left.set_title("target reached", fontsize=10, loc="left")
        middle.axhline(1.0, color=SOFT, linestyle="--", linewidth=1)
        middle.set_xlabel(f"target: {metric(name).title}")
        middle.set_title("speed-up over the baseline", fontsize=10, loc="left")
        limits(middle, pl.concat([over_targets["speed_up"].drop_nulls(), pl.Series("speed_up", [0.9, 1.1])]))
        right.set_xlabel("times the fastest arm's time")
        right.set_ylabel("share of targets")
        right.set_title("performance profile", fontsize=10, loc="left")
        for axis in (left, right):
            axis.set_ylim(-0.03, 1.03)
        legend(figure, left)
        return figure
