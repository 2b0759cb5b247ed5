"""Sweeps with known values, for tests."""

from collections.abc import Callable
from typing import Any

import polars as pl

from analysis.runs import METRICS, TRIALS, Runs


def toy_runs(arms: dict[str, dict[str, Any]], seeds: int, value: Callable[[dict[str, Any], int], float]) -> Runs:
    """A sweep whose arms have these factor levels, the baseline first; val/itm_auc ends at `value(levels, seed)`."""
    each = [(arm, levels, seed) for arm, levels in arms.items() for seed in range(seeds)]
    trials = [(f"{arm}{seed}", "n", "FINISHED", arm, seed) for arm, _, seed in each]
    rows = [(f"{arm}{seed}", "val/itm_auc", 9, value(levels, seed)) for arm, levels, seed in each]
    about = {"arms": list(arms), "baseline_arm": next(iter(arms)), "arm_values": arms}
    frames = pl.DataFrame(trials, schema=TRIALS, orient="row"), pl.DataFrame(rows, schema=METRICS, orient="row")
    return Runs("r", "r", about, *frames)
