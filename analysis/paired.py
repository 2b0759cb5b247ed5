"""Compares arms with the baseline, paired by seed: runs in, one frame out, and its display. Every topic that compares
arms uses this.

The contrasts of one call are one family: a page section without any effect has a verdict other than `undecided` in at
most 5 % of sweeps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from analysis.families import judge, worst_ranks
from analysis.runs import Runs
from analysis.section import Cell, Row, Sources, Table
from analysis.statistics import mean_interval, paired_contrast
from analysis.wording import DASH, level, number, probability, short, signed, spread
from workbench.metrics import metric, title
from workbench.significance import LEVEL, smallest_p

CONTRASTS = {
    "arm": pl.String,
    "metric": pl.String,
    "trials": pl.Int64,
    "diverged": pl.Int64,
    "seeds": pl.Int64,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "paired": pl.Int64,
    "difference": pl.Float64,
    "difference_low": pl.Float64,
    "difference_high": pl.Float64,
    "all_low": pl.Float64,
    "all_high": pl.Float64,
    "spread": pl.Float64,
    "p": pl.Float64,
    "p_adjusted": pl.Float64,
    "ranked": pl.Boolean,
    "verdict": pl.String,
}
# The possible verdicts. `few`: too few paired seeds; `none`: no value to compare.
HIGHER, LOWER, EQUIVALENT, UNDECIDED, FEW, NONE, BASELINE = (
    "higher",
    "lower",
    "equivalent",
    "undecided",
    "too few seeds",
    "no value",
    "baseline",
)
BOLD = (
    "Bold: the adjusted p is at most .05. It is adjusted over all contrasts of this section (step-down max-T with joint"
    " sign flips over seeds), so that a section without any effect has a bold row in at most 5 % of sweeps."
)
RANKED = (
    "(ranks): where trials of the arm or of the baseline diverged, p ranks these worse than all others, and means,"
    " differences and the interval of the arm alone are about the others."
)
Values = Callable[[str], pl.DataFrame]  # metric -> arm, seed, value


def compare(
    runs: Runs, metrics: Sequence[str], margin: float | None = None, values: Values | None = None
) -> pl.DataFrame:
    """Returns one row per metric and arm, the baseline's first, as `CONTRASTS`. All contrasts are one family.

    `mean`: with its Student interval over the arm's seeds. `difference`: from the baseline over `paired` seeds, with
    its Student interval (this arm alone) and with the simultaneous one, `all_low` and `all_high`. `p`: of this arm
    alone, and `p_adjusted`. Where the arm or the baseline has diverged trials, both p are of worst ranks (`ranked`).
    `values`: the source of the values; default the trials' final values.
    """
    values = values or runs.final
    ended = {(arm, seed): outcome for arm, seed, outcome in runs.outcomes().iter_rows()}
    seeds = sorted({seed for _, seed in ended})
    arms = [arm for arm in runs.arms if arm != runs.baseline]
    rows, differences, tests, ranked = [], [], [], []
    for name in metrics:
        known = {(arm, seed): value for arm, seed, value in values(name).iter_rows()}
        base = _column(known, runs.baseline, seeds)
        if runs.baseline in runs.arms:
            rows.append(_reached(runs, name, runs.baseline, base, ended) | {"verdict": BASELINE})
        base_diverged = _diverged(ended, runs.baseline, seeds)
        for arm in arms:
            reached, diverged = _column(known, arm, seeds), _diverged(ended, arm, seeds)
            difference = reached - base
            test = _ranked(difference, (reached, diverged), (base, base_diverged), name)
            by_rank = test is not None
            rows.append(_reached(runs, name, arm, reached, ended) | _paired(difference, name))
            differences.append(difference)
            tests.append(difference if test is None else test)
            ranked.append(by_rank)
    if differences:
        stacked = np.stack(tests, axis=1)
        family = judge(np.stack(differences, axis=1), stacked)
        against = [row for row in rows if "verdict" not in row]
        for index, row in enumerate(against):
            direction = float(np.nansum(stacked[:, index]))
            ends = float(family.low[index]), float(family.high[index])
            row |= {"p": family.p[index], "p_adjusted": family.adjusted[index], "ranked": ranked[index]}
            if not ranked[index]:  # the interval would cover only the trials that did not diverge
                row |= dict(zip(("all_low", "all_high"), _cut(str(row["metric"]), *ends), strict=True))
            evidence = (float(family.adjusted[index]), *ends, direction, int(family.seeds[index]))
            row["verdict"] = verdict(*evidence, margin, not ranked[index])
    return pl.DataFrame(rows, schema=CONTRASTS).with_columns(pl.col(pl.Float64).fill_nan(None))


def _column(known: dict[tuple[str, int], float], arm: str, seeds: Sequence[int]) -> np.ndarray:
    return np.array([known.get((arm, seed), np.nan) for seed in seeds], dtype=float)


def _diverged(ended: dict[tuple[str, int], str], arm: str, seeds: Sequence[int]) -> np.ndarray:
    return np.array([ended.get((arm, seed)) == "diverged" for seed in seeds], dtype=bool)


def _reached(runs: Runs, name: str, arm: str, values: np.ndarray, ended: dict[tuple[str, int], str]) -> dict[str, Any]:
    outcomes = [outcome for (name_of_arm, _), outcome in ended.items() if name_of_arm == arm]
    known = values[~np.isnan(values)]
    reached = mean_interval(known, metric(name).bounds)
    return {
        "arm": arm,
        "metric": name,
        "trials": len(outcomes),
        "diverged": outcomes.count("diverged"),
        "seeds": len(known),
        "mean": reached.mean,
        "low": reached.low,
        "high": reached.high,
    }


def _ranked(
    differences: np.ndarray, arm: tuple[np.ndarray, np.ndarray], base: tuple[np.ndarray, np.ndarray], name: str
) -> np.ndarray | None:
    """Returns worst ranks where a paired trial diverged, else None. `arm` and `base`: values, and which trials
    diverged. A trial has an outcome where it has a value or diverged. A metric that one side lacks in all trials,
    though some of them ended well, is not an outcome of that side."""
    (values_of_arm, own_diverged), (values_of_base, other_diverged) = arm, base
    ended = (~np.isnan(values_of_arm) | own_diverged) & (~np.isnan(values_of_base) | other_diverged)
    for values, diverged in (arm, base):
        if np.isnan(values).all() and not (diverged | ~ended).all():
            return None
    if metric(name).better == "neither" or not ((own_diverged | other_diverged) & ended).any():
        return None
    lower = metric(name).lower_is_better
    return worst_ranks(np.where(ended, differences, np.nan), own_diverged & ended, other_diverged & ended, lower)


def _paired(differences: np.ndarray, name: str) -> dict[str, Any]:
    known = differences[~np.isnan(differences)]
    contrast = paired_contrast(known, np.zeros_like(known))
    low, high = _cut(name, contrast.difference.low, contrast.difference.high)
    return {
        "paired": contrast.seeds,
        "difference": contrast.difference.mean,
        "difference_low": low,
        "difference_high": high,
        "spread": contrast.spread,
    }


def _cut(name: str, low: float, high: float) -> tuple[float, float]:
    """Clips an interval of a difference to the possible differences of the metric."""
    least, most = metric(name).bounds
    return max(low, least - most) if low == low else low, min(high, most - least) if high == high else high


def verdict(
    adjusted: float, low: float, high: float, direction: float, seeds: int, margin: float | None, equal: bool = True
) -> str:
    """Returns the verdict of the family's test on a contrast over `seeds` seeds. Where it does not reject, the
    simultaneous interval decides about equivalence within the margin. `equal`: whether equivalence may be claimed at
    all."""
    if seeds == 0:
        return NONE
    if smallest_p(seeds) > LEVEL:
        return FEW
    if adjusted <= LEVEL:
        return HIGHER if direction > 0 else LOWER
    if margin is not None and equal and -margin < low and high < margin:
        return EQUIVALENT
    return UNDECIDED


def within(row: dict[str, Any], margin: float | None) -> bool:
    """Returns whether a significant difference is smaller than the margin."""
    if margin is None or row["ranked"] or row["verdict"] not in (HIGHER, LOWER):
        return False
    return -margin < float(row["all_low"]) and float(row["all_high"]) < margin


def sure(row: dict[str, Any]) -> bool:
    """Returns whether the row is significant, and so bold."""
    return row["verdict"] in (HIGHER, LOWER)


HEADS = (
    "arm",
    "seeds",
    "mean",
    "95 % interval",
    "minus baseline",
    "95 %, this arm alone",
    "95 %, all arms at once",
    "adjusted p",
    "verdict",
)


def contrast_table(
    runs: Runs,
    frame: pl.DataFrame,
    caption: str = "",
    folded: bool = False,
    note: str = "",
) -> Table:
    """Returns the rows of one metric of `compare` as a table, with the trials behind each number."""
    name = str(frame["metric"][0])
    rows = [Row(_cells(row), sure(row)) for row in frame.iter_rows(named=True)]
    return Table(caption or title(name), HEADS, rows, note, sources(runs, runs.final(name)), folded)


def _cells(row: dict[str, Any]) -> list[str]:
    seeds = f"{row['seeds']}" + (f" ({row['diverged']} diverged)" if row["diverged"] else "")
    mark = " (ranks)" if row["ranked"] else ""
    return [
        str(row["arm"]),
        seeds,
        number(row["mean"]),
        spread(row["low"], row["high"]),
        signed(row["difference"]),
        spread(row["difference_low"], row["difference_high"], signed),
        spread(row["all_low"], row["all_high"], signed),
        probability(row["p_adjusted"]) + (mark if row["p_adjusted"] is not None else ""),
        DASH if row["verdict"] == BASELINE else str(row["verdict"]),
    ]


def sources(runs: Runs, values: pl.DataFrame) -> list[Sources]:
    """Returns, per arm, the values of its trials, each with a link to its trial."""
    ids = {(arm, seed): run for arm, seed, run in runs.trials.select("arm", "seed", "run_id").iter_rows()}
    cells: dict[str, list[Cell]] = {}
    for arm, seed, value in values.sort("arm", "seed").iter_rows():
        cells.setdefault(arm, []).append(Cell(number(value), f"#run-{ids[arm, seed]}", f"seed {seed}"))
    return [Sources(arm, cells[arm]) for arm in runs.arms if arm in cells]


def arm_names(runs: Runs) -> dict[str, str]:
    """Returns arm -> its name in a sentence: its level where only one factor is varied."""
    values = runs.record.arm_values
    if all(len(values.get(arm, {})) == 1 for arm in runs.arms):
        return {arm: level(next(iter(values[arm].values()))) for arm in runs.arms}
    return {arm: arm for arm in runs.arms}


def noun(runs: Runs) -> str:
    """Returns the factor in which arms differ, where it is only one; else `arm`."""
    factors = {factor for arm in runs.arms for factor in runs.record.arm_values.get(arm, {})}
    return short(next(iter(factors))) if len(factors) == 1 else "arm"
