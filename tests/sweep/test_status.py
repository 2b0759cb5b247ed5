"""What `wb sweep --status` and `wb runs` say of a sweep whose processes were killed: the same, and the truth."""

import dataclasses
import time
from pathlib import Path

import pytest

from analysis.runs import list_runs
from workbench.config.schema import Experiment
from workbench.record import TrialTags
from workbench.sweep.grid import expand
from workbench.sweep.status import cells_of, living_in
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.trial import heartbeat
from workbench.trial.cell import Cell, Ending
from workbench.trial.heartbeat import Holder, Sightings
from workbench.trial.job import new_job
from workbench.trial.lease import Owned
from workbench.trial.ledger import PROCESS, Ledger

ME = Holder.me("w")
DEAD = dataclasses.replace(ME, started="long ago")
ELSEWHERE = dataclasses.replace(ME, host="elsewhere")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.of_workspace(tmp_path, "s")


@pytest.fixture
def uri(experiment: Experiment, tmp_path: Path, ledger: Ledger) -> str:
    """A sweep as a kill leaves it in MLflow: its run and three trials are RUNNING."""
    uri = ensure_store(tmp_path)
    tracker = Tracker(uri, tmp_path)
    parent, _ = tracker.start("s", {"study": "s", "kind": "sweep"}, {}, {})
    for cell in expand(experiment)[:3]:
        tags = TrialTags(study="s", seed=cell.seed, config_hash=cell.key, cell=cell.label, arm=cell.arm).written()
        tracker.start(cell.name, tags, {}, {}, parent)
    new_job("s", experiment, parent, uri).publish(ledger)
    return uri


def held(ledger: Ledger, cell: Cell, holder: Holder) -> Owned:
    ours = ledger.claim([cell], 1, 0, "w")
    assert ours
    ours.beating.end()
    ledger.storage.set_trial_user_attr(ours.trial_id, "holder", dataclasses.asdict(holder))
    return ours


def listed(uri: str, workspace: Path) -> tuple[str, int, int]:
    row = list_runs(uri, living_in(workspace, None)).row(0, named=True)
    return row["status"], row["running"], row["finished"]


def counted(experiment: Experiment, workspace: Path) -> dict[str, int]:
    states = [row["state"] for row in cells_of(experiment, workspace, "s", None)]
    return {state: states.count(state) for state in ("running", "finished")}


def test_both_tell_the_truth_after_a_kill(experiment: Experiment, tmp_path: Path, ledger: Ledger, uri: str) -> None:
    ended, dead, alive = expand(experiment)[:3]
    held(ledger, ended, ME).complete(Ending("run", "finished", 0.5, {}))  # its run was not marked before the kill
    held(ledger, dead, DEAD)
    ours = held(ledger, alive, ME)
    ledger.study.set_user_attr(PROCESS, {"holder": dataclasses.asdict(DEAD), "beat": 3})
    plain = list_runs(uri).row(0, named=True)
    assert (plain["status"], plain["running"], plain["finished"]) == ("RUNNING", 3, 0)
    assert listed(uri, tmp_path) == ("KILLED", 1, 1)
    assert counted(experiment, tmp_path) == {"running": 1, "finished": 1}
    ids = {row["state"]: row["run_id"] for row in cells_of(experiment, tmp_path, "s", None)}
    assert (ids["finished"], ids["running"]) == ("run", None)
    ours.release()
    assert listed(uri, tmp_path) == ("KILLED", 0, 1)


def test_a_sweep_says_that_it_is_there(tmp_path: Path, ledger: Ledger, uri: str) -> None:
    assert listed(uri, tmp_path)[0] == "RUNNING"  # an older sweep has not said anything
    with ledger.attended("here"):
        assert listed(uri, tmp_path)[0] == "RUNNING"
    assert listed(uri, tmp_path)[0] == "KILLED"  # it has ended, but could not reach MLflow any more


def test_what_is_silent_elsewhere_is_found_out_by_a_second_look(
    experiment: Experiment, tmp_path: Path, ledger: Ledger, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, beating = (held(ledger, cell, ELSEWHERE) for cell in expand(experiment)[:2])
    ledger.study.set_user_attr(PROCESS, {"holder": dataclasses.asdict(ELSEWHERE), "beat": 3})
    assert listed(uri, tmp_path) == ("RUNNING", 2, 0)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + heartbeat.LEASE + 1)
    beating.storage.set_trial_user_attr(beating.trial_id, "beat", {"beat": 4, "step": 1, "steps": 2})
    assert listed(uri, tmp_path) == ("KILLED", 1, 0)
    assert counted(experiment, tmp_path) == {"running": 1, "finished": 0}
    assert {trial.cell_key for trial in ledger.running()} == {silent.cell.key, beating.cell.key}


def test_another_studys_runs_are_left_as_the_store_has_them(tmp_path: Path, uri: str) -> None:
    living = living_in(tmp_path, None)
    assert living("s", "another sweep's run") is None
    assert living("unknown", "run") is None
    assert living_in(tmp_path / "empty", None)("s", "run") is None


def test_sightings_are_kept_and_a_clock_that_jumps_back_accuses_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(beat: int, at: float) -> bool:
        monkeypatch.setattr(time, "time", lambda: at)
        sightings = Sightings(tmp_path)
        silent = sightings.silent("s/1", beat)
        sightings.keep()
        return silent

    lease = heartbeat.LEASE
    assert [look(1, 0), look(1, lease - 1), look(1, lease + 1)] == [False, False, True]
    assert [look(2, lease + 1), look(2, 5)] == [False, False]
    (tmp_path / "read only").touch()
    broken = Sightings(tmp_path / "read only")
    broken.silent("s/1", 1)
    broken.keep()
