"""The only reader of the tracking store: MLflow -> Polars frames."""

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

# One row a trial; `outcome`: "finished", or "diverged" where its loss was no longer a number.
TRIALS = {
    "run_id": pl.String,
    "name": pl.String,
    "status": pl.String,
    "arm": pl.String,
    "seed": pl.Int64,
    "outcome": pl.String,
}
# One row a (trial, metric, step): the last value that was logged.
METRICS = {"run_id": pl.String, "metric": pl.String, "step": pl.Int64, "value": pl.Float64}
# One row a trial: the last value of some metric.
ENDS = {"arm": pl.String, "seed": pl.Int64, "step": pl.Int64, "outcome": pl.String, "value": pl.Float64}
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
PROVENANCE = "provenance.json"
UNITS = {"steps": "optimiser steps", "pairs": "pairs seen", "seconds": "device-seconds of training"}  # of time


@dataclass(frozen=True)
class Runs:
    """A sweep (or one trial) as frames, with its record.

    `over`: the unit of time in which curves are read, one of `UNITS`; `home`: where MLflow's UI shows a run, without
    the run's id; `examples`: run id -> what a finished trial made of a few held-out pairs; `provenance`: of the sweep,
    or of the trial; `tags`: run id -> those of a trial.
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
        """The arms that have a trial, in the grid's order, the baseline first."""
        present = set(self.trials["arm"])
        planned = [arm for arm in self.record.arms if arm in present]
        return planned + sorted(present - set(planned))

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with; "" where there is no arm."""
        return self.record.baseline_arm or next(iter(self.arms), "")

    @property
    def diverged(self) -> list[str]:
        """The runs that ended because their loss was no longer a number."""
        return self.trials.filter(pl.col("outcome") == "diverged")["run_id"].to_list()

    def address(self, run_id: str) -> str:
        """Where MLflow's UI shows a run."""
        return f"{self.home}{run_id}?{TRAINING_VIEW}"

    def outcomes(self) -> pl.DataFrame:
        """`arm`, `seed`, `outcome` of each trial."""
        return self.trials.select("arm", "seed", "outcome").sort("arm", "seed")

    def final(self, metric: str) -> pl.DataFrame:
        """`arm`, `seed`, `value`: the metric at each trial's last step; trials that diverged have none."""
        return _one_a_seed(self._ends_of(metric).filter(pl.col("outcome") != "diverged"))

    def last(self, metric: str) -> pl.DataFrame:
        """`arm`, `seed`, `value`: the metric where it was last measured, also of trials that diverged."""
        return _one_a_seed(self._ends_of(metric))

    def curves(self, metric: str) -> pl.DataFrame:
        """`arm`, `seed`, `step`, `time`, `value` of one metric; evaluations whose time was not logged are left out."""
        found = self._rows_of(metric).join(self.trials, on="run_id")
        if self.over == "steps":
            found = found.with_columns(time=pl.col("step").cast(pl.Float64))
        else:
            found = found.join(self._times(), on=["run_id", "step"])
        return found.select("arm", "seed", "step", "time", "value").sort("arm", "seed", "step")

    def names(self, prefix: str) -> list[str]:
        """The metrics that begin with this."""
        return sorted(name for name in self._rows if name.startswith(prefix))

    def _times(self) -> pl.DataFrame:
        """`run_id`, `step`, `time` in pairs or device-seconds."""
        times = self._rows_of({"pairs": "samples_seen", "seconds": "seconds"}[self.over])
        times = times.select("run_id", "step", time="value")
        if self.over == "pairs":
            return times
        whole = self._rows_of("perf/device_seconds").select("run_id", whole="value")
        devices = pl.col("whole").fill_null(pl.col("time").max().over("run_id")) / pl.col("time").max().over("run_id")
        return times.join(whole, on="run_id", how="left").select("run_id", "step", time=pl.col("time") * devices)

    def _rows_of(self, metric: str) -> pl.DataFrame:
        """The rows of `metrics` of one metric."""
        return self._rows.get(metric, self.metrics.clear())

    def _ends_of(self, metric: str) -> pl.DataFrame:
        """`arm`, `seed`, `step`, `outcome`, `value`: each trial's last row of a metric."""
        return self._ends.get(metric, pl.DataFrame(schema=ENDS))

    # Both are asked for hundreds of metrics by a report, so that they are made once for all.
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


def _one_a_seed(ends: pl.DataFrame) -> pl.DataFrame:
    """Of an arm's runs with the same seed, the one that went furthest; `ends` are sorted by step."""
    found = ends.select("arm", "seed", "value")
    return found.unique(["arm", "seed"], keep="last", maintain_order=True)


def read_runs(uri: str, run_id: str) -> Runs:
    """The finished trials of a sweep, or a single finished trial.

    Raises UserError where there is no such store or run, or nothing in it is finished.
    """
    store = store_at(uri)
    found = store.members(run_id)
    record = found.record or SweepRecord(question=f"What did run {run_id} reach?")
    cells = record.cells if found.children else None
    ended = {run.run_id: of for run in found.runs if run.status == "FINISHED" and (of := read_tags(run.tags))}
    tags = {run: of for run, of in ended.items() if of.kind != "search" and (cells is None or of.config_hash in cells)}
    rows = [_trial(run, tags[run.run_id], cells) for run in found.runs if run.run_id in tags]
    if not rows:
        raise UserError(f"--run-id {run_id}: none of its trials is finished yet; there is nothing to report.")
    # Of two finished runs of one trial, which come about where a ledger was lost, the later one.
    trials = pl.DataFrame(rows, schema=TRIALS, orient="row").unique(["arm", "seed"], keep="last", maintain_order=True)
    metrics = pl.DataFrame(store.values(list(tags)), schema=METRICS, orient="row")
    tried = {run: of.arm for run, of in ended.items() if of.kind == "search" and _outcome(of) == "finished"}
    tags |= _with_code(store, tags)
    finished = [run for run, of in tags.items() if _outcome(of) == "finished"]
    host = uri.rstrip("/") if uri.startswith("http") else LOCAL_UI
    return Runs(
        run_id,
        found.name,
        record,
        trials,
        metrics.unique(["run_id", "metric", "step"], keep="last", maintain_order=True),
        searched=_searched(store, tried, record.primary),
        home=f"{re.sub('//[^/@]*@', '//', host)}/#/experiments/{found.experiment_id}/runs/",
        examples={run: json.loads(held) for run, held in store.artifacts(finished, EXAMPLES).items()},
        provenance=json.loads(store.artifacts([run_id], PROVENANCE).get(run_id, b"{}")),
        tags=tags,
    )


def _with_code(store: Store, tags: Mapping[str, TrialTags]) -> dict[str, TrialTags]:
    """The tags of older trials, which kept the state of their code in a file alone, with that state."""
    untold = [run for run, of in tags.items() if not of.code]
    kept = store.artifacts(untold, PROVENANCE) if untold else {}
    return {run: tags[run].model_copy(update={"code": code_state(json.loads(held))}) for run, held in kept.items()}


def _trial(run: Run, tags: TrialTags, cells: Mapping[str, str] | None) -> tuple[Any, ...]:
    """A row of `TRIALS`."""
    return (run.run_id, run.name, run.status, _arm(tags, cells), tags.seed, _outcome(tags))


def _arm(tags: TrialTags, cells: Mapping[str, str] | None) -> str:
    """The arm that a trial counts for: what the sweep calls it now, else what the trial was started as."""
    return (cells or {}).get(tags.config_hash, tags.arm)


def _outcome(tags: TrialTags) -> str:
    """How a trial ended; old ones may say that they diverged by the step alone."""
    return tags.outcome if tags.diverged_at is None else "diverged"


def _searched(store: Store, arms: dict[str, str], primary: str) -> pl.DataFrame:
    """The trials of searches, given as run id -> arm, with their settings and last score, on the validation split."""
    if not arms:
        return pl.DataFrame(schema=SEARCHED)
    scores = store.last(on_validation(primary), list(arms)) or store.last(primary, list(arms))
    settings = store.params(list(arms))
    rows = [(run, arm, json.dumps(settings.get(run, {})), scores[run]) for run, arm in arms.items() if run in scores]
    return pl.DataFrame(rows, schema=SEARCHED, orient="row")


def every_run(uri: str) -> list[Run]:
    """The sweeps, trials and single trainings of a store."""
    return [run for run, _ in store_at(uri).all_runs()]


def list_runs(uri: str, living: Callable[[str, str], Living | None] = lambda *_: None) -> pl.DataFrame:
    """Every sweep and single training, the newest first, as `LISTED`. A process that was killed leaves its runs as
    RUNNING in the store: `living`, given a study's name and the run, tells what really lives of it, where that is
    known.

    Trials by state; `seconds_left` from the pace of those that have ended; `best` mean of the primary metric and its
    arm.
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
    for run, record in sorted(tops, key=lambda each: -each[0].started):
        children = groups.get(run.run_id, [run] if run.tags["kind"] == "train" else [])
        if "RUNNING" in (run.status, *(child.status for child in children)):
            known = living(run.tags.get("study", ""), run.run_id)
            run, children = _really(run, known), [_really(child, known) for child in children]
        rows.append(_listed(store, run, children, record))
    return pl.DataFrame(rows, schema=LISTED, orient="row")


def _really(run: Run, known: Living | None) -> Run:
    """The run with the status that it has, where its study knows better."""
    if run.status != "RUNNING" or known is None:
        return run
    if run.tags.get("kind") == "sweep":
        return replace(run, status="KILLED") if known.process is False else run
    cell = run.tags.get("config_hash", "")
    if cell in known.running:
        return run
    return replace(run, status="FINISHED" if cell in known.ended else "KILLED")


def _listed(store: Store, run: Run, children: list[Run], record: SweepRecord | None) -> tuple[Any, ...]:
    """A row of `LISTED`."""
    if record and record.cells:  # neither the trials of a search nor cells that the YAML no longer names
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
    """The best mean of the primary metric and its arm, of the arms none of whose trials diverged: what such a trial had
    reached before is no result, and without it its arm would look better than it is. Nothing where no trial has it."""
    tags_of = {child.run_id: tags for child in ended if (tags := read_tags(child.tags))}
    diverged = {_arm(tags, record.cells) for tags in tags_of.values() if _outcome(tags) == "diverged"}
    arm_of = {run: arm for run, tags in tags_of.items() if (arm := _arm(tags, record.cells)) not in diverged}
    values: dict[str, list[float]] = {}
    for run_id, value in store.last(record.primary, list(arm_of)).items():
        values.setdefault(arm_of[run_id], []).append(value)
    if not values:
        return None, None
    means = {arm: sum(found) / len(found) for arm, found in values.items()}
    better = min if lower_is_better(record.primary) else max
    arm, best = better(means.items(), key=lambda each: each[1])
    return best, arm
