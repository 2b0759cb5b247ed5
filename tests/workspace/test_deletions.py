"""Runs and experiments that were deleted in MLflow."""

import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from analysis.runs import read_runs
from analysis.stores import store_at
from analysis.stores.server import ServerStore
from tests.workspace.sweeps import wb
from workbench.errors import UserError
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.workspace import Workspace


@pytest.fixture
def copied(tmp_path: Path, swept: tuple[Path, str]) -> tuple[Path, str, str]:
    """A copy of the finished sweep's workspace, its run and its trial."""
    home = tmp_path / "w"
    shutil.copytree(swept[0], home)
    (trial,) = read_runs(Workspace(home).database_uri, swept[1]).trials["run_id"]
    return home, swept[1], trial


def again(tiny: Path, home: Path) -> subprocess.CompletedProcess[str]:
    return wb("sweep", tiny, "--smoke", "--workspace", home, "--launcher", "here", "--json")


def test_a_trial_that_was_deleted_in_mlflow_is_out_of_sight_until_the_sweep_restores_it(
    copied: tuple[Path, str, str], tiny: Path
) -> None:
    home, run_id, trial = copied
    tracker = Tracker(ensure_store(home, lambda _: None), home)
    tracker.client.delete_run(trial)
    listed = json.loads(wb("runs", "--json", "--workspace", home).stdout)
    assert [(row["run_id"], row["finished"]) for row in listed] == [(run_id, 0)]
    refused = wb("eval", "--run-id", trial, "--suite", "robustness", "--workspace", home)
    assert refused.returncode == 2
    assert f"mlflow runs restore --run-id {trial}" in refused.stderr
    done = again(tiny, home)
    assert done.returncode == 0, done.stderr
    assert "1 of its trials had been deleted in MLflow" in done.stderr
    assert read_runs(tracker.uri, run_id).trials["run_id"].to_list() == [trial]


def test_a_sweeps_run_that_was_deleted_in_mlflow_is_restored(copied: tuple[Path, str, str], tiny: Path) -> None:
    home, run_id, trial = copied
    tracker = Tracker(ensure_store(home, lambda _: None), home)
    tracker.client.delete_run(run_id)
    refused = wb("report", "--run-id", run_id, "--workspace", home)
    assert refused.returncode == 2
    assert f"mlflow runs restore --run-id {run_id}" in refused.stderr
    done = again(tiny, home)
    assert done.returncode == 0, done.stderr
    assert f"run {run_id} was deleted in MLflow" in done.stderr
    assert json.loads(done.stdout)["run_id"] == run_id
    assert read_runs(tracker.uri, run_id).trials["run_id"].to_list() == [trial]


def test_runs_that_are_gone_for_good_are_made_again(copied: tuple[Path, str, str], tiny: Path) -> None:
    home, run_id, trial = copied
    tracker = Tracker(ensure_store(home, lambda _: None), home)
    for gone in (run_id, trial):
        tracker.client.delete_run(gone)
        tracker.client._tracking_client.store._hard_delete_run(gone)  # as `mlflow gc` does
        done = again(tiny, home)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        runs = read_runs(tracker.uri, told["run_id"])
        assert told["run_id"] != run_id
        assert len(runs.trials) == 1
        assert (runs.trials["run_id"][0] == trial) == (gone == run_id)


def test_an_experiment_that_was_deleted_in_mlflow_is_named_with_the_command_that_restores_it(
    copied: tuple[Path, str, str], tiny: Path
) -> None:
    home, run_id, _ = copied
    tracker = Tracker(ensure_store(home, lambda _: None), home)
    tracker.client.delete_experiment(tracker.experiment_id())
    for done in (
        wb("runs", "--workspace", home),
        wb("report", "--run-id", run_id, "--workspace", home),
        again(tiny, home),
    ):
        assert done.returncode == 2, done.stdout
        assert "the experiment `workbench` was deleted in MLflow" in done.stderr
        assert done.stderr.strip().count("\n") == 0
    command_line = done.stderr.split("`")[3]
    mlflow = f"{sys.executable} -m mlflow"
    subprocess.run(command_line.replace("mlflow experiments", f"{mlflow} experiments"), shell=True, check=True)
    assert [row["run_id"] for row in json.loads(wb("runs", "--json", "--workspace", home).stdout)] == [run_id]


def test_a_server_tells_of_what_was_deleted_as_a_database_does(tmp_path: Path) -> None:
    tracker = Tracker(ensure_store(tmp_path), tmp_path)
    run_id, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    stores = (store_at(tracker.uri), ServerStore(tracker.uri))
    tracker.client.delete_run(run_id)
    for store in stores:
        with pytest.raises(UserError, match=f"mlflow runs restore --run-id {run_id}"):
            store.members(run_id)
    tracker.client.delete_experiment(tracker.experiment_id())
    for store in stores:
        for ask in (store.all_runs, partial(store.members, run_id)):
            with pytest.raises(UserError, match="mlflow experiments restore --experiment-id 1"):
                ask()
