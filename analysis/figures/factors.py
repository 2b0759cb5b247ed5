"""How a metric answers to what is varied."""

import itertools
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from analysis.factorial import short
from analysis.figures.style import MARKERS, PALETTE, STYLE
from analysis.statistics import mean_interval
from analysis.wording import plain


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
