"""Arms against the baseline, paired by seed: runs in, one frame out, and how such a frame is shown. Every topic that
compares arms uses this.

The contrasts of one call are one family: of a page section without any effect, at most 5 % have a verdict other than
`undecided`.
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
# What a verdict may be. `few`: too few paired seeds for any; `none`: no value to compare.
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
    """One row per metric and arm, the baseline's first, as `CONTRASTS`; all of them are one family.

    `mean` with its Student interval over the arm's own seeds; `difference` from the baseline over `paired` seeds with
    its Student interval (this arm alone) and with the simultaneous one, `all_low` and `all_high`; `p` of this arm alone
    and `p_adjusted`. Of arms with diverged trials, or with a baseline that has them, both p are of worst ranks
    (`ranked`). `values`: where they come from, instead of the trials' final values.
    """
    values = values or runs.final
    ended = {(arm, seed): outcome for arm, seed, outcome in runs.outcomes().iter_rows()}
    seeds = sorted({seed for _, seed in ended})
    arms = [arm for arm in runs.arms if arm != runs.baseline]
    rows, differences, tests, ranked = [], [], [], []
    for name in metrics:
        found = {(arm, seed): value for arm, seed, value in values(name).iter_rows()}
        base = _column(found, runs.baseline, seeds)
        if runs.baseline in runs.arms:
            rows.append(_reached(runs, name, runs.baseline, base, ended) | {"verdict": BASELINE})
        base_diverged = _diverged(ended, runs.baseline, seeds)
        for arm in arms:
            own, diverged = _column(found, arm, seeds), _diverged(ended, arm, seeds)
            difference = own - base
            test = _ranked(difference, (own, diverged), (base, base_diverged), name)
            by_rank = test is not None
            rows.append(_reached(runs, name, arm, own, ended) | _paired(difference, name))
            differences.append(difference)
            tests.append(difference if test is None else test)
            ranked.append(by_rank)
    if differences:
        stacked = np.stack(tests, axis=1)
        family = judge(np.stack(differences, axis=1), stacked)
        against = [row for row in rows if "verdict" not in row]
        for place, row in enumerate(against):
            direction = float(np.nansum(stacked[:, place]))
            ends = float(family.low[place]), float(family.high[place])
            row |= {"p": family.p[place], "p_adjusted": family.adjusted[place], "ranked": ranked[place]}
            if not ranked[place]:  # the interval would be about those alone that did not diverge
                row |= dict(zip(("all_low", "all_high"), _cut(str(row["metric"]), *ends), strict=True))
            told = (float(family.adjusted[place]), *ends, direction, int(family.seeds[place]))
            row["verdict"] = verdict(*told, margin, not ranked[place])
    return pl.DataFrame(rows, schema=CONTRASTS).with_columns(pl.col(pl.Float64).fill_nan(None))


def _column(found: dict[tuple[str, int], float], arm: str, seeds: Sequence[int]) -> np.ndarray:
    return np.array([found.get((arm, seed), np.nan) for seed in seeds], dtype=float)


def _diverged(ended: dict[tuple[str, int], str], arm: str, seeds: Sequence[int]) -> np.ndarray:
    return np.array([ended.get((arm, seed)) == "diverged" for seed in seeds], dtype=bool)


def _reached(runs: Runs, name: str, arm: str, values: np.ndarray, ended: dict[tuple[str, int], str]) -> dict[str, Any]:
    own = [outcome for (each, _), outcome in ended.items() if each == arm]
    known = values[~np.isnan(values)]
    reached = mean_interval(known, metric(name).bounds)
    return {
        "arm": arm,
        "metric": name,
        "trials": len(own),
        "diverged": own.count("diverged"),
        "seeds": len(known),
        "mean": reached.mean,
        "low": reached.low,
        "high": reached.high,
    }


def _ranked(
    differences: np.ndarray, arm: tuple[np.ndarray, np.ndarray], base: tuple[np.ndarray, np.ndarray], name: str
) -> np.ndarray | None:
    """Worst ranks where a paired trial diverged, else None. `arm` and `base`: values, and which trials diverged. A
    trial has an outcome where it has a value or diverged; a metric that a side has in no trial, though some of its
    trials ended well, is not its outcome."""
    (own, own_diverged), (other, other_diverged) = arm, base
    ended = (~np.isnan(own) | own_diverged) & (~np.isnan(other) | other_diverged)
    for values, diverged in (arm, base):
        if np.isnan(values).all() and not (diverged | ~ended).all():
            return None
    if metric(name).better == "neither" or not ((own_diverged | other_diverged) & ended).any():
        return None
    lower = metric(name).lower_is_better
    return worst_ranks(np.where(ended, differences, np.nan), own_diverged & ended, other_diverged & ended, lower)


def _paired(differences: np.ndarray, name: str) -> dict[str, Any]:
    known = differences[~np.isnan(differences)]
    made = paired_contrast(known, np.zeros_like(known))
    low, high = _cut(name, made.difference.low, made.difference.high)
    return {
        "paired": made.seeds,
        "difference": made.difference.mean,
        "difference_low": low,
        "difference_high": high,
        "spread": made.spread,
    }


def _cut(name: str, low: float, high: float) -> tuple[float, float]:
    """An interval of a difference, cut where no difference of the metric can be."""
    least, most = metric(name).bounds
    return max(low, least - most) if low == low else low, min(high, most - least) if high == high else high


def verdict(
    adjusted: float, low: float, high: float, direction: float, seeds: int, margin: float | None, equal: bool = True
) -> str:
    """What the family's test says of a contrast over so many seeds; where it rejects nothing, whether the simultaneous
    interval lies within the margin. `equal`: whether equivalence may be said at all."""
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
    """Whether a difference that was found is smaller than the one that matters."""
    if margin is None or row["ranked"] or row["verdict"] not in (HIGHER, LOWER):
        return False
    return -margin < float(row["all_low"]) and float(row["all_high"]) < margin


def sure(row: dict[str, Any]) -> bool:
    """Whether the row is bold."""
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
    """The rows of one metric of `compare` as people read them, with the trials behind each number."""
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
    """Per arm, the values of its trials, each with a link to its trial."""
    ids = {(arm, seed): run for arm, seed, run in runs.trials.select("arm", "seed", "run_id").iter_rows()}
    found: dict[str, list[Cell]] = {}
    for arm, seed, value in values.sort("arm", "seed").iter_rows():
        found.setdefault(arm, []).append(Cell(number(value), f"#run-{ids[arm, seed]}", f"seed {seed}"))
    return [Sources(arm, found[arm]) for arm in runs.arms if arm in found]


def arm_names(runs: Runs) -> dict[str, str]:
    """Arm -> how a sentence calls it: its level where one factor alone is varied."""
    values = runs.record.arm_values
    if all(len(values.get(arm, {})) == 1 for arm in runs.arms):
        return {arm: level(next(iter(values[arm].values()))) for arm in runs.arms}
    return {arm: arm for arm in runs.arms}


def noun(runs: Runs) -> str:
    """What arms differ in, where it is one factor; else `arm`."""
    factors = {factor for arm in runs.arms for factor in runs.record.arm_values.get(arm, {})}
    return short(next(iter(factors))) if len(factors) == 1 else "arm"
