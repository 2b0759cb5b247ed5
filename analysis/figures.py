"""Frames in, matplotlib figures out; one style, readable in print and by colour-blind readers."""

from collections.abc import Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import polars as pl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
