"""Effects of single factors and their interactions, for sweeps with several crossed factors.

Every effect is a contrast of cells within a seed, averaged over seeds. On a balanced grid these are the estimates of a
mixed model with random seeds and random effects per seed. Main effects and interactions together are one family.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import polars as pl
from matplotlib.figure import Figure

from analysis.families import judge
from analysis.paired import BOLD, EQUIVALENT, FEW, HIGHER, LOWER, verdict
from analysis.runs import Runs
from analysis.section import Plot, Row, Section, Table
from analysis.statistics import mean_interval, paired_contrast
from analysis.style import MARKERS, PALETTE, STYLE
from analysis.wording import DASH, amount, counted, probability, short, signed, spread
from workbench.metrics import SPLITS, metric, split_of, title

EFFECTS = {
    "effect": pl.String,
    "kind": pl.String,
    "seeds": pl.Int64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "all_low": pl.Float64,
    "all_high": pl.Float64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "verdict": pl.String,
}
CAPTION = (
    "Mean over seeds with 95 % intervals, and over the levels of any further factor; lines that are not parallel are an"
    " interaction."
)
Levels = dict[str, list[str]]  # factor -> its levels as text, the baseline's first


def section(runs: Runs) -> Section | None:
    """Returns main effects and interactions of factors that are fully crossed."""
    name = runs.record.primary
    levels = crossed(runs)
    if not levels:
        return None
    frame, left = effects(runs, name), left_out(runs, name, levels)
    every = counted(runs.trials["seed"].n_unique(), "seed")
    warnings = [f"{left} of {every} left out: one of their trials diverged or is missing."] if left else []
    if frame.is_empty():
        return Section("factors", "Factors", ["No seed has every combination of the factors."], warnings=warnings)
    figure = interaction_figure(by_seed(runs, name, levels), levels, name)
    return Section(
        "factors",
        "Factors",
        ["Each factor on its own, averaged over the others, and how the effect of one changes with another."],
        sentences(frame, runs.record.margin, name),
        warnings,
        tables=[_table(frame, name)],
        plots=[Plot("factors", CAPTION, figure)],
        notes=[BOLD],
        split=SPLITS.get(split_of(name) or "", ""),
        frames={"effects": frame},
    )


def crossed(runs: Runs) -> Levels:
    """Returns the fully crossed factors with at least two levels each; empty where there are fewer than two."""
    arms = runs.record.arm_values
    by_arm = {arm: values for arm, values in arms.items() if arm in runs.arms}
    if runs.baseline not in by_arm:
        return {}
    levels: Levels = {}
    for factor, base in by_arm[runs.baseline].items():
        own_levels = list(dict.fromkeys([str(base), *(str(values[factor]) for values in by_arm.values())]))
        if len(own_levels) > 1:
            levels[factor] = own_levels
    combinations = {tuple(str(values[factor]) for factor in levels) for values in by_arm.values()}
    whole = len(combinations) == int(np.prod([len(values) for values in levels.values()]))
    return levels if len(levels) > 1 and whole and len(combinations) == len(by_arm) else {}


def by_seed(runs: Runs, name: str, levels: Levels) -> dict[int, np.ndarray]:
    """Returns seed -> values, with one axis per factor. Seeds that lack a cell are left out."""
    arms = runs.record.arm_values
    index = {
        arm: tuple(levels[factor].index(str(values[factor])) for factor in levels)
        for arm, values in arms.items()
        if arm in runs.arms
    }
    grids: dict[int, np.ndarray] = {}
    shape = [len(own_levels) for own_levels in levels.values()]
    for arm, seed, value in runs.final(name).iter_rows():
        grids.setdefault(seed, np.full(shape, np.nan))[index[arm]] = value
    return {seed: values for seed, values in sorted(grids.items()) if not np.isnan(values).any()}


def left_out(runs: Runs, name: str, levels: Levels) -> int:
    """Returns the number of seeds that lack a cell."""
    return int(runs.trials["seed"].n_unique()) - len(by_seed(runs, name, levels))


def effects(runs: Runs, name: str) -> pl.DataFrame:
    """Returns main effects (a level minus the baseline's, averaged over the other factors) and two-way interactions
    (how much the effect of one level changes with another's), each tested against zero. All of them are one family."""
    levels = crossed(runs)
    values = list(by_seed(runs, name, levels).values()) if levels else []
    if not values:
        return pl.DataFrame(schema=EFFECTS)
    grid, names = np.stack(values), list(levels)
    contrasts: list[tuple[str, str, np.ndarray]] = []
    for axis, factor in enumerate(names):
        for level in range(1, len(levels[factor])):
            per_seed = _mean(grid, {axis: level}) - _mean(grid, {axis: 0})
            contrasts.append(("main", f"{short(factor)}={levels[factor][level]}", per_seed))
    for (one, first), (two, second) in itertools.combinations(enumerate(names), 2):
        for a, b in itertools.product(range(1, len(levels[first])), range(1, len(levels[second]))):
            changed = _mean(grid, {one: a, two: b}) - _mean(grid, {one: 0, two: b})
            before = _mean(grid, {one: a, two: 0}) - _mean(grid, {one: 0, two: 0})
            label = f"{short(first)}={levels[first][a]} × {short(second)}={levels[second][b]}"
            contrasts.append(("interaction", label, changed - before))
    family = judge(np.stack([per_seed for *_, per_seed in contrasts], axis=1))
    whole = not runs.diverged  # results of the surviving trials alone do not show equality
    rows = []
    for index, (kind, label, per_seed) in enumerate(contrasts):
        alone = paired_contrast(per_seed, np.zeros_like(per_seed))
        ends, adjusted = (float(family.low[index]), float(family.high[index])), float(family.adjusted[index])
        conclusion = verdict(adjusted, *ends, alone.difference.mean, alone.seeds, runs.record.margin, whole)
        interval = (alone.difference.mean, alone.difference.low, alone.difference.high)
        rows.append((label, kind, alone.seeds, *interval, *ends, alone.p, adjusted, conclusion))
    return pl.DataFrame(rows, schema=EFFECTS, orient="row").with_columns(pl.col(pl.Float64).fill_nan(None))


def sentences(frame: pl.DataFrame, margin: float | None, name: str) -> list[str]:
    """Returns a sentence for each interaction: shown, smaller than the margin, or undecided."""
    lines = []
    for row in frame.filter(pl.col("kind") == "interaction").iter_rows(named=True):
        interval = spread(row["all_low"], row["all_high"], signed)
        size = signed(row["difference"]) + ("" if interval == DASH else f" {interval}")
        if row["verdict"] in (HIGHER, LOWER):
            conclusion = (
                f"they interact: together {'more' if row['verdict'] == HIGHER else 'less'} {metric(name).title} than"
                " their effects add up to"
            )
        elif row["verdict"] == EQUIVALENT and margin:
            conclusion = f"an interaction larger than {amount(margin, metric(name))} is excluded"
        elif row["verdict"] == FEW:
            conclusion = "too few seeds for a verdict"
        else:
            conclusion = "whether they interact is undecided"
        lines.append(f"{row['effect']}: {conclusion}, {size}.")
    return lines


def _table(frame: pl.DataFrame, name: str) -> Table:
    rows = [
        Row(
            [
                row["effect"],
                str(row["seeds"]),
                signed(row["difference"]),
                spread(row["low"], row["high"], signed),
                spread(row["all_low"], row["all_high"], signed),
                probability(row["p_adjusted"]),
                row["verdict"],
            ],
            row["verdict"] in (HIGHER, LOWER),
        )
        for row in frame.iter_rows(named=True)
    ]
    heads = (
        "effect",
        "seeds",
        "difference",
        "95 %, this effect alone",
        "95 %, all effects at once",
        "adjusted p",
        "verdict",
    )
    return Table(f"{title(name)}, less the baseline's level", heads, rows)


def _mean(grid: np.ndarray, at: Mapping[int, int]) -> np.ndarray:
    """Averages [seeds, ...] to [seeds] over all factors except those that are fixed `at` a level."""
    index: tuple[Any, ...] = (slice(None), *(at.get(axis, slice(None)) for axis in range(grid.ndim - 1)))
    return grid[index].reshape(len(grid), -1).mean(axis=1)


def interaction_figure(values: dict[int, np.ndarray], levels: dict[str, list[str]], name: str) -> Figure:
    """Draws one panel per pair of factors: the mean over seeds (and all other factors) at each level of one factor,
    with a line per level of the other."""
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
            for index, level in enumerate(levels[second]):
                colour, marker = PALETTE[index % len(PALETTE)], MARKERS[index % len(MARKERS)]
                intervals = [mean_interval(table[:, k, index]) for k in range(len(x))]
                at = x + (index - (len(levels[second]) - 1) / 2) * 0.06
                means = [interval.mean for interval in intervals]
                spread = np.nan_to_num(
                    [
                        [interval.mean - interval.low for interval in intervals],
                        [interval.high - interval.mean for interval in intervals],
                    ]
                )
                axis.errorbar(at, means, yerr=spread, color=colour, marker=marker, ms=4.5, lw=1.2, label=level)
            axis.set_xticks(x, levels[first])
            axis.set_xlabel(short(first))
            above: dict[str, Any] = {
                "loc": "lower center",
                "bbox_to_anchor": (0.5, 1.0),
                "ncols": min(4, len(levels[second])),
            }
            axis.legend(title=short(second), fontsize=8, title_fontsize=8, **above)
        for row in axes:
            row[0].set_ylabel(metric(name).title)
        figure.tight_layout()
        return figure
