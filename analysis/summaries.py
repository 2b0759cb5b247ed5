"""Adds summaries of each trial's curve and robustness as metrics, so that every table can show them."""

from dataclasses import replace

import polars as pl

from analysis.convergence import curve_area, target_value
from analysis.robustness import derived, scores
from analysis.runs import Runs


def with_summaries(runs: Runs) -> Runs:
    """Returns the runs with `curve_area` and the summaries of robustness added to their metrics."""
    scored = scores(runs)
    name, _ = target_value(runs)
    diverged = runs.trials.filter(pl.col("outcome") == "diverged").select("arm", "seed")
    area = curve_area(runs.curves(name).join(diverged, on=["arm", "seed"], how="anti"))
    frames = [area.select("arm", "seed", metric=pl.lit("curve_area"), value="value")]
    if not scored.is_empty():
        frames.append(derived(scored, runs.baseline))
    rows = (
        pl.concat(frames)
        .join(runs.trials, on=["arm", "seed"])
        .select("run_id", "metric", step=pl.lit(0, dtype=pl.Int64), value="value")
    )
    return replace(runs, metrics=pl.concat([runs.metrics, rows]))
