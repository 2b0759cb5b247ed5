"""Sweeps that share an MLflow store, and what tells their runs apart."""

import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis.runs import read_runs
from tests.workspace.sweeps import sweep
from workbench.config.schema import Experiment
from workbench.sweep.grid import expand
from workbench.sweep.run import _run_of
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.trial.job import new_job, published
from workbench.trial.ledger import Ledger
from workbench.trial.run import start_run


def test_sweeps_of_one_name_in_a_shared_store_stay_apart(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    first = sweep(tiny, tmp_path / "mine")
    before = read_runs(uri, str(first["run_id"]))
    other = tmp_path / tiny.name
    other.write_text(tiny.read_text().replace("Does it run?", "Does another?").replace("0.25", "0.5"))
    second = sweep(other, tmp_path / "theirs")
    assert second["run_id"] != first["run_id"]
    after = read_runs(uri, str(first["run_id"]))
    assert (after.record, after.trials.to_dicts()) == (before.record, before.trials.to_dicts())
    theirs = read_runs(uri, str(second["run_id"]))
    assert (theirs.record.question, theirs.record.margin) == ("Does another?", 0.5)
    # The cell is the same, its run is not.
    assert set(theirs.tags).isdisjoint(before.tags)
    assert [of.config_hash for of in theirs.tags.values()] == [of.config_hash for of in before.tags.values()]
    with sqlite3.connect(tmp_path / "shared.db") as connection:
        named = dict(connection.execute("SELECT run_uuid, value FROM tags WHERE key = 'sweep'").fetchall())
    for runs, run_id in ((before, first["run_id"]), (theirs, second["run_id"])):
        assert {named[trial] for trial in runs.tags} == {named[str(run_id)]}
    assert len(set(named.values())) == 2


def test_runs_from_before_sweeps_had_names_of_their_own_get_one(tmp_path: Path, experiment: Experiment) -> None:
    ledger = Ledger.of_workspace(tmp_path, "s")
    tracker = Tracker(ensure_store(tmp_path), tmp_path)
    cell = expand(experiment)[0]
    parent, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    trial, _ = tracker.start("t", {"study": "s", "seed": str(cell.seed), "config_hash": cell.key}, {}, {}, parent)
    new_job("s", experiment, parent, tracker.uri).publish(ledger)
    told = ledger.study.user_attrs["job"]
    ledger.study.set_user_attr("job", {name: value for name, value in told.items() if name != "sweep"})
    assert published(ledger).sweep == ""
    assert _run_of(ledger, tracker, experiment) == parent
    job = new_job("s", experiment, parent, tracker.uri, sweep=ledger.sweep())
    splits = SimpleNamespace(train=[], val=[], test=[], fingerprint="d")
    data: Any = SimpleNamespace(corpus=splits, fingerprint="w")
    assert start_run(tracker, job, cell, data) == (trial, True)
    for run_id in (parent, trial):
        assert tracker.client.get_run(run_id).data.tags["sweep"] == ledger.sweep()
    assert Ledger.of_workspace(tmp_path, "s").sweep() == ledger.sweep()
