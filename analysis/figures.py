"""Frames in, matplotlib figures out; one style, readable in print and by colour-blind readers."""

import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.factorial import short
from analysis.statistics import mean_interval

# Okabe and Ito (2008); the baseline is always black.
PALETTE = ("#000000", "#E69F00", "#0072B2", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442")
MOST_COLUMNS = 12  # of a heat map that still reads on a page
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "workbench",  # equal figures, equal files
}


def colour_of(arms: Sequence[str], arm: str) -> tuple[str, str]:
    place = list(arms).index(arm)
    return PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]


def plain(name: str) -> str:
    """`replace_object` as people write it."""
    return name.replace("_", " ")


def convergence_figure(
    seeds: dict[str, pl.DataFrame], means: dict[str, pl.DataFrame], arms: Sequence[str], target: tuple[str, float]
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
                    axis.plot(curve["step"], curve["value"], color=colour, alpha=0.15, linewidth=0.7)
                part = mean.filter(pl.col("arm") == arm)
                axis.fill_between(part["step"], part["low"], part["high"], color=colour, alpha=0.12, linewidth=0)
                axis.plot(part["step"], part["mean"], color=colour, marker=marker, markersize=3.5, label=arm)
            if metric == target[0]:
                axis.axhline(target[1], color="#666666", linestyle=":", linewidth=1)
            _limits(axis, seeds[metric]["value"])
            axis.set_title(plain(metric), fontsize=10, loc="left")
            axis.set_xlabel("optimiser step")
            axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _legend(figure, axes.flat[0], len(arms))
        return figure


def reached_figure(shares: pl.DataFrame, over_targets: pl.DataFrame, arms: Sequence[str], metric: str) -> Figure:
    """Left: the share of seeds that have reached the target, over steps (Kaplan and Meier). Right: the speed-up over the baseline at each of
    several targets; a hollow marker has seeds that miss it, so that its speed-up is a bound."""
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.3))
        for arm in arms:
            colour, marker = colour_of(arms, arm)
            part = shares.filter(pl.col("arm") == arm)
            left.step(part["step"], part["share"], where="post", color=colour, label=arm, linewidth=1.4)
            band = part.drop_nulls()
            left.fill_between(
                band["step"], band["low"], band["high"], step="post", color=colour, alpha=0.1, linewidth=0
            )
            faster = over_targets.filter((pl.col("arm") == arm) & pl.col("speed_up").is_not_null()).sort("target")
            right.fill_between(faster["target"], faster["low"], faster["high"], color=colour, alpha=0.1, linewidth=0)
            right.plot(faster["target"], faster["speed_up"], color=colour, linewidth=1.2)
            for whole, face in ((True, colour), (False, "white")):
                chosen = faster.filter((pl.col("reached") == pl.col("seeds")) == whole)
                right.plot(chosen["target"], chosen["speed_up"], marker, color=colour, markerfacecolor=face, ms=4)
        left.set_xlabel("optimiser step")
        left.set_ylabel("share of seeds")
        left.set_ylim(-0.03, 1.03)
        left.set_title("target reached", fontsize=10, loc="left")
        right.axhline(1.0, color="#666666", linestyle="--", linewidth=1)
        right.set_xlabel(f"target: {plain(metric)}")
        right.set_title("speed-up over the baseline", fontsize=10, loc="left")
        _limits(right, pl.concat([over_targets["speed_up"].drop_nulls(), pl.Series("speed_up", [0.9, 1.1])]))
        _legend(figure, left, len(arms))
        return figure


def aggregate_figure(table: pl.DataFrame, profiles: pl.DataFrame, arms: Sequence[str], what: str) -> Figure:
    """Left: IQM, mean and median of all scores with their intervals. Right: the share of scores above each threshold."""
    names = [name for name in ("median", "mean", "IQM") if name in table["aggregate"].to_list()]
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.3))
        for place, arm in enumerate(arms):
            colour, marker = colour_of(arms, arm)
            part = table.filter(pl.col("arm") == arm)
            for y, name in enumerate(names):
                for row in part.filter(pl.col("aggregate") == name).iter_rows(named=True):
                    at = y - (place - (len(arms) - 1) / 2) * 0.7 / max(1, len(arms))
                    if row["low"] is not None:
                        left.plot([row["low"], row["high"]], [at, at], color=colour, linewidth=1.6)
                    left.plot([row["value"]], [at], marker, color=colour, ms=4.5, label=arm if name == "IQM" else None)
            own = profiles.filter(pl.col("arm") == arm)
            right.plot(own["threshold"], own["share"], color=colour, linewidth=1.4)
            right.fill_between(own["threshold"], own["low"], own["high"], color=colour, alpha=0.12, linewidth=0)
        left.set_yticks(range(len(names)), names)
        left.set_xlabel(what)
        left.set_title("over all kinds and seeds", fontsize=10, loc="left")
        right.set_xlabel(f"{what} above")
        right.set_ylabel("share of kinds and seeds")
        right.set_title("performance profile", fontsize=10, loc="left")
        _legend(figure, left, len(arms))
        return figure


def response_figure(
    panels: dict[str, tuple[pl.DataFrame, pl.DataFrame]], factor: str, seeds: dict[str, pl.DataFrame], log: bool
) -> Figure:
    """One panel a metric: its mean at each level with the interval, the seeds as dots, and the fitted curve with its band."""
    with plt.rc_context(STYLE):
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.1 * rows), squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_visible(False)
        for axis, (metric, (found, fitted)) in zip(axes.flat, panels.items(), strict=False):
            axis.plot(seeds[metric]["level"], seeds[metric]["value"], ".", color="#888888", ms=3, alpha=0.6)
            if fitted.height:
                axis.fill_between(
                    fitted["level"], fitted["low"], fitted["high"], color=PALETTE[2], alpha=0.15, linewidth=0
                )
                axis.plot(fitted["level"], fitted["fit"], color=PALETTE[2], linewidth=1.4)
            spread = np.nan_to_num(
                [(found["mean"] - found["low"]).to_numpy(), (found["high"] - found["mean"]).to_numpy()]
            )
            axis.errorbar(found["level"], found["mean"], yerr=spread, fmt="o", color="black", ms=4.5, lw=1.2)
            if log:
                axis.set_xscale("log")
                axis.set_xticks(found["level"].to_list(), [f"{level:g}" for level in found["level"]])
                axis.minorticks_off()
            axis.set_title(plain(metric), fontsize=10, loc="left")
            axis.set_xlabel(plain(short(factor)))
        figure.tight_layout()
        return figure


def interaction_figure(values: dict[int, np.ndarray], levels: dict[str, list[str]], metric: str) -> Figure:
    """One panel a pair of factors: the mean over seeds (and all other factors) at each level of the one, a line a level of the other."""
    pairs = list(itertools.combinations(enumerate(levels), 2))[:6]
    grid = np.stack(list(values.values()))
    with plt.rc_context(STYLE):
        columns = min(3, len(pairs))
        rows = -(-len(pairs) // columns)
        size = (6.6 if columns == 1 else 4.6 * columns, 3.8 * rows)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, sharey=True)
        for axis in axes.flat[len(pairs) :]:
            axis.set_visible(False)
        for axis, ((one, first), (two, second)) in zip(axes.flat, pairs, strict=False):
            others = tuple(k + 1 for k in range(len(levels)) if k not in (one, two))
            table = grid.mean(axis=others) if others else grid
            x = np.arange(len(levels[first]))
            for place, level in enumerate(levels[second]):
                colour, marker = PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)]
                intervals = [mean_interval(table[:, k, place]) for k in range(len(x))]
                at = x + (place - (len(levels[second]) - 1) / 2) * 0.06
                means = [each.mean for each in intervals]
                spread = np.nan_to_num(
                    [[each.mean - each.low for each in intervals], [each.high - each.mean for each in intervals]]
                )
                axis.errorbar(at, means, yerr=spread, color=colour, marker=marker, ms=4.5, lw=1.2, label=level)
            axis.set_xticks(x, levels[first])
            axis.set_xlabel(plain(short(first)))
            above: dict[str, Any] = {
                "loc": "lower center",
                "bbox_to_anchor": (0.5, 1.0),
                "ncols": min(4, len(levels[second])),
            }
            axis.legend(title=plain(short(second)), fontsize=8, title_fontsize=8, **above)
        for row in axes:
            row[0].set_ylabel(plain(metric))
        figure.tight_layout()
        return figure


def severity_figure(curves: pl.DataFrame, arms: Sequence[str], metric: str) -> Figure:
    """One panel a kind: score over severity, 0 being undisturbed."""
    kinds = curves["kind"].unique(maintain_order=True).sort().to_list()
    with plt.rc_context(STYLE):
        columns = min(4, max(1, len(kinds)))
        rows = -(-len(kinds) // columns)
        figure, axes = plt.subplots(
            rows, columns, figsize=(2.6 * columns, 2.5 * rows), squeeze=False, sharex=True, sharey=True
        )
        for axis in axes.flat[len(kinds) :]:
            axis.set_visible(False)
        for axis, kind in zip(axes.flat, kinds, strict=False):
            for arm in arms:
                colour, marker = colour_of(arms, arm)
                part = curves.filter((pl.col("arm") == arm) & (pl.col("kind") == kind)).sort("severity")
                axis.fill_between(part["severity"], part["low"], part["high"], color=colour, alpha=0.12, linewidth=0)
                axis.plot(part["severity"], part["mean"], color=colour, marker=marker, markersize=3, label=arm)
            axis.set_title(plain(kind), fontsize=10, loc="left")
            axis.set_xlabel("severity")
        for row in axes:
            row[0].set_ylabel(metric)
        _legend(figure, axes.flat[0], len(arms))
        return figure


def drop_figure(drops: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Heat map of the mean relative drop, arms x kinds, or kinds x arms where the kinds are many; darker is worse."""
    kinds = drops["kind"].unique().sort().to_list()
    known = {(row["arm"], row["kind"]): row["mean"] for row in drops.iter_rows(named=True)}
    many = len(kinds) > MOST_COLUMNS
    rows, columns = (kinds, list(arms)) if many else (list(arms), kinds)
    grid = [[known.get((c, r) if many else (r, c), float("nan")) for c in columns] for r in rows]
    with plt.rc_context(STYLE | {"axes.grid": False}):
        size = (3.6 + 1.0 * len(columns), 1.6 + (0.26 if many else 0.42) * len(rows))
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        highest = max((value for row in grid for value in row if value == value), default=0.0)
        image = axis.imshow(grid, cmap="cividis_r", vmin=0, vmax=max(highest, 1e-6), aspect="auto")
        for y, row in enumerate(grid):
            for x, value in enumerate(row):
                dark = value > 0.55 * highest
                axis.text(x, y, f"{100 * value:.1f}", ha="center", va="center", color="white" if dark else "black")
        axis.set_xticks(range(len(columns)), [plain(name) for name in columns], rotation=30, ha="right")
        axis.set_yticks(range(len(rows)), [plain(name) for name in rows])
        for spine in axis.spines.values():
            spine.set_visible(False)
        figure.colorbar(image, ax=axis, label="relative drop", format=lambda v, _: f"{100 * v:.1f} %")
        return figure


def foil_figure(table: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Accuracy of the caption against a foil, by kind of foil, with 95 % intervals; chance is dashed."""
    kinds = table["metric"].unique(maintain_order=True).sort().to_list()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(max(6.0, 1.25 * len(kinds)), 3.3))
        for place, arm in enumerate(arms):
            colour, marker = colour_of(arms, arm)
            part = table.filter(pl.col("arm") == arm)
            shift = (place - (len(arms) - 1) / 2) * 0.8 / max(1, len(arms))
            x = [kinds.index(kind) + shift for kind in part["metric"]]
            low, high = (part["mean"] - part["low"]).to_list(), (part["high"] - part["mean"]).to_list()
            axis.errorbar(
                x, part["mean"].to_list(), yerr=[low, high], fmt=marker, color=colour, label=arm, ms=4, lw=1.2
            )
        axis.axhline(0.5, color="#666666", linestyle="--", linewidth=1)
        axis.set_xticks(range(len(kinds)), [plain(kind) for kind in kinds], rotation=20, ha="right")
        axis.set_ylabel("pairwise accuracy")
        lowest = min([0.45, *table["mean"].to_list()])
        axis.set_ylim(max(0.0, lowest - 0.05), 1.02)
        _legend(figure, axis, len(arms))
        return figure


def suite_figure(table: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Scores by kind with their intervals; behind each point the score without a picture, as a bar."""
    kinds = table["kind"].unique(maintain_order=True).sort().to_list()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(max(6.0, 1.25 * len(kinds)), 3.3))
        for place, arm in enumerate(arms):
            colour, marker = colour_of(arms, arm)
            part = table.filter(pl.col("arm") == arm)
            width = 0.8 / max(1, len(arms))
            x = [kinds.index(kind) + (place - (len(arms) - 1) / 2) * width for kind in part["kind"]]
            blank = part["blank_image"].fill_null(float("nan")).to_list()
            axis.bar(x, blank, 0.8 * width, color=colour, alpha=0.25, linewidth=0)
            # A single seed has no interval.
            spread = [
                (part["mean"] - part["low"]).fill_nan(0.0).to_list(),
                (part["high"] - part["mean"]).fill_nan(0.0).to_list(),
            ]
            axis.errorbar(x, part["mean"].to_list(), yerr=spread, fmt=marker, color=colour, label=arm, ms=4, lw=1.2)
        axis.set_xticks(range(len(kinds)), [plain(kind) for kind in kinds], rotation=25, ha="right")
        axis.set_ylabel("score (bar: grey picture)")
        axis.set_ylim(0.0, 1.02)
        _legend(figure, axis, len(arms))
        return figure


def _limits(axis: Axes, values: pl.Series) -> None:
    """The range of the data, so that a single wide band does not flatten the curves."""
    low, high = values.min(), values.max()
    if isinstance(low, float) and isinstance(high, float) and high > low:
        margin = 0.06 * (high - low)
        axis.set_ylim(low - margin, high + margin)


def _legend(figure: Figure, axis: Axes, arms: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.tight_layout()
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=min(5, max(1, arms)))
