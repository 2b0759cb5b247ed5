"""Reads the tracking store: MLflow -> Polars frames. No other module of the analysis reads it."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import polars as pl

from analysis.stores import store_at
from analysis.stores.store import PARENT, Run, Store
from workbench.errors import UserError
from workbench.metrics import lower_is_better, on_validation
from workbench.record import EXAMPLES, TRAINING_VIEW, Living, SweepRecord, TrialTags, code_state, read_tags

# One row per trial; `outcome`: "finished", or "diverged" where its loss was no longer a number.
TRIALS = {
    "run_id": pl.String,
    "name": pl.String,
    "status": pl.String,
    "arm": pl.String,
    "seed": pl.Int64,
    "outcome": pl.String,
}
# One row per (trial, metric, step): the last logged value.
METRICS = {"run_id": pl.String, "metric": pl.String, "step": pl.Int64, "value": pl.Float64}
# One row per trial: the last value of some metric.
ENDS = {"arm": pl.String, "seed": pl.Int64, "step": pl.Int64, "outcome": pl.String, "value": pl.Float64}
# One row per completed search trial; `settings` as JSON, their levels as text.
SEARCHED = {"run_id": pl.String, "arm": pl.String, "settings": pl.String, "score": pl.Float64}

# One row per sweep or single training; `started` in ms since the epoch.
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
PROVENANCE = "provenance.json"
UNITS = {"steps": "optimiser steps", "pairs": "pairs seen", "seconds": "device-seconds of training"}  # of time


@dataclass(frozen=True)
class Runs:
    """A sweep (or one trial) as frames, with its record.

    `over`: the unit of time of curves, one of `UNITS`. `home`: the URL of a run in MLflow's UI, without the run's id.
    `examples`: run id -> a finished trial's predictions for a few held-out pairs. `provenance`: of the sweep, or of the
    trial. `tags`: run id -> tags of a trial.
    """

    run_id: str
    name: str
    record: SweepRecord
    trials: pl.DataFrame
    metrics: pl.DataFrame
    over: str = "steps"
    searched: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SEARCHED))
    home: str = ""
    examples: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, TrialTags] = field(default_factory=dict)

    @property
    def arms(self) -> list[str]:
        """The arms with a trial, in the grid's order, the baseline first."""
        present = set(self.trials["arm"])
        planned = [arm for arm in self.record.arms if arm in present]
        return planned + sorted(present - set(planned))

    @property
    def baseline(self) -> str:
        """The arm with which the others are compared; "" where there is no arm."""
        return self.record.baseline_arm or next(iter(self.arms), "")

    @property
    def diverged(self) -> list[str]:
        """The runs that ended because their loss was no longer a number."""
        return self.trials.filter(pl.col("outcome") == "diverged")["run_id"].to_list()

    def address(self, run_id: str) -> str:
        """Returns the URL of a run in MLflow's UI."""
        return f"{self.home}{run_id}?{TRAINING_VIEW}"

    def outcomes(self) -> pl.DataFrame:
        """Returns `arm`, `seed`, `outcome` of each trial."""
        return self.trials.select("arm", "seed", "outcome").sort("arm", "seed")

    def final(self, metric: str) -> pl.DataFrame:
        """Returns `arm`, `seed`, `value`: the metric at each trial's last step. Diverged trials have none."""
        return _one_per_seed(self._ends_of(metric).filter(pl.col("outcome") != "diverged"))

    def last(self, metric: str) -> pl.DataFrame:
        """Returns `arm`, `seed`, `value`: the metric where it was last measured, also for diverged trials."""
        return _one_per_seed(self._ends_of(metric))

    def curves(self, metric: str) -> pl.DataFrame:
        """Returns `arm`, `seed`, `step`, `time`, `value` of one metric. Evaluations whose time was not logged are left
        out."""
        rows = self._rows_of(metric).join(self.trials, on="run_id")
        if self.over == "steps":
            rows = rows.with_columns(time=pl.col("step").cast(pl.Float64))
        else:
            rows = rows.join(self._times(), on=["run_id", "step"])
        return rows.select("arm", "seed", "step", "time", "value").sort("arm", "seed", "step")

    def names(self, prefix: str) -> list[str]:
        """Returns the metrics whose names start with `prefix`."""
        return sorted(name for name in self._rows if name.startswith(prefix))

    def _times(self) -> pl.DataFrame:
        """Returns `run_id`, `step`, `time` in pairs or device-seconds."""
        times = self._rows_of({"pairs": "samples_seen", "seconds": "seconds"}[self.over])
        times = times.select("run_id", "step", time="value")
        if self.over == "pairs":
            return times
        whole = self._rows_of("perf/device_seconds").select("run_id", whole="value")
        devices = pl.col("whole").fill_null(pl.col("time").max().over("run_id")) / pl.col("time").max().over("run_id")
        return times.join(whole, on="run_id", how="left").select("run_id", "step", time=pl.col("time") * devices)

    def _rows_of(self, metric: str) -> pl.DataFrame:
        """Returns the rows of `metrics` for one metric."""
        return self._rows.get(metric, self.metrics.clear())

    def _ends_of(self, metric: str) -> pl.DataFrame:
        """Returns `arm`, `seed`, `step`, `outcome`, `value`: each trial's last row of a metric."""
        return self._ends.get(metric, pl.DataFrame(schema=ENDS))

    # A report reads hundreds of metrics from both, so they are computed only once.
    @cached_property
    def _rows(self) -> dict[str, pl.DataFrame]:
        """Metric -> its rows."""
        return {str(name): rows for (name,), rows in self.metrics.partition_by("metric", as_dict=True).items()}

    @cached_property
    def _ends(self) -> dict[str, pl.DataFrame]:
        """Metric -> each trial's last row."""
        at = pl.col("step").arg_max()
        trials = self.metrics.group_by("metric", "run_id", maintain_order=True)
        last = trials.agg(pl.col("step").get(at), pl.col("value").get(at)).join(self.trials, on="run_id")
        ordered = last.select("metric", *ENDS).sort("arm", "seed", "step", maintain_order=True)
        parts = ordered.partition_by("metric", as_dict=True, include_key=False)
        return {str(name): rows for (name,), rows in parts.items()}


def _one_per_seed(ends: pl.DataFrame) -> pl.DataFrame:
    """Keeps one run per arm and seed, the one that got furthest. `ends` are sorted by step."""
    values = ends.select("arm", "seed", "value")
    return values.unique(["arm", "seed"], keep="last", maintain_order=True)


def read_runs(uri: str, run_id: str) -> Runs:
    """Returns the finished trials of a sweep, or a single finished trial.

    Raises UserError where there is no such store or run, or no trial is finished.
    """
    store = store_at(uri)
    members = store.members(run_id)
    record = members.record or SweepRecord(question=f"What did run {run_id} reach?")
    cells = record.cells if members.children else None
    ended = {run.run_id: of for run in members.runs if run.status == "FINISHED" and (of := read_tags(run.tags))}
    tags = {run: of for run, of in ended.items() if of.kind != "search" and (cells is None or of.config_hash in cells)}
    rows = [_trial(run, tags[run.run_id], cells) for run in members.runs if run.run_id in tags]
    if not rows:
        raise UserError(f"--run-id {run_id}: none of its trials is finished yet; there is nothing to report.")
    # Two finished runs of one trial exist where a ledger was lost; the later one counts.
    trials = pl.DataFrame(rows, schema=TRIALS, orient="row").unique(["arm", "seed"], keep="last", maintain_order=True)
    metrics = pl.DataFrame(store.values(list(tags)), schema=METRICS, orient="row")
    tried = {run: of.arm for run, of in ended.items() if of.kind == "search" and _outcome(of) == "finished"}
    tags |= _with_code(store, tags)
    finished = [run for run, of in tags.items() if _outcome(of) == "finished"]
    host = uri.rstrip("/") if uri.startswith("http") else LOCAL_UI
    return Runs(
        run_id,
        members.name,
        record,
        trials,
        metrics.unique(["run_id", "metric", "step"], keep="last", maintain_order=True),
        searched=_searched(store, tried, record.primary),
        home=f"{re.sub('//[^/@]*@', '//', host)}/#/experiments/{members.experiment_id}/runs/",
        examples={run: json.loads(content) for run, content in store.artifacts(finished, EXAMPLES).items()},
        provenance=json.loads(store.artifacts([run_id], PROVENANCE).get(run_id, b"{}")),
        tags=tags,
    )


def _with_code(store: Store, tags: Mapping[str, TrialTags]) -> dict[str, TrialTags]:
    """Returns the tags of older trials, completed with the code version that they stored only in a file."""
    without = [run for run, of in tags.items() if not of.code]
    files = store.artifacts(without, PROVENANCE) if without else {}
    return {run: tags[run].model_copy(update={"code": code_state(json.loads(file))}) for run, file in files.items()}


def _trial(run: Run, tags: TrialTags, cells: Mapping[str, str] | None) -> tuple[Any, ...]:
    """Returns a row of `TRIALS`."""
    return (run.run_id, run.name, run.status, _arm(tags, cells), tags.seed, _outcome(tags))


def _arm(tags: TrialTags, cells: Mapping[str, str] | None) -> str:
    """Returns the arm of a trial: by the sweep's present record, else as the trial was started."""
    return (cells or {}).get(tags.config_hash, tags.arm)


def _outcome(tags: TrialTags) -> str:
    """Returns how a trial ended. Old trials may record a divergence only by its step."""
    return tags.outcome if tags.diverged_at is None else "diverged"


def _searched(store: Store, arms: dict[str, str], primary: str) -> pl.DataFrame:
    """Returns search trials, given as run id -> arm, with their settings and last score on the validation split."""
    if not arms:
        return pl.DataFrame(schema=SEARCHED)
    scores = store.last(on_validation(primary), list(arms)) or store.last(primary, list(arms))
    settings = store.params(list(arms))
    rows = [(run, arm, json.dumps(settings.get(run, {})), scores[run]) for run, arm in arms.items() if run in scores]
    return pl.DataFrame(rows, schema=SEARCHED, orient="row")


def every_run(uri: str) -> list[Run]:
    """Returns the sweeps, trials and single trainings of a store."""
    return [run for run, _ in store_at(uri).all_runs()]


def list_runs(uri: str, living: Callable[[str, str], Living | None] = lambda *_: None) -> pl.DataFrame:
    """Returns every sweep and single training, newest first, as `LISTED`. A killed process leaves its runs as RUNNING
    in the store: `living`, given a study's name and the run, returns which parts are really running, where that is
    known.

    Trials are counted by state. `seconds_left` follows from the pace of those that have ended. `best`: the best mean of
    the primary metric, with its arm.
    """
    store = store_at(uri)
    groups: dict[str, list[Run]] = {}
    tops: list[tuple[Run, SweepRecord | None]] = []
    for run, record in store.all_runs():
        if run.tags.get("kind") in ("sweep", "train"):
            tops.append((run, record))
        elif PARENT in run.tags:
            groups.setdefault(run.tags[PARENT], []).append(run)
    rows = []
    for run, record in sorted(tops, key=lambda top: -top[0].started):
        children = groups.get(run.run_id, [run] if run.tags["kind"] == "train" else [])
        if "RUNNING" in (run.status, *(child.status for child in children)):
            known = living(run.tags.get("study", ""), run.run_id)
            run, children = _really(run, known), [_really(child, known) for child in children]
        rows.append(_listed(store, run, children, record))
    return pl.DataFrame(rows, schema=LISTED, orient="row")


def _really(run: Run, known: Living | None) -> Run:
    """Returns the run with its true status, where its study knows it."""
    if run.status != "RUNNING" or known is None:
        return run
    if run.tags.get("kind") == "sweep":
        return replace(run, status="KILLED") if known.process is False else run
    cell = run.tags.get("config_hash", "")
    if cell in known.running:
        return run
    return replace(run, status="FINISHED" if cell in known.ended else "KILLED")


def _listed(store: Store, run: Run, children: list[Run], record: SweepRecord | None) -> tuple[Any, ...]:
    """Returns a row of `LISTED`."""
    if record and record.cells:  # without search trials and cells that the YAML file no longer contains
        children = [child for child in children if child.tags.get("config_hash") in record.cells]
    states = [child.status for child in children]
    ended = [child for child in children if child.status == "FINISHED"]
    planned = len(children) if record is None or record.planned is None else record.planned
    left = None
    if run.status == "RUNNING" and ended:
        span = max(child.ended or child.started for child in ended) - min(child.started for child in ended)
        left = span / 1000 / len(ended) * max(0, planned - len(ended))
    best = _best(store, ended, record) if record else (None, None)
    counts = (len(ended), states.count("RUNNING"), states.count("FAILED"), planned)
    return (run.run_id, run.name, run.status, *counts, run.started, left, *best)


def _best(store: Store, ended: list[Run], record: SweepRecord) -> tuple[float | None, str | None]:
    """Returns the best mean of the primary metric and its arm, among the arms without diverged trials. A diverged trial
    has no result, and without it its arm would look better than it is. Returns None where no trial has the metric."""
    tags_of = {child.run_id: tags for child in ended if (tags := read_tags(child.tags))}
    diverged = {_arm(tags, record.cells) for tags in tags_of.values() if _outcome(tags) == "diverged"}
    arm_of = {run: arm for run, tags in tags_of.items() if (arm := _arm(tags, record.cells)) not in diverged}
    values: dict[str, list[float]] = {}
    for run_id, value in store.last(record.primary, list(arm_of)).items():
        values.setdefault(arm_of[run_id], []).append(value)
    if not values:
        return None, None
    means = {arm: sum(of_arm) / len(of_arm) for arm, of_arm in values.items()}
    better = min if lower_is_better(record.primary) else max
    arm, best = better(means.items(), key=lambda pair: pair[1])
    return best, arm
