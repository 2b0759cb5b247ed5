"""The only reader of the tracking store: MLflow -> Polars frames."""

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import polars as pl

from workbench.errors import UserError

# One row a trial.
TRIALS = {"run_id": pl.String, "name": pl.String, "status": pl.String, "arm": pl.String, "seed": pl.Int64}
# One row a (trial, metric, step): the last value that was logged.
METRICS = {"run_id": pl.String, "metric": pl.String, "step": pl.Int64, "value": pl.Float64}


@dataclass(frozen=True)
class Runs:
    """A sweep (or one trial) as frames; `experiment` is the resolved experiment as it was logged."""

    run_id: str
    name: str
    experiment: dict[str, Any]
    trials: pl.DataFrame
    metrics: pl.DataFrame

    @property
    def arms(self) -> list[str]:
        """The arms that have a finished trial, in the grid's order, the baseline first."""
        present = set(self.trials["arm"])
        planned = [arm for arm in self.experiment.get("arms", []) if arm in present]
        return planned + sorted(present - set(planned))

    @property
    def baseline(self) -> str:
        return str(self.experiment.get("baseline_arm", self.arms[0] if self.arms else ""))

    def final(self, metric: str) -> pl.DataFrame:
        """`arm`, `seed`, `value`: the metric at each trial's last step."""
        return self.curves(metric).sort("step").group_by("arm", "seed", maintain_order=True).agg(pl.col("value").last())

    def curves(self, metric: str) -> pl.DataFrame:
        """`arm`, `seed`, `step`, `value` of one metric."""
        return (
            self.metrics.filter(pl.col("metric") == metric)
            .join(self.trials, on="run_id")
            .select("arm", "seed", "step", "value")
            .sort("arm", "seed", "step")
        )

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.metrics["metric"].unique() if name.startswith(prefix))


def read_runs(uri: str, run_id: str) -> Runs:
    """The finished trials of a sweep, or a single finished trial.

    Raises UserError where there is no such store or run, or nothing in it is finished.
    """
    if not uri.startswith("sqlite:///"):
        raise UserError(f"{uri}: reports read a workspace's sqlite store; a tracking server is not read yet.")
    database = Path(uri.removeprefix("sqlite:///"))
    if not database.exists():
        raise UserError(f"{database}: there are no runs yet; start with `wb sweep FILE` or name another --workspace.")
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        found = connection.execute(
            "SELECT run_uuid, name, artifact_uri FROM runs WHERE run_uuid = ?", [run_id]
        ).fetchone()
        if found is None:
            raise UserError(f"--run-id {run_id}: no such run in {database}; `wb runs` lists them.")
        children = [
            row[0]
            for row in connection.execute(
                "SELECT run_uuid FROM tags WHERE key = 'mlflow.parentRunId' AND value = ?", [run_id]
            )
        ]
        members = children or [run_id]
        marks = ",".join("?" * len(members))
        trials = pl.DataFrame(
            connection.execute(
                f"""SELECT r.run_uuid, r.name, r.status, c.value, CAST(s.value AS INTEGER) FROM runs r
                JOIN tags c ON c.run_uuid = r.run_uuid AND c.key = 'cell'
                JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'seed'
                WHERE r.run_uuid IN ({marks}) AND r.status = 'FINISHED' ORDER BY r.start_time""",
                members,
            ).fetchall(),
            schema=TRIALS,
            orient="row",
        )
        metrics = pl.DataFrame(
            connection.execute(
                f"SELECT run_uuid, key, step, value FROM metrics WHERE run_uuid IN ({marks}) AND is_nan = 0 "
                "ORDER BY timestamp",
                members,
            ).fetchall(),
            schema=METRICS,
            orient="row",
        ).unique(["run_id", "metric", "step"], keep="last", maintain_order=True)
    if trials.is_empty():
        raise UserError(f"--run-id {run_id}: none of its trials is finished yet; there is nothing to report.")
    return Runs(run_id, found[1] or run_id, _experiment(found[2], run_id), trials, metrics)


def list_runs(uri: str) -> pl.DataFrame:
    """`run_id`, `name`, `status`, `finished`, `trials`, `started` (ms) of every sweep and single training, the newest first."""
    schema = {
        "run_id": pl.String,
        "name": pl.String,
        "status": pl.String,
        "finished": pl.Int64,
        "trials": pl.Int64,
        "started": pl.Int64,
    }
    database = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or not database.exists():
        return pl.DataFrame(schema=schema)
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute(
            """SELECT p.run_uuid, p.name, p.status,
            CASE k.value WHEN 'train' THEN p.status = 'FINISHED' ELSE COALESCE(SUM(c.status = 'FINISHED'), 0) END,
            CASE k.value WHEN 'train' THEN 1 ELSE COUNT(c.run_uuid) END, p.start_time FROM runs p
            JOIN tags k ON k.run_uuid = p.run_uuid AND k.key = 'kind' AND k.value IN ('sweep', 'train')
            LEFT JOIN tags t ON t.key = 'mlflow.parentRunId' AND t.value = p.run_uuid
            LEFT JOIN runs c ON c.run_uuid = t.run_uuid GROUP BY p.run_uuid ORDER BY p.start_time DESC"""
        ).fetchall()
    return pl.DataFrame(rows, schema=schema, orient="row")


def _experiment(artifact_uri: str, run_id: str) -> dict[str, Any]:
    path = Path(unquote(urlparse(artifact_uri).path)) / "experiment.json"
    if not path.exists():
        return {"question": f"What did run {run_id} reach?"}
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded
