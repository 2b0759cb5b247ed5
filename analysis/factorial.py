"""Which factor does what, where several are crossed: runs in, frames out.

Every effect is a contrast of cells within a seed, then a mean over seeds with its Student interval and exact sign-flip p: on a balanced grid these are the
estimates of a mixed model in which seeds, and how seeds differ in each effect, are random.
"""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from analysis.runs import Runs
from analysis.statistics import paired_contrast, with_holm

EFFECTS = {
    "effect": pl.String,
    "kind": pl.String,
    "seeds": pl.Int64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
}
Levels = dict[str, list[str]]  # factor -> its levels as text, the baseline's first


def crossed(runs: Runs) -> Levels:
    """The factors that are fully crossed with at least two levels each; empty unless there are at least two of them."""
    arms: dict[str, dict[str, Any]] = runs.experiment.get("arm_values", {})
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


def by_seed(runs: Runs, metric: str, levels: Levels) -> dict[int, np.ndarray]:
    """Seed -> values, an axis a factor; seeds that lack a cell are left out."""
    arms: dict[str, dict[str, Any]] = runs.experiment["arm_values"]
    place = {
        arm: tuple(levels[factor].index(str(values[factor])) for factor in levels)
        for arm, values in arms.items()
        if arm in runs.arms
    }
    found: dict[int, np.ndarray] = {}
    shape = [len(each) for each in levels.values()]
    for arm, seed, value in runs.final(metric).iter_rows():
        found.setdefault(seed, np.full(shape, np.nan))[place[arm]] = value
    return {seed: values for seed, values in sorted(found.items()) if not np.isnan(values).any()}


def effects(runs: Runs, metric: str) -> pl.DataFrame:
    """Main effects (a level less the baseline's, averaged over the other factors) and two-way interactions (how much the effect of one level
    changes with another's), each against zero; Holm's adjustment within each of the two kinds."""
    levels = crossed(runs)
    values = list(by_seed(runs, metric, levels).values()) if levels else []
    if not values:
        return pl.DataFrame(schema=EFFECTS)
    grid, names = np.stack(values), list(levels)
    rows: list[dict[str, Any]] = []
    for axis, factor in enumerate(names):
        for level in range(1, len(levels[factor])):
            per_seed = _mean(grid, {axis: level}) - _mean(grid, {axis: 0})
            rows.append(
                {"kind": "main", "effect": f"{short(factor)}={levels[factor][level]}"} | _against_zero(per_seed)
            )
    for (one, first), (two, second) in itertools.combinations(enumerate(names), 2):
        for a, b in itertools.product(range(1, len(levels[first])), range(1, len(levels[second]))):
            changed = _mean(grid, {one: a, two: b}) - _mean(grid, {one: 0, two: b})
            before = _mean(grid, {one: a, two: 0}) - _mean(grid, {one: 0, two: 0})
            label = f"{short(first)}={levels[first][a]} × {short(second)}={levels[second][b]}"
            rows.append({"kind": "interaction", "effect": label} | _against_zero(changed - before))
    frame = pl.DataFrame(rows, schema={name: kind for name, kind in EFFECTS.items() if name != "p_holm"})
    adjusted = [with_holm(part) for _, part in frame.group_by("kind", maintain_order=True)]
    return pl.concat(adjusted).select(list(EFFECTS)).with_columns(pl.col("low", "high").fill_nan(None))


def short(factor: str) -> str:
    return factor.rsplit(".", 1)[-1]


def _mean(grid: np.ndarray, at: Mapping[int, int]) -> np.ndarray:
    """[seeds, ...] -> [seeds]: the mean over all factors but those that are held `at` a level."""
    index: tuple[Any, ...] = (slice(None), *(at.get(axis, slice(None)) for axis in range(grid.ndim - 1)))
    return grid[index].reshape(len(grid), -1).mean(axis=1)


def _against_zero(per_seed: np.ndarray) -> dict[str, Any]:
    contrast = paired_contrast(per_seed, np.zeros_like(per_seed), resampled=False)
    return {
        "seeds": contrast.seeds,
        "difference": contrast.difference.mean,
        "low": contrast.difference.low,
        "high": contrast.difference.high,
        "p": contrast.p,
    }
