"""How scores fall when pictures or captions are disturbed."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from analysis.figures.style import MOST_COLUMNS, STYLE, colour_of, legend
from analysis.statistics import LEVEL
from analysis.wording import plain


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
        legend(figure, axes.flat[0])
        return figure


def drop_figure(drops: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """Heat map of the mean relative drop, arms x kinds, or kinds x arms where the kinds are many; darker is worse. Two stars: the difference
    from the baseline has a Holm p of at most .05; one: its interval excludes 0."""
    kinds = drops["kind"].unique().sort().to_list()
    known = {(row["arm"], row["kind"]): row for row in drops.iter_rows(named=True)}
    many = len(kinds) > MOST_COLUMNS
    rows, columns = (kinds, list(arms)) if many else (list(arms), kinds)
    cells = [[known.get((c, r) if many else (r, c)) for c in columns] for r in rows]
    grid = [[cell["mean"] if cell else float("nan") for cell in row] for row in cells]
    with plt.rc_context(STYLE | {"axes.grid": False}):
        size = (3.6 + 1.0 * len(columns), 1.6 + (0.26 if many else 0.42) * len(rows))
        figure, axis = plt.subplots(figsize=size, layout="constrained")
        highest = max((value for row in grid for value in row if value == value), default=0.0)
        image = axis.imshow(grid, cmap="cividis_r", vmin=0, vmax=max(highest, 1e-6), aspect="auto")
        for y, row in enumerate(cells):
            for x, cell in enumerate(row):
                if cell is not None:
                    dark = cell["mean"] > 0.55 * highest
                    told = f"{round(100 * cell['mean'], 1) + 0.0:.1f}{mark(cell)}"  # no minus before a zero
                    axis.text(x, y, told, ha="center", va="center", color="white" if dark else "black")
        axis.set_xticks(range(len(columns)), [plain(name) for name in columns], rotation=30, ha="right")
        axis.set_yticks(range(len(rows)), [plain(name) for name in rows])
        for spine in axis.spines.values():
            spine.set_visible(False)
        figure.colorbar(image, ax=axis, label="relative drop", format=lambda v, _: f"{100 * v:.1f} %")
        return figure


def mark(row: Mapping[str, Any]) -> str:
    """Stars for a difference from the baseline that matters."""
    if row["p_holm"] is not None and row["p_holm"] <= LEVEL:
        return " **"
    low, high = row["difference_low"], row["difference_high"]
    return " *" if low is not None and (low > 0 or high < 0) else ""


def scatter_figure(points: pl.DataFrame, arms: Sequence[str], baseline: str, metric: str) -> Figure:
    """Clean against disturbed score, a dot a trial and a large marker an arm's mean. The dashed line is where the baseline's mean loss leads from each clean
    score: what lies above it is effective robustness (in the manner of Taori et al. 2020)."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 4.0))
        base = points.filter(pl.col("arm") == baseline)
        if base.height:
            gap = float((base["disturbed"] - base["clean"]).mean())  # type: ignore[arg-type]
            ends = np.array([points["clean"].min(), points["clean"].max()], dtype=float)
            margin = max(0.005, 0.08 * float(np.ptp(ends)))
            line = ends + np.array([-margin, margin])
            axis.plot(line, line + gap, color="#666666", linestyle="--", linewidth=1)
            axis.annotate(
                "as robust as the baseline",
                (line[-1], line[-1] + gap),
                (0, 4),
                textcoords="offset points",
                ha="right",
                fontsize=8,
                color="#444444",
            )
        for arm in arms:
            colour, marker = colour_of(arms, arm)
            own = points.filter(pl.col("arm") == arm)
            axis.plot(own["clean"], own["disturbed"], marker, color=colour, ms=3.5, alpha=0.4, markeredgewidth=0)
            axis.plot(
                [own["clean"].mean()],
                [own["disturbed"].mean()],
                marker,
                color=colour,
                ms=8,
                label=arm,
                markeredgecolor="white",
            )
        axis.set_xlabel(f"undisturbed {metric}")
        axis.set_ylabel(f"mean disturbed {metric}")
        legend(figure, axis, most=3)
        return figure
