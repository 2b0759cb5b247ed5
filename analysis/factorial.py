"""Which factor does what, where several are crossed.

Every effect is a contrast of cells within a seed, then a mean over seeds: on a balanced grid these are the estimates of
a mixed model in which seeds, and how seeds differ in each effect, are random. Main effects and interactions together
are one family.
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
    """Main effects and interactions of factors that are fully crossed."""
    name = runs.record.primary
    levels = crossed(runs)
    if not levels:
        return None
    found, left = effects(runs, name), left_out(runs, name, levels)
    every = counted(runs.trials["seed"].n_unique(), "seed")
    warnings = [f"{left} of {every} left out: a trial of theirs diverged or is missing."] if left else []
    if found.is_empty():
        return Section("factors", "Factors", ["No seed has every combination of the factors."], warnings=warnings)
    figure = interaction_figure(by_seed(runs, name, levels), levels, name)
    return Section(
        "factors",
        "Factors",
        ["Each factor on its own, averaged over the others, and how the effect of one changes with another."],
        sentences(found, runs.record.margin, name),
        warnings,
        tables=[_table(found, name)],
        plots=[Plot("factors", CAPTION, figure)],
        notes=[BOLD],
        split=SPLITS.get(split_of(name) or "", ""),
        frames={"effects": found},
    )


def crossed(runs: Runs) -> Levels:
    """The factors that are fully crossed with at least two levels each; empty unless there are at least two of them."""
    arms = runs.record.arm_values
    given = {arm: values for arm, values in arms.items() if arm in runs.arms}
    if runs.baseline not in given:
        return {}
    levels: Levels = {}
    for factor, base in given[runs.baseline].items():
        found = list(dict.fromkeys([str(base), *(str(values[factor]) for values in given.values())]))
        if len(found) > 1:
            levels[factor] = found
    combinations = {tuple(str(values[factor]) for factor in levels) for values in given.values()}
    whole = len(combinations) == int(np.prod([len(each) for each in levels.values()]))
    return levels if len(levels) > 1 and whole and len(combinations) == len(given) else {}


def by_seed(runs: Runs, name: str, levels: Levels) -> dict[int, np.ndarray]:
    """Seed -> values, an axis a factor; seeds that lack a cell are left out."""
    arms = runs.record.arm_values
    place = {
        arm: tuple(levels[factor].index(str(values[factor])) for factor in levels)
        for arm, values in arms.items()
        if arm in runs.arms
    }
    found: dict[int, np.ndarray] = {}
    shape = [len(each) for each in levels.values()]
    for arm, seed, value in runs.final(name).iter_rows():
        found.setdefault(seed, np.full(shape, np.nan))[place[arm]] = value
    return {seed: values for seed, values in sorted(found.items()) if not np.isnan(values).any()}


def left_out(runs: Runs, name: str, levels: Levels) -> int:
    """How many seeds lack a cell."""
    return int(runs.trials["seed"].n_unique()) - len(by_seed(runs, name, levels))


def effects(runs: Runs, name: str) -> pl.DataFrame:
    """Main effects (a level less the baseline's, averaged over the other factors) and two-way interactions (how much
    the effect of one level changes with another's), each against zero; all of them are one family."""
    levels = crossed(runs)
    values = list(by_seed(runs, name, levels).values()) if levels else []
    if not values:
        return pl.DataFrame(schema=EFFECTS)
    grid, names = np.stack(values), list(levels)
    found: list[tuple[str, str, np.ndarray]] = []
    for axis, factor in enumerate(names):
        for level in range(1, len(levels[factor])):
            per_seed = _mean(grid, {axis: level}) - _mean(grid, {axis: 0})
            found.append(("main", f"{short(factor)}={levels[factor][level]}", per_seed))
    for (one, first), (two, second) in itertools.combinations(enumerate(names), 2):
        for a, b in itertools.product(range(1, len(levels[first])), range(1, len(levels[second]))):
            changed = _mean(grid, {one: a, two: b}) - _mean(grid, {one: 0, two: b})
            before = _mean(grid, {one: a, two: 0}) - _mean(grid, {one: 0, two: 0})
            label = f"{short(first)}={levels[first][a]} × {short(second)}={levels[second][b]}"
            found.append(("interaction", label, changed - before))
    family = judge(np.stack([per_seed for *_, per_seed in found], axis=1))
    whole = not runs.diverged  # what is known of survivors alone says nothing of equality
    rows = []
    for place, (kind, label, per_seed) in enumerate(found):
        alone = paired_contrast(per_seed, np.zeros_like(per_seed))
        ends, adjusted = (float(family.low[place]), float(family.high[place])), float(family.adjusted[place])
        told = verdict(adjusted, *ends, alone.difference.mean, alone.seeds, runs.record.margin, whole)
        interval = (alone.difference.mean, alone.difference.low, alone.difference.high)
        rows.append((label, kind, alone.seeds, *interval, *ends, alone.p, adjusted, told))
    return pl.DataFrame(rows, schema=EFFECTS, orient="row").with_columns(pl.col(pl.Float64).fill_nan(None))


def sentences(found: pl.DataFrame, margin: float | None, name: str) -> list[str]:
    """What each interaction is: shown, smaller than the margin, or undecided."""
    said = []
    for row in found.filter(pl.col("kind") == "interaction").iter_rows(named=True):
        interval = spread(row["all_low"], row["all_high"], signed)
        size = signed(row["difference"]) + ("" if interval == DASH else f" {interval}")
        if row["verdict"] in (HIGHER, LOWER):
            told = (
                f"they interact: together {'more' if row['verdict'] == HIGHER else 'less'} {metric(name).title} than"
                " their effects add up to"
            )
        elif row["verdict"] == EQUIVALENT and margin:
            told = f"an interaction larger than {amount(margin, metric(name))} is excluded"
        elif row["verdict"] == FEW:
            told = "too few seeds for a verdict"
        else:
            told = "whether they interact is undecided"
        said.append(f"{row['effect']}: {told}, {size}.")
    return said


def _table(found: pl.DataFrame, name: str) -> Table:
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
        for row in found.iter_rows(named=True)
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
    """[seeds, ...] -> [seeds]: the mean over all factors but those that are held `at` a level."""
    index: tuple[Any, ...] = (slice(None), *(at.get(axis, slice(None)) for axis in range(grid.ndim - 1)))
    return grid[index].reshape(len(grid), -1).mean(axis=1)


def interaction_figure(values: dict[int, np.ndarray], levels: dict[str, list[str]], name: str) -> Figure:
    """One panel per pair of factors: the mean over seeds (and all other factors) at each level of the one, a line per
    level of the other."""
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
