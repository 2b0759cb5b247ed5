"""Runs in MLflow: a sweep is a parent run, each of its trials a child. Metrics are written in batches."""

import getpass
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_PARENT_RUN_ID,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_USER,
)

from workbench.errors import UserError, first_line
from workbench.files import write_whole
from workbench.record import EXPERIMENT, TrialTags, read_tags
from workbench.tracking.store import portable, resolved
from workbench.workspace import Say, Workspace, database_file, deleted_experiment, deleted_run, to_stderr

ATTEMPTS = 5
MOST = 50_000  # runs that MLflow returns at once


class Tracker:
    """A thin wrapper around the MLflow client for one store."""

    def __init__(self, uri: str, workspace: Path, say: Say = to_stderr) -> None:
        self.say = say
        self.uri, self.home = resolved(uri, workspace), Workspace(workspace)
        self.client = MlflowClient(self.uri)
        self.address = portable(self.uri, workspace)  # stored in the study, so that the workspace can move
        self.local = database_file(self.uri) is not None
        self.own = self.home.owns(self.uri)

    def experiment_id(self, name: str = EXPERIMENT) -> str:
        """Returns the id of an experiment, which is created where it does not exist. Raises UserError where it was
        deleted."""
        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            try:
                where = self.home.artifacts_uri if self.local else None
                return str(self.client.create_experiment(name, artifact_location=where))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was first
                    raise
                experiment = self.client.get_experiment_by_name(name)
        if experiment.lifecycle_stage == "deleted":
            raise UserError(deleted_experiment(self.uri, name, str(experiment.experiment_id)))
        return str(experiment.experiment_id)

    def logged(self, run_id: str) -> set[tuple[str, int]]:
        """Returns (metric, step) of every value that a run holds."""
        names = self.client.get_run(run_id).data.metrics
        return {(name, point.step) for name in names for point in self.client.get_metric_history(run_id, name)}

    def curve(self, run_id: str, metric: str) -> dict[int, float]:
        """Returns step -> value for one metric of a run."""
        return {point.step: point.value for point in self.client.get_metric_history(run_id, metric)}

    def find(self, tags: Mapping[str, str]) -> Run | None:
        """Returns the newest run with all these tags, or None."""
        return next(iter(self._search(tags, 1)), None)

    def adopt(self, run_id: str, tags: Mapping[str, str], sweep: str) -> None:
        """Tags an old run with its sweep's name. It is from before sweeps had names and is identified by its id and
        these tags."""
        run = self._run(run_id)
        if run is not None and "sweep" not in run.data.tags and tags.items() <= run.data.tags.items():
            self._restore(run)
            self.tag(run_id, {"sweep": sweep})

    def knows(self, run_id: str) -> bool:
        """Returns whether the store has this run and it is not deleted."""
        run = self._run(run_id)
        return run is not None and run.info.lifecycle_stage == "active"

    def gather(self, sweep: str, parents: Sequence[str]) -> set[str]:
        """Makes all trials of a sweep in the store children of the first of `parents`, its present and former runs.

        Deleted trials are restored in MLflow: the study counts them, and they would have the same results again.
        Returns the run ids of the trials.
        """
        queries = [{"sweep": sweep}, *({MLFLOW_PARENT_RUN_ID: parent} for parent in parents)]
        runs = {run.info.run_id: run for tags in queries for run in self._search(tags, MOST, ViewType.ALL)}
        trials = {run_id: run for run_id, run in runs.items() if run.data.tags.get("kind") != "sweep"}
        deleted = [run_id for run_id, run in trials.items() if run.info.lifecycle_stage == "deleted"]
        for run_id in deleted:
            self.client.restore_run(run_id)
        if deleted:
            self.say(f"{len(deleted)} of its trials had been deleted in MLflow, though the study counts them; restored")
        for run_id, run in trials.items():
            if run.data.tags.get(MLFLOW_PARENT_RUN_ID) != parents[0]:
                self.tag(run_id, {MLFLOW_PARENT_RUN_ID: parents[0]})
        return set(trials)

    def _run(self, run_id: str) -> Run | None:
        """Returns the run with this id, deleted or not; None where the store has none."""
        try:
            return self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None

    def made(self, sweep: str, parent: str | None) -> dict[str, TrialTags]:
        """Returns run id -> tags for all trials that a sweep has in the store, or that are children of `parent`."""
        queries = [{"sweep": sweep}, *([{MLFLOW_PARENT_RUN_ID: parent}] if parent else [])]
        runs = [run for tags in queries for run in self._search(tags, MOST, ViewType.ALL)]
        return {str(run.info.run_id): tags for run in runs if (tags := read_tags(run.data.tags))}

    def retire(self, run: Run) -> None:
        """Deletes a run and removes it from its sweep, so that it is never restored as the run of its cell."""
        tags = self.client.get_run(run.info.run_id).data.tags
        # The tag by which it is found is deleted last: after an outage in between, it is found again.
        for tag in ("sweep", MLFLOW_PARENT_RUN_ID, "config_hash"):
            if tag in tags:
                self.client.delete_tag(run.info.run_id, tag)
        self.client.delete_run(run.info.run_id)
        (self.home.spool / f"{run.info.run_id}.jsonl").unlink(missing_ok=True)

    def _search(self, tags: Mapping[str, str], most: int, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
        """Returns the runs with all these tags, newest first."""
        wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs([self.experiment_id()], wanted, view, max_results=most))

    def _restore(self, run: Run) -> None:
        if run.info.lifecycle_stage == "deleted":
            self.client.restore_run(run.info.run_id)
            self.say(f"run {run.info.run_id} was deleted in MLflow, though its study counts it; restored")

    def known(self, identity: Mapping[str, str], old: Mapping[str, str] | None) -> Run | None:
        """Returns the run with the tags `identity`, deleted or not; else the newest run with the tags `old` and without
        a sweep's name, which it gets now; else None."""
        if run := self.find(identity):
            return run
        if run := next(iter(self._search(identity, 1, ViewType.DELETED_ONLY)), None):
            self._restore(run)
            return run
        if old is None or "sweep" not in identity:
            return None
        unnamed = (candidate for candidate in self._search(old, 100) if "sweep" not in candidate.data.tags)
        if run := next(unnamed, None):
            self.tag(run.info.run_id, {"sweep": identity["sweep"]})
        return run

    def start(
        self,
        name: str,
        identity: Mapping[str, str],
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        parent: str | None = None,
        old: Mapping[str, str] | None = None,
    ) -> tuple[str, bool]:
        """Sets the run with the tags `identity` to running, or creates it. Returns its id and whether it existed.

        `old`: the tags that identify a run from before sweeps had names. Safe to repeat after an outage at any of its
        steps. Params are written once.
        """
        name = _short(name, 250)  # the limit of MLflow's table of runs on PostgreSQL
        run = self.known(identity, old)
        again = run is not None
        if run is None:
            first_tags = dict(identity) | {MLFLOW_SOURCE_NAME: "wb", MLFLOW_USER: _user()}
            if parent:
                first_tags[MLFLOW_PARENT_RUN_ID] = parent
            run = self.client.create_run(self.experiment_id(), tags=first_tags | dict(tags), run_name=name)
        run_id = str(run.info.run_id)
        if again:
            self.client.update_run(run_id, status="RUNNING", name=name)
        self.client.log_batch(
            run_id,
            params=[] if run.data.params else [Param(key, _short(value)) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()] if again else [],
        )
        return run_id, again

    def settings_of(self, run_id: str) -> tuple[dict[str, Any], TrialTags]:
        """Returns the settings and the tags of a trial. Raises UserError where there is no such trial."""
        try:
            run = self.client.get_run(run_id)
            if run.info.lifecycle_stage == "deleted":
                self.experiment_id()
                raise UserError(deleted_run(self.uri, run_id))
            if (tags := read_tags(run.data.tags)) is None:
                raise LookupError("it has no cell or seed")
            return self.attached(run_id, "config.json"), tags
        except (MlflowException, OSError, LookupError) as error:
            raise UserError(
                f"--run-id {run_id}: this store has no such trial ({first_line(error)}); give the id of a trial, not of"
                " a sweep: `wb sweep FILE --status` lists them."
            ) from error

    def trials_of(self, run_id: str) -> list[str]:
        """Returns the finished trials of a sweep, except those of a search and those that diverged. For a trial, it
        returns the trial itself."""
        children = self._children(run_id, "attributes.status = 'FINISHED'")
        trials = {str(run.info.run_id): read_tags(run.data.tags) for run in children}
        compared = [
            trial for trial, tags in trials.items() if tags and tags.kind != "search" and tags.outcome == "finished"
        ]
        return compared or [run_id]

    def open_trials(self, run_id: str) -> list[str]:
        """Returns the trials of a sweep that are not marked as finished."""
        return [str(run.info.run_id) for run in self._children(run_id, "attributes.status != 'FINISHED'")]

    def _children(self, run_id: str, condition: str) -> list[Run]:
        """Returns the trials of a sweep that fulfil a condition, ordered by start time."""
        wanted = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{run_id}' AND {condition}"
        by_start = ["attributes.start_time"]
        return list(self.client.search_runs([self.experiment_id()], wanted, max_results=5000, order_by=by_start))

    def log(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        """Logs one batch. Values that are not finite are skipped, since no reader could average them."""
        now = int(time.time() * 1000)
        batch = [Metric(name, float(v), now, step) for name, v in metrics.items() if math.isfinite(v)]
        self.client.log_batch(run_id, metrics=batch)

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])

    def note(self, run_id: str, markdown: str) -> None:
        """Sets the description that MLflow shows on the run's page."""
        self.client.set_tag(run_id, MLFLOW_RUN_NOTE, markdown)

    def add_input(self, run_id: str, name: str, digest: str, source: str, profile: Mapping[str, Any]) -> None:
        """Logs the data that a run was trained on, as MLflow's dataset input."""
        dataset = Dataset(
            name, digest[:36], "local", json.dumps({"uri": source}), profile=json.dumps(dict(profile)), schema=None
        )
        inputs = [DatasetInput(dataset, [InputTag(MLFLOW_DATASET_CONTEXT, "training")])]
        for attempt in range(ATTEMPTS):
            try:
                return self.client.log_inputs(run_id, inputs)
            except MlflowException:
                # Two runs that log new data at the same moment may conflict.
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * (attempt + 1))

    def attach(self, run_id: str, data: Mapping[str, Any], name: str) -> None:
        self.attach_text(run_id, json.dumps(dict(data), indent=2, default=str), name)

    def attach_text(self, run_id: str, text: str, name: str) -> None:
        # The workspace's own database may hold an outdated path of its files, or the path on another machine.
        if not self.own:
            self.client.log_text(run_id, text, name)
            return
        file = self.home.artifacts_of(run_id) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text.encode())

    def attached(self, run_id: str, name: str) -> dict[str, Any]:
        """Returns what `attach` has written."""
        file = self.home.artifacts_of(run_id) / name
        if self.own and file.is_file():
            local: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            return local
        with tempfile.TemporaryDirectory() as folder:
            path = self.client.download_artifacts(run_id, name, folder)
            loaded: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return loaded

    def attach_folder(self, run_id: str, folder: Path, name: str) -> None:
        if self.own:
            shutil.copytree(folder, self.home.artifacts_of(run_id) / name, dirs_exist_ok=True)
        else:
            self.client.log_artifacts(run_id, str(folder), name)

    def finish(self, run_id: str, status: str = "FINISHED", tags: Mapping[str, str] | None = None) -> None:
        if tags:
            self.tag(run_id, tags)
        self.client.set_terminated(run_id, status)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user id without a name
        return "unknown"


def _short(value: Any, most: int = 500) -> str:
    text = str(value)
    return text if len(text) <= most else text[: most - 3] + "..."
