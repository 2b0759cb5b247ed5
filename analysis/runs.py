"""The only reader of the tracking store: MLflow -> Polars frames."""

import json
import math
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import polars as pl
from sqlalchemy import Boolean, Connection, bindparam, create_engine, text
from sqlalchemy.exc import OperationalError

from workbench.config.schema import lower_is_better
from workbench.errors import UserError, first_line, shown

# One row a trial.
TRIALS = {"run_id": pl.String, "name": pl.String, "status": pl.String, "arm": pl.String, "seed": pl.Int64}
# One row a (trial, metric, step): the last value that was logged.
METRICS = {"run_id": pl.String, "metric": pl.String, "step": pl.Int64, "value": pl.Float64}
# One row a trial of a search that went to its end; `settings` as JSON, their levels as text.
SEARCHED = {"run_id": pl.String, "arm": pl.String, "settings": pl.String, "score": pl.Float64}

# One row a sweep or single training; `started` in ms of the epoch.
LISTED = {
    "run_id": pl.String,
    "name": pl.String,
    "status": pl.String,
    "finished": pl.Int64,
    "running": pl.Int64,
    "failed": pl.Int64,
    "trials": pl.Int64,
    "started": pl.Int64,
    "seconds_left": pl.Float64,
    "best": pl.Float64,
    "best_arm": pl.String,
}
LOCAL_UI = "http://127.0.0.1:5000"  # where `wb ui` shows a local store
SEARCH_LABEL = " · search "  # between the arm and the number of a trial of its search
PARENT = "mlflow.parentRunId"
RUN_QUERY = "SELECT r.run_uuid, r.name, r.status, r.start_time, r.end_time, t.key, t.value FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid"


UNITS = {"steps": "optimiser steps", "pairs": "pairs seen", "seconds": "device-seconds of training"}  # of time


@dataclass(frozen=True)
class Runs:
    """A sweep (or one trial) as frames; `experiment` is the resolved experiment as it was logged. `diverged`: the runs that ended because
    their loss was no longer a number. `over`: the unit of time in which curves are read, one of `UNITS`."""

    run_id: str
    name: str
    experiment: dict[str, Any]
    trials: pl.DataFrame
    metrics: pl.DataFrame
    diverged: list[str] = field(default_factory=list)
    over: str = "steps"
    searched: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SEARCHED))
    home: str = ""  # where MLflow's UI shows a run, but for the run's id

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
        """`arm`, `seed`, `value`: the metric at each trial's last step; trials that diverged have none."""
        whole = self.trials.filter(~pl.col("run_id").is_in(self.diverged))
        found = self.metrics.filter(pl.col("metric") == metric).join(whole, on="run_id")
        ordered = found.sort("arm", "seed", "step")
        return ordered.group_by("arm", "seed", maintain_order=True).agg(pl.col("value").last())

    def curves(self, metric: str) -> pl.DataFrame:
        """`arm`, `seed`, `step`, `time`, `value` of one metric; evaluations whose time was not logged are left out."""
        found = self.metrics.filter(pl.col("metric") == metric).join(self.trials, on="run_id")
        if self.over == "steps":
            found = found.with_columns(time=pl.col("step").cast(pl.Float64))
        else:
            found = found.join(self._times(), on=["run_id", "step"])
        return found.select("arm", "seed", "step", "time", "value").sort("arm", "seed", "step")

    def _times(self) -> pl.DataFrame:
        """`run_id`, `step`, `time` in pairs or device-seconds."""
        logged = {"pairs": "samples_seen", "seconds": "seconds"}[self.over]
        times = self.metrics.filter(pl.col("metric") == logged).select("run_id", "step", time="value")
        if self.over == "pairs":
            return times
        whole = self.metrics.filter(pl.col("metric") == "perf/device_seconds").select("run_id", whole="value")
        devices = pl.col("whole").fill_null(pl.col("time").max().over("run_id")) / pl.col("time").max().over("run_id")
        return times.join(whole, on="run_id", how="left").select("run_id", "step", time=pl.col("time") * devices)

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.metrics["metric"].unique() if name.startswith(prefix))


def read_runs(uri: str, run_id: str) -> Runs:
    """The finished trials of a sweep, or a single finished trial.

    Raises UserError where there is no such store or run, or nothing in it is finished.
    """
    found = _members(uri, run_id)
    experiment = found.experiment or {"question": f"What did run {run_id} reach?"}
    compared: dict[str, str] | None = experiment.get("cells") if found.children else None
    rows = [
        (
            row.run_id,
            row.name,
            row.status,
            (compared or {}).get(row.tags.get("config_hash", ""), row.tags["cell"]),
            int(row.tags["seed"]),
        )
        for row in found.runs
        if row.status == "FINISHED"
        and "cell" in row.tags
        and row.tags.get("kind") != "search"
        and (compared is None or row.tags.get("config_hash") in compared)
    ]
    diverged = [row.run_id for row in found.runs if "diverged_at" in row.tags]
    tried = {
        row.run_id: row.tags.get("cell", "").partition(SEARCH_LABEL)[0]
        for row in found.runs
        if row.tags.get("kind") == "search" and row.status == "FINISHED" and "outcome" not in row.tags
    }
    trials = pl.DataFrame(rows, schema=TRIALS, orient="row")
    if trials.is_empty():
        raise UserError(f"--run-id {run_id}: none of its trials is finished yet; there is nothing to report.")
    metrics = pl.DataFrame(_values(uri, trials["run_id"].to_list()), schema=METRICS, orient="row")
    metrics = metrics.unique(["run_id", "metric", "step"], keep="last", maintain_order=True)
    searched = _searched(uri, tried, str(experiment.get("primary", ""))) if tried else pl.DataFrame(schema=SEARCHED)
    host = uri.rstrip("/") if uri.startswith("http") else LOCAL_UI
    home = f"{re.sub('//[^/@]*@', '//', host)}/#/experiments/{found.experiment_id}/runs/"
    return Runs(run_id, found.name, experiment, trials, metrics, diverged, searched=searched, home=home)


def _searched(uri: str, arms: dict[str, str], metric: str) -> pl.DataFrame:
    """The trials of searches, given as run id -> arm, with their settings and their last value of the metric."""
    scores = dict(_last(uri, metric, list(arms)))
    settings = _settings(uri, list(arms))
    rows = [(run, arm, json.dumps(settings.get(run, {})), scores[run]) for run, arm in arms.items() if run in scores]
    return pl.DataFrame(rows, schema=SEARCHED, orient="row")


def _settings(uri: str, members: list[str]) -> dict[str, dict[str, str]]:
    """Run id -> its parameters."""
    if uri.startswith("http"):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri)
        return {run_id: dict(client.get_run(run_id).data.params) for run_id in members}
    query = text("SELECT run_uuid, key, value FROM params WHERE run_uuid IN :ids")
    found: dict[str, dict[str, str]] = {}
    with _connected(uri) as connection:
        for run_id, key, value in connection.execute(
            query.bindparams(bindparam("ids", expanding=True)), {"ids": members}
        ):
            found.setdefault(run_id, {})[key] = value
    return found


@dataclass(frozen=True)
class _Run:
    run_id: str
    name: str
    status: str
    started: int
    ended: int | None
    tags: dict[str, str]


@dataclass(frozen=True)
class _Found:
    name: str
    experiment_id: str
    experiment: dict[str, Any]
    children: bool
    runs: list[_Run]  # the children by their start, or the run itself


def _members(uri: str, run_id: str) -> _Found:
    """A run's trials with their tags, in one query of a database, or through a tracking server."""
    if uri.startswith("http"):
        return _members_of_server(uri, run_id)
    with _connected(uri) as connection:
        found = connection.execute(
            text("SELECT name, artifact_uri, experiment_id FROM runs WHERE run_uuid = :id"), {"id": run_id}
        ).fetchone()
        if found is None:
            raise UserError(f"--run-id {run_id}: no such run in {shown(uri)}; `wb runs` lists them.")
        rows = connection.execute(
            text(
                f"{RUN_QUERY} WHERE r.run_uuid IN (SELECT run_uuid FROM tags WHERE key = :key AND value = :id) ORDER BY r.start_time"
            ),
            {"key": PARENT, "id": run_id},
        ).fetchall()
        children = bool(rows)
        if not rows:
            rows = connection.execute(text(f"{RUN_QUERY} WHERE r.run_uuid = :id"), {"id": run_id}).fetchall()
    return _Found(found[0] or run_id, str(found[2]), _experiment(found[1]), children, _collected(rows))


def _collected(rows: Iterable[Any]) -> list[_Run]:
    """Rows of `RUN_QUERY`, one a tag -> runs."""
    runs: dict[str, _Run] = {}
    for run_id, name, status, started, ended, key, value in rows:
        runs.setdefault(run_id, _Run(run_id, name or run_id, status, started, ended, {})).tags[key] = value
    return list(runs.values())


def _members_of_server(uri: str, run_id: str) -> _Found:
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)
    try:
        parent = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(f"--run-id {run_id}: no such run on {shown(uri)} ({first_line(error)}).") from error
    found = client.search_runs(
        [parent.info.experiment_id],
        f"tags.`{PARENT}` = '{run_id}'",
        max_results=50_000,
        order_by=["attributes.start_time"],
    )
    runs = [_of_client(run) for run in list(found) or [parent]]
    name, home = parent.info.run_name or run_id, parent.info.experiment_id
    return _Found(name, home, _experiment_of_server(client, run_id), bool(found), runs)


def _of_client(run: Any) -> _Run:
    info = run.info
    return _Run(info.run_id, info.run_name or "", info.status, info.start_time, info.end_time, dict(run.data.tags))


def _experiment_of_server(client: Any, run_id: str) -> dict[str, Any]:
    """The run's experiment; empty where it has none. Raises ConnectionError where there is one that the server does not give."""
    from mlflow.exceptions import MlflowException

    if all(each.path != "experiment.json" for each in client.list_artifacts(run_id)):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run_id, "experiment.json", folder)
        except MlflowException as error:  # MLflow calls it missing, whatever has happened; but it was listed just now
            raise ConnectionError(f"run {run_id}: its experiment.json cannot be read ({first_line(error)})") from error
        loaded: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return loaded


def _values(uri: str, members: list[str]) -> list[tuple[str, str, int, float]]:
    """(run, metric, step, value) of all runs, in the order in which they were logged."""
    if uri.startswith("http"):
        return _values_of_server(uri, members)
    query = text(
        "SELECT run_uuid, key, step, value FROM metrics WHERE run_uuid IN :ids AND is_nan = :nan AND key NOT LIKE 'system/%' "
        "ORDER BY timestamp"
    ).bindparams(bindparam("ids", expanding=True), bindparam("nan", False, Boolean))
    with _connected(uri) as connection:
        cursor = connection.execute(query, {"ids": members}).cursor
        return (
            list(cursor.fetchall()) if cursor is not None else []
        )  # plain tuples; SQLAlchemy's rows cost as much again


def _values_of_server(uri: str, members: list[str]) -> list[tuple[str, str, int, float]]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri)

    def of(run_id: str) -> list[tuple[str, str, int, float]]:
        names = [name for name in client.get_run(run_id).data.metrics if not name.startswith("system/")]
        logged = [each for name in names for each in client.get_metric_history(run_id, name)]
        return [
            (run_id, m.key, m.step, m.value)
            for m in sorted(logged, key=lambda m: m.timestamp)
            if not math.isnan(m.value)
        ]

    with ThreadPoolExecutor(8) as pool:
        return [row for rows in pool.map(of, members) for row in rows]


def list_runs(uri: str) -> pl.DataFrame:
    """Every sweep and single training, the newest first, as `LISTED`: trials by state; `seconds_left` from the pace of those that have ended;
    `best` mean of the primary metric and its arm."""
    groups: dict[str, list[_Run]] = {}
    tops: list[_Run] = []
    experiments: dict[str, dict[str, Any]] = {}
    for run, folder in _all_runs(uri):
        if run.tags.get("kind") in ("sweep", "train"):
            tops.append(run)
            experiments[run.run_id] = folder
        elif PARENT in run.tags:
            groups.setdefault(run.tags[PARENT], []).append(run)
    rows = []
    for run in sorted(tops, key=lambda each: -each.started):
        children = groups.get(run.run_id, [run] if run.tags["kind"] == "train" else [])
        rows.append(_listed(uri, run, children, experiments[run.run_id]))
    return pl.DataFrame(rows, schema=LISTED, orient="row")


def _listed(uri: str, run: _Run, children: list[_Run], experiment: dict[str, Any]) -> tuple[Any, ...]:
    arms = experiment.get("cells", {})
    if arms:  # neither the trials of a search nor cells that the YAML no longer names
        children = [child for child in children if child.tags.get("config_hash") in arms]
    states = [child.status for child in children]
    ended = [child for child in children if child.status == "FINISHED"]
    planned = int(experiment.get("planned", len(children)))
    left = None
    if run.status == "RUNNING" and ended:
        span = max(child.ended or child.started for child in ended) - min(child.started for child in ended)
        left = span / 1000 / len(ended) * max(0, planned - len(ended))
    best, arm = None, None
    if primary := experiment.get("primary"):
        values: dict[str, list[float]] = {}
        arm_of = {c.run_id: arms.get(c.tags.get("config_hash", ""), c.tags.get("cell", "")) for c in ended}
        for run_id, value in _last(uri, str(primary), list(arm_of)):
            values.setdefault(arm_of[run_id], []).append(value)
        if values:
            better = min if lower_is_better(str(primary)) else max
            arm, found = better(values.items(), key=lambda each: sum(each[1]) / len(each[1]))
            best = sum(found) / len(found)
    counts = (len(ended), states.count("RUNNING"), states.count("FAILED"), planned)
    return (run.run_id, run.name, run.status, *counts, run.started, left, best, arm)


def _all_runs(uri: str) -> list[tuple[_Run, dict[str, Any]]]:
    """All runs, those of sweeps with their experiment."""
    if uri.startswith("http"):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri)
        ids = [each.experiment_id for each in client.search_experiments()]
        found = client.search_runs(ids, max_results=50_000)
        runs = [_of_client(run) for run in found]
        return [(r, _experiment_of_server(client, r.run_id) if r.tags.get("kind") == "sweep" else {}) for r in runs]
    try:
        with _connected(uri) as connection:
            rows = connection.execute(text(f"{RUN_QUERY} WHERE r.lifecycle_stage = 'active'")).fetchall()
            homes = {row[0]: row[1] for row in connection.execute(text("SELECT run_uuid, artifact_uri FROM runs"))}
    except UserError:
        return []
    return [(r, _experiment(homes[r.run_id]) if r.tags.get("kind") == "sweep" else {}) for r in _collected(rows)]


def _last(uri: str, metric: str, members: list[str]) -> list[tuple[str, float]]:
    if uri.startswith("http"):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri)
        known = [(run_id, client.get_run(run_id).data.metrics.get(metric)) for run_id in members]
        return [(run_id, value) for run_id, value in known if value is not None]
    query = text("SELECT run_uuid, value FROM latest_metrics WHERE key = :key AND run_uuid IN :ids")
    with _connected(uri) as connection:
        chosen = query.bindparams(bindparam("ids", expanding=True))
        return [tuple(row) for row in connection.execute(chosen, {"key": metric, "ids": members})]


@contextmanager
def _connected(uri: str) -> Iterator[Connection]:
    """A connection to an MLflow database for reading. Raises UserError where there is none."""
    if uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///"))
        if not database.exists():
            raise UserError(
                f"{database}: there are no runs yet; start with `wb sweep FILE` or name another --workspace."
            )
        engine = create_engine(f"sqlite:///file:{database}?mode=ro&uri=true")
    else:
        engine = create_engine(uri)
    try:
        with engine.connect() as connection:
            yield connection
    except OperationalError as error:
        raise UserError(f"{shown(uri)}: the store cannot be read ({first_line(error)[:200]}).") from error
    finally:
        engine.dispose()


def _experiment(artifact_uri: str) -> dict[str, Any]:
    path = Path(unquote(urlparse(artifact_uri).path)) / "experiment.json"
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return loaded
