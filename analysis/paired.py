"""Arms against the baseline, paired by seed: runs in, one frame out, and how such a frame is shown. Every topic that compares arms uses this.

The contrasts of one call are one family: of a page section without any effect, at most 5 % have a verdict other than `undecided`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl

from analysis.families import judge, worst_ranks
from analysis.runs import Runs
from analysis.section import Cell, Row, Sources, Table
from analysis.statistics import LEVEL, mean_interval, paired_contrast, smallest_p
from analysis.wording import DASH, number, probability, signed, spread
from workbench.metrics import metric, title

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
    "Bold: the adjusted p is at most .05. It is adjusted over all contrasts of this section (step-down max-T with joint sign flips over "
    "seeds), so that a section without any effect has a bold row in at most 5 % of sweeps."
)
RANKED = "Of an arm in which trials diverged, or whose baseline did, p ranks these worse than all others; its interval is about the others."
Values = Callable[[str], pl.DataFrame]  # metric -> arm, seed, value


def compare(
    runs: Runs, metrics: Sequence[str], margin: float | None = None, values: Values | None = None
) -> pl.DataFrame:
    """One row per metric and arm, the baseline's first, as `CONTRASTS`; all of them are one family.

    `mean` with its Student interval over the arm's own seeds; `difference` from the baseline over `paired` seeds with its Student interval
    (this arm alone) and with the simultaneous one, `all_low` and `all_high`; `p` of this arm alone and `p_adjusted`. Of arms with
    diverged trials, or with a baseline that has them, both p are of worst ranks (`ranked`). `values`: where they come from, instead of
    the trials' final values.
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
            both = np.array([(arm, seed) in ended and (runs.baseline, seed) in ended for seed in seeds])
            by_rank = metric(name).better != "neither" and bool(((diverged | base_diverged) & both).any())
            test = difference
            if by_rank:
                lower = metric(name).lower_is_better
                test = worst_ranks(np.where(both, difference, np.nan), diverged & both, base_diverged & both, lower)
            rows.append(_reached(runs, name, arm, own, ended) | _paired(difference))
            differences.append(difference)
            tests.append(test)
            ranked.append(by_rank)
    if differences:
        stacked = np.stack(tests, axis=1)
        family = judge(np.stack(differences, axis=1), stacked)
        against = [row for row in rows if "verdict" not in row]
        for place, row in enumerate(against):
            row |= {"p": family.p[place], "p_adjusted": family.adjusted[place], "ranked": ranked[place]}
            row |= {"all_low": family.low[place], "all_high": family.high[place]}
            direction = float(np.nansum(stacked[:, place]))
            ends = float(family.low[place]), float(family.high[place])
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


def _paired(differences: np.ndarray) -> dict[str, Any]:
    known = differences[~np.isnan(differences)]
    made = paired_contrast(known, np.zeros_like(known))
    return {
        "paired": made.seeds,
        "difference": made.difference.mean,
        "difference_low": made.difference.low,
        "difference_high": made.difference.high,
        "spread": made.spread,
    }


def verdict(
    adjusted: float, low: float, high: float, direction: float, seeds: int, margin: float | None, equal: bool = True
) -> str:
    """What the family's test says of a contrast over so many seeds; where it rejects nothing, whether the simultaneous interval lies within
    the margin. `equal`: whether equivalence may be said at all."""
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
    values: Values | None = None,
) -> Table:
    """The rows of one metric of `compare` as people read them, with the trials behind each number."""
    name = str(frame["metric"][0])
    values = values or runs.final
    rows = [Row(_cells(row), sure(row)) for row in frame.iter_rows(named=True)]
    return Table(caption or title(name), HEADS, rows, note, sources(runs, values(name)), folded)


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
