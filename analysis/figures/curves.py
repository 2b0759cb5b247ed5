"""How fast, and where to."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import STYLE, colour_of, dash_of, legend, limits
from analysis.wording import plain


def convergence_figure(
    seeds: dict[str, pl.DataFrame],
    means: dict[str, pl.DataFrame],
    arms: Sequence[str],
    target: tuple[str, float],
    unit: str,
) -> Figure:
    """One panel a metric: the mean of each arm with its 95 % band over steps, its seeds faint behind it."""
    with plt.rc_context(STYLE):
        columns = min(2, max(1, len(means)))
        rows = -(-len(means) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.1 * rows), squeeze=False)
        for axis in axes.flat[len(means) :]:
            axis.set_visible(False)
        for axis, (metric, mean) in zip(axes.flat, means.items(), strict=False):
            for arm in arms:
                colour, marker = colour_of(arms, arm)
                for _, curve in seeds[metric].filter(pl.col("arm") == arm).group_by("seed", maintain_order=True):
                    axis.plot(curve["time"], curve["value"], color=colour, alpha=0.15, linewidth=0.7)
                part = mean.filter(pl.col("arm") == arm)
                axis.fill_between(part["time"], part["low"], part["high"], color=colour, alpha=0.12, linewidth=0)
                axis.plot(part["time"], part["mean"], color=colour, marker=marker, markersize=3.5, label=arm)
            if metric == target[0]:
                axis.axhline(target[1], color="#666666", linestyle=":", linewidth=1)
            limits(axis, seeds[metric]["value"])
            axis.set_title(plain(metric), fontsize=10, loc="left")
            axis.set_xlabel(unit)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        legend(figure, axes.flat[0])
        return figure


def reached_figure(
    shares: pl.DataFrame,
    over_targets: pl.DataFrame,
    profile: pl.DataFrame,
    arms: Sequence[str],
    metric: str,
    unit: str,
) -> Figure:
    """Left: the share of seeds that have reached the target, over time (Kaplan and Meier). Middle: the speed-up over the baseline at each of
    several targets; a hollow marker has seeds that miss it, so that its speed-up is a bound. Right: AlgoPerf's performance profile over those
    targets."""
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
            middle.fill_between(faster["target"], faster["low"], faster["high"], color=colour, alpha=0.1, linewidth=0)
            middle.plot(faster["target"], faster["speed_up"], color=colour, linewidth=1.2)
            for whole, face in ((True, colour), (False, "white")):
                chosen = faster.filter((pl.col("reached") == pl.col("seeds")) == whole)
                middle.plot(chosen["target"], chosen["speed_up"], marker, color=colour, markerfacecolor=face, ms=4)
            own = profile.filter(pl.col("arm") == arm)
            right.step(own["tau"], own["share"], where="post", color=colour, linewidth=1.4, linestyle=dashes)
            left.plot([], [], marker, color=colour, linestyle=dashes, ms=4, label=arm)
        left.set_xlabel(unit)
        left.set_ylabel("share of seeds")
        left.set_title("target reached", fontsize=10, loc="left")
        middle.axhline(1.0, color="#666666", linestyle="--", linewidth=1)
        middle.set_xlabel(f"target: {plain(metric)}")
        middle.set_title("speed-up over the baseline", fontsize=10, loc="left")
        limits(middle, pl.concat([over_targets["speed_up"].drop_nulls(), pl.Series("speed_up", [0.9, 1.1])]))
        right.set_xlabel("times the fastest arm's time")
        right.set_ylabel("share of targets")
        right.set_title("performance profile", fontsize=10, loc="left")
        for axis in (left, right):
            axis.set_ylim(-0.03, 1.03)
        legend(figure, left)
        return figure
