"""An MLflow tracking server as a store, through MLflow's client."""

import math
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from analysis.stores.store import PARENT, Members, Run, Value, record_in
from workbench.errors import UserError, first_line, shown
from workbench.record import EXPERIMENT, FILE, SweepRecord
from workbench.workspace import deleted_experiment, deleted_run

AT_ONCE = 8  # parallel requests
MOST = 50_000  # maximum number of listed runs

Answer = TypeVar("Answer")


class ServerStore:
    """A tracking server. Requests for many runs are sent in parallel."""

    def __init__(self, uri: str) -> None:
        self.uri, self.client = uri, MlflowClient(uri)

    def members(self, run_id: str) -> Members:
        try:
            parent = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"--run-id {run_id}: no such run on {shown(self.uri)} ({first_line(error)}).") from error
        home = self.client.get_experiment(parent.info.experiment_id)
        if home.lifecycle_stage == "deleted":
            raise UserError(deleted_experiment(self.uri, home.name, str(home.experiment_id)))
        if parent.info.lifecycle_stage == "deleted":
            raise UserError(deleted_run(self.uri, run_id))
        children = self.client.search_runs(
            [parent.info.experiment_id],
            f"tags.`{PARENT}` = '{run_id}'",
            max_results=MOST,
            order_by=["attributes.start_time"],
        )
        runs = [_run(run) for run in list(children) or [parent]]
        record = record_in(artifact(self.client, run_id, FILE))
        return Members(parent.info.run_name or run_id, str(parent.info.experiment_id), record, bool(children), runs)

    def values(self, run_ids: Sequence[str]) -> list[Value]:
        return [value for values in _at_once(self._values_of, run_ids) for value in values]

    def params(self, run_ids: Sequence[str]) -> dict[str, dict[str, str]]:
        return {run.info.run_id: dict(run.data.params) for run in _at_once(self.client.get_run, run_ids)}

    def last(self, metric: str, run_ids: Sequence[str]) -> dict[str, float]:
        runs = _at_once(self.client.get_run, run_ids)
        return {run.info.run_id: run.data.metrics[metric] for run in runs if metric in run.data.metrics}

    def all_runs(self) -> list[tuple[Run, SweepRecord | None]]:
        ours = self.client.get_experiment_by_name(EXPERIMENT)
        if ours is not None and ours.lifecycle_stage == "deleted":
            raise UserError(deleted_experiment(self.uri, EXPERIMENT, str(ours.experiment_id)))
        ids = [experiment.experiment_id for experiment in self.client.search_experiments()]
        runs = [_run(run) for run in self.client.search_runs(ids, max_results=MOST)]
        written = self.artifacts([run.run_id for run in runs if run.tags.get("kind") == "sweep"], FILE)
        return [(run, record_in(written.get(run.run_id))) for run in runs]

    def artifacts(self, run_ids: Sequence[str], name: str) -> dict[str, bytes]:
        read = _at_once(lambda run_id: (run_id, artifact(self.client, run_id, name)), run_ids)
        return {run_id: content for run_id, content in read if content is not None}

    def _values_of(self, run_id: str) -> list[Value]:
        names = [name for name in self.client.get_run(run_id).data.metrics if not name.startswith("system/")]
        logged = [point for name in names for point in self.client.get_metric_history(run_id, name)]
        ordered = sorted(logged, key=lambda point: point.timestamp)
        return [(run_id, point.key, point.step, point.value) for point in ordered if not math.isnan(point.value)]


def artifact(client: Any, run_id: str, name: str) -> bytes | None:
    """Returns the content of a run's artifact; None where it has none.

    Raises ConnectionError where the server lists the artifact but does not return it.
    """
    if all(entry.path != name for entry in client.list_artifacts(run_id)):
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            return Path(client.download_artifacts(run_id, name, folder)).read_bytes()
        except MlflowException as error:  # MLflow reports any failure as missing; but it was listed just now
            raise ConnectionError(f"run {run_id}: its {name} cannot be read ({first_line(error)})") from error


def _run(run: Any) -> Run:
    """Converts a run of MLflow's client into ours."""
    info = run.info
    name = info.run_name or info.run_id
    return Run(info.run_id, name, info.status, info.start_time, info.end_time, dict(run.data.tags))


def _at_once(ask: Callable[[str], Answer], run_ids: Sequence[str]) -> list[Answer]:
    """Returns the answers for all runs, in their order."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(ask, run_ids))
