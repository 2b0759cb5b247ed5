"""What was scored at the end."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import polars as pl
from matplotlib.figure import Figure

from analysis.figures.style import STYLE, colour_of, dash_of, legend
from analysis.wording import plain


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
            right.plot(own["threshold"], own["share"], color=colour, linewidth=1.4, linestyle=dash_of(arms, arm))
            right.fill_between(own["threshold"], own["low"], own["high"], color=colour, alpha=0.12, linewidth=0)
        left.set_yticks(range(len(names)), names)
        left.set_xlabel(what)
        left.set_title("over all kinds and seeds", fontsize=10, loc="left")
        right.set_xlabel(f"{what} above")
        right.set_ylabel("share of kinds and seeds")
        right.set_title("performance profile", fontsize=10, loc="left")
        legend(figure, left)
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
        axis.axhline(0.5, color="#666666", linestyle="--", linewidth=1)
        axis.set_ylabel("score (bar: grey picture)")
        axis.set_ylim(0.0, 1.02)
        legend(figure, axis)
        return figure


HEADS = {"itm": "image-text matching", "mlm": "masked words"}


def reliability_figure(table: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """A panel a head: how often the model is right where it is so sure, with 95 % intervals over seeds; the area of a marker is the share of
    answers. The dashed diagonal is a calibrated model."""
    heads = [head for head in HEADS if head in table["head"].to_list()]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, len(heads), figsize=(4.6 * len(heads), 3.9), squeeze=False)
        for axis, head in zip(axes.flat, heads, strict=True):
            own = table.filter(pl.col("head") == head)
            low = min(0.5 if head == "itm" else 0.0, *own["confidence"].to_list())
            axis.plot([low, 1], [low, 1], color="#666666", linestyle="--", linewidth=1)
            for arm in arms:
                colour, marker = colour_of(arms, arm)
                part = own.filter(pl.col("arm") == arm).sort("bin")
                held = part.drop_nulls(["low", "high"])
                axis.vlines(
                    held["confidence"], held["low"].clip(0), held["high"].clip(None, 1), color=colour, alpha=0.35, lw=1
                )
                axis.plot(part["confidence"], part["accuracy"], color=colour, linewidth=1, alpha=0.8)
                sizes = 10 + 250 * part["share"].to_numpy()
                axis.scatter(
                    part["confidence"], part["accuracy"], s=sizes, color=colour, marker=marker, alpha=0.75, linewidths=0
                )
                axis.plot([], [], marker, color=colour, ms=4, label=arm)
            axis.set_xlim(low - 0.02, 1.02)
            axis.set_title(HEADS[head], fontsize=10, loc="left")
            axis.set_xlabel("confidence")
        axes[0, 0].set_ylabel("accuracy")
        legend(figure, axes[0, 0])
        return figure


def cost_figure(table: pl.DataFrame, arms: Sequence[str], metric: str) -> Figure:
    """What an arm reaches against the device time of a trial, both with their intervals; the line joins the arms that no other one beats at
    their cost."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(5.6, 3.6))
        placed = table.with_columns(cost=pl.col("device_hours") * 3600 / pl.col("trials"))
        front = placed.filter(pl.col("front")).sort("cost", "mean")
        axis.plot(front["cost"], front["mean"], color="#666666", linestyle="--", linewidth=1, zorder=1)
        for row in placed.iter_rows(named=True):
            colour, marker = colour_of(arms, row["arm"])
            if row["low"] is not None and row["mean_low"] is not None:
                devices = row["cost"] / row["seconds"]
                axis.plot(
                    [row["low"] * devices, row["high"] * devices], [row["mean"]] * 2, color=colour, alpha=0.5, lw=1
                )
                axis.plot([row["cost"]] * 2, [row["mean_low"], row["mean_high"]], color=colour, alpha=0.5, lw=1)
            axis.plot([row["cost"]], [row["mean"]], marker, color=colour, ms=7, label=row["arm"], linestyle="none")
        axis.set_xlabel("device-seconds a trial")
        axis.set_ylabel(plain(metric))
        axis.margins(0.12)
        legend(figure, axis, most=3)
        return figure


def importance_figure(table: pl.DataFrame, arms: Sequence[str]) -> Figure:
    """How much of the variance over each arm's search a tuned setting explains, by arm."""
    settings = table["setting"].unique().sort().to_list()
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(6.4, 1.2 + 0.45 * len(settings)))
        shown = [arm for arm in arms if arm in table["arm"].to_list()]
        for place, arm in enumerate(shown):
            colour, _ = colour_of(arms, arm)
            part = table.filter(pl.col("arm") == arm)
            height = 0.8 / len(shown)
            at = [settings.index(name) + (place - (len(shown) - 1) / 2) * height for name in part["setting"]]
            axis.barh(at, part["importance"], height * 0.9, color=colour, label=arm)
        axis.set_yticks(range(len(settings)), [plain(name) for name in settings])
        axis.set_xlim(0, 1)
        axis.set_xlabel("share of the variance explained")
        legend(figure, axis, most=3)
        return figure
