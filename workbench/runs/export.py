"""Exports finished trials as Parquet, for other tools."""

import json
from dataclasses import dataclass
from pathlib import Path

from analysis.runs import read_runs
from workbench.errors import UserError


@dataclass(frozen=True)
class Exported:
    """The number of rows in the two files."""

    trials: int
    metrics: int


def export_run(uri: str, run_id: str, out: Path) -> Exported:
    """Writes a sweep's finished trials, or a single one, to the folder `out`: trials.parquet, metrics.parquet, and
    experiment.json.

    `uri`: the MLflow store. Raises UserError where there is no such run, or the folder cannot be written.
    """
    runs = read_runs(uri, run_id)
    record = json.dumps(runs.record.model_dump(mode="json"), indent=2)
    try:
        out.mkdir(parents=True, exist_ok=True)
        runs.trials.write_parquet(out / "trials.parquet")
        runs.metrics.write_parquet(out / "metrics.parquet")
        (out / "experiment.json").write_text(record, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error}).") from error
    return Exported(len(runs.trials), len(runs.metrics))
