"""Everything that a report tells, worked out once: runs in, frames out."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from analysis.ablation import FOILS, contrasts, foil_table, suite_names, suite_table
from analysis.aggregates import aggregate_table, profile_table, score_arrays
from analysis.calibration import reliability_table
from analysis.convergence import (
    curve_area,
    fraction_reached,
    speed,
    speed_over_targets,
    target_value,
    time_profile,
    times_to,
)
from analysis.cost import cost_table
from analysis.factorial import Levels, by_seed, crossed, effects
from analysis.response import POINTS, points, varied
from analysis.robustness import derived, drop_table, scores, severity_curves
from analysis.runs import Runs
from analysis.tuning import importances
from workbench.config.schema import lower_is_better

TABLED = (
    "val/itm_auc",
    "val/foil_accuracy",
    "val/mlm_accuracy",
    "val/mlm_loss",
    "val/synonym_mass",
    "val/itm_ece",
    "val/mlm_ece",
    "val/paraphrase_match",
    "val/synthesized_accuracy",
    "val/blank_image_accuracy",
    "val/generator_perplexity",
    "test/itm_auc",
    "test/foil_accuracy",
    "curve_area",
    "robustness_mean_drop",
    "corruption_error",
    "effective_robustness",
    "retrieval/text_r1",
    "retrieval/text_r5",
    "retrieval/image_r1",
    "retrieval/image_r5",
)
VALUES = {"metric": pl.String, "arm": pl.String, "seed": pl.Int64, "run_id": pl.String, "value": pl.Float64}
RESPONSES: dict[str, Any] = {"metric": pl.String, **POINTS}
MOST_RESPONSES = 6


@dataclass(frozen=True)
class Findings:
    """`tables`: metric -> `contrasts`, the primary first; `values`: what these and the foils' are the means of, `trials`: the same of speed
    and cost. `suites`: name -> scores by kind; `levels` of factors that are crossed, and `cells` by seed; `responses`: metric -> points, to
    the one `varied` number."""

    runs: Runs
    primary: str
    target: tuple[str, float]
    tables: dict[str, pl.DataFrame]
    values: pl.DataFrame
    trials: pl.DataFrame
    foils: pl.DataFrame
    suites: dict[str, pl.DataFrame]
    speeds: pl.DataFrame
    over_targets: pl.DataFrame
    reached: pl.DataFrame
    time_profile: pl.DataFrame
    levels: Levels
    cells: dict[int, np.ndarray]
    effects: pl.DataFrame
    varied: tuple[str, dict[str, float]] | None
    responses: dict[str, pl.DataFrame]
    aggregates: pl.DataFrame
    profile: pl.DataFrame
    scored: pl.DataFrame
    severity: pl.DataFrame
    drops: pl.DataFrame
    reliability: pl.DataFrame
    cost: pl.DataFrame
    importances: pl.DataFrame

    @property
    def frames(self) -> dict[str, pl.DataFrame]:
        """What is written as CSV tables, by file name."""
        responses = [table.select(pl.lit(name).alias("metric"), *POINTS) for name, table in self.responses.items()]
        return {
            "contrasts": pl.concat(self.tables.values()) if self.tables else pl.DataFrame(),
            "values": self.values,
            "trials": self.trials,
            "foils": self.foils,
            "convergence": self.speeds,
            "speed_over_targets": self.over_targets,
            "fraction_reached": self.reached,
            "time_profile": self.time_profile,
            "response": pl.concat(responses) if responses else pl.DataFrame(schema=RESPONSES),
            "effects": self.effects,
            "aggregates": self.aggregates,
            "performance_profile": self.profile,
            **{f"suite_{name}": table for name, table in self.suites.items()},
            "robustness": self.drops,
            "robustness_by_severity": self.severity,
            "robustness_values": self.scored,
            "reliability": self.reliability,
            "cost": self.cost,
            "importances": self.importances,
        }


def analyse(runs: Runs) -> Findings:
    """All of it for the runs as they were read."""
    runs = with_derived(runs)
    primary = str(runs.experiment.get("primary", "val/itm_auc"))
    target = target_value(runs)
    names = [primary, *(name for name in TABLED if name != primary)]
    tables = {name: contrasts(runs, name) for name in names if not runs.final(name).is_empty()}
    over_targets = speed_over_targets(runs, target[0])
    levels = crossed(runs)
    arrays = score_arrays(runs)
    scored = scores(runs)
    found = varied(runs)
    answered = [name for name in tables if name.startswith("val/")][:MOST_RESPONSES] if found else []
    return Findings(
        runs=runs,
        primary=primary,
        target=target,
        tables=tables,
        values=_values(runs, [*tables, *runs.names(FOILS)]),
        trials=_trials(runs, primary, target),
        foils=foil_table(runs),
        suites={suite: suite_table(runs, suite) for suite in suite_names(runs)},
        speeds=speed(runs),
        over_targets=over_targets,
        reached=fraction_reached(runs),
        time_profile=time_profile(over_targets),
        levels=levels,
        cells=by_seed(runs, primary, levels) if levels else {},
        effects=effects(runs, primary),
        varied=found,
        responses={name: points(runs, name, found[1]) for name in answered} if found else {},
        aggregates=aggregate_table(arrays, runs.baseline),
        profile=profile_table(arrays),
        scored=scored,
        severity=severity_curves(scored),
        drops=drop_table(runs, scored),
        reliability=reliability_table(runs),
        cost=cost_table(runs, primary),
        importances=importances(runs),
    )


def with_derived(runs: Runs) -> Runs:
    """Adds the summaries of each trial's curve and robustness as metrics."""
    scored = scores(runs)
    metric, _ = target_value(runs)
    area = curve_area(runs.curves(metric)).select("arm", "seed", metric=pl.lit("curve_area"), value="value")
    summaries = [area] if scored.is_empty() else [area, derived(scored, runs.baseline)]
    rows = (
        pl.concat(summaries)
        .join(runs.trials, on=["arm", "seed"])
        .select("run_id", "metric", step=pl.lit(0, dtype=pl.Int64), value="value")
    )
    return replace(runs, metrics=pl.concat([runs.metrics, rows]))


def _values(runs: Runs, names: list[str]) -> pl.DataFrame:
    """The final value of each trial, which the tables are about, with the run that it comes from."""
    ids = runs.trials.select("arm", "seed", "run_id")
    frames = [
        runs.final(name)
        .join(ids, on=["arm", "seed"], maintain_order="left")
        .select(pl.lit(name).alias("metric"), *list(VALUES)[1:])
        for name in names
    ]
    return pl.concat(frames) if frames else pl.DataFrame(schema=VALUES)


def _trials(runs: Runs, primary: str, target: tuple[str, float]) -> pl.DataFrame:
    """A row a trial: its primary metric, its time to the target (null for a miss), its seconds of training, and whether it diverged."""
    times, _ = times_to(runs.curves(target[0]), target[1], lower_is_better(target[0]))
    found = runs.trials.select("arm", "seed", "run_id").with_columns(diverged=pl.col("run_id").is_in(runs.diverged))
    parts = (
        runs.final(primary).rename({"value": "primary"}),
        times.rename({"time": "to_target"}),
        runs.final("seconds").rename({"value": "seconds"}),
    )
    for part in parts:
        found = found.join(part, on=["arm", "seed"], how="left", maintain_order="left")
    return found
