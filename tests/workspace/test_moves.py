"""Workspaces that are copied, renamed or moved."""

import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from analysis.runs import read_runs
from analysis.stores import store_at
from tests.services import command
from tests.workspace.sweeps import ROOT, contents, wb
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store, sees
from workbench.workspace import Workspace, local_path


@pytest.mark.long
def test_a_copy_elsewhere_goes_on_and_leaves_the_first_place_alone(
    tmp_path: Path, tiny: Path, swept: tuple[Path, str]
) -> None:
    old, run_id = swept
    before = contents(old)
    new = tmp_path / "restored #1"
    shutil.copytree(old, new)
    assert wb("report", "--run-id", run_id, "--workspace", new, "--out", tmp_path / "out").returncode == 0
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Does it run?" in page
    assert "smoke run" in page
    uri = Workspace(new).database_uri
    record = read_runs(uri, run_id).record
    assert (record.question, record.margin, record.baseline_arm) == ("Does it run?", 0.25, "hard_ratio=0.0")
    more = wb("sweep", tiny, "--smoke", "--workspace", new, "--launcher", "here", "--seeds", "2")
    assert more.returncode == 0, more.stderr
    assert "1 already finished" in more.stdout
    assert " ".join(f"this workspace was at {old}; its runs".split()) in " ".join(more.stdout.split())
    trial = read_runs(uri, run_id).trials["run_id"][0]
    common = ("--run-id", trial, "--workspace", new, "--json")
    for arguments in (
        ("eval", "--suite", "robustness", "--limit", "4"),
        ("finetune", "retrieval", "--epochs", "1", "--limit", "16"),
    ):
        done = wb(*arguments, *common)
        assert done.returncode == 0, done.stderr
    # In a process of its own, as the trial was: the last bit may depend on what a process has computed before.
    again = subprocess.run(
        command("reproduce", *map(str, common)), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0, again.stdout
    assert contents(old) == before
    with sqlite3.connect(new / "mlflow.db") as connection:
        recorded = [address for (address,) in connection.execute("SELECT artifact_uri FROM runs")]
    assert {path and path.parent.parent for path in map(local_path, recorded)} == {new / "artifacts"}


def test_a_renamed_workspace_writes_nothing_where_it_was(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    tracker = Tracker(ensure_store(old), old)
    run_id, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    tracker.attach(run_id, {"question": "first?"}, "experiment.json")
    old.rename(new)
    moved = Tracker(Workspace(new).database_uri, new)  # as a reader, and a worker that joins, have it
    assert moved.attached(run_id, "experiment.json") == {"question": "first?"}
    record = next(record for _, record in store_at(moved.uri).all_runs())
    assert record is not None
    assert record.question == "first?"
    moved.attach(run_id, {"question": "second?"}, "experiment.json")
    moved.attach_text(run_id, "why", "failure.txt")
    moved.attach_folder(run_id, tmp_path / "new" / "artifacts" / run_id / "artifacts", "copy")
    assert os.listdir(tmp_path) == ["new"]
    said: list[str] = []
    again = Tracker(ensure_store(new, said.append), new)
    assert said == [f"this workspace was at {old}; its runs now refer to files in {new}"]
    assert sorted(artifact.path for artifact in again.client.list_artifacts(run_id)) == [
        "copy",
        "experiment.json",
        "failure.txt",
    ]
    assert ensure_store(new, said.append)
    assert len(said) == 1
    assert os.listdir(tmp_path) == ["new"]


def test_what_a_study_keeps_of_its_store_moves_with_the_workspace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    address = Tracker(ensure_store(old), old).address
    old.rename(new)
    assert Tracker(address, new).uri == Workspace(new).database_uri
    assert not sees(address, new, "0" * 32)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    assert Tracker(ensure_store(new), new).address == f"sqlite:///{tmp_path / 'shared.db'}"
