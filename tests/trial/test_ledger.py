import dataclasses
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from workbench.config.schema import Experiment
from workbench.errors import UserError
from workbench.stop import Stop
from workbench.sweep.grid import expand
from workbench.trial import heartbeat
from workbench.trial.cell import Cell, Ending
from workbench.trial.heartbeat import Holder, Watch
from workbench.trial.job import ATTRIBUTE, awaited, new_job, published
from workbench.trial.lease import LeaseLost, Owned, end_trial
from workbench.trial.ledger import DEATHS, Ledger

ENDING = Ending("run", "finished", 0.5, {3: 0.25, 6: 0.5})


def claim(ledger: Ledger, cells: list[Cell], retries: int = 1, start: int = 0) -> Owned | None:
    return ledger.claim(cells, retries, start, "me")


def holder(**changes: Any) -> Holder:
    return dataclasses.replace(Holder.me("me"), **changes)


def sign(ledger: Ledger, trial_id: int, who: Holder, beat: int = 0, step: int = 0) -> None:
    ledger.storage.set_trial_user_attr(trial_id, "holder", dataclasses.asdict(who))
    ledger.storage.set_trial_user_attr(trial_id, "beat", {"beat": beat, "step": step, "steps": 9})


@pytest.fixture
def cells(experiment: Experiment) -> list[Cell]:
    return expand(experiment)[:3]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger.of_workspace(tmp_path, "s")


def test_each_cell_is_claimed_once_and_its_ending_is_kept(cells: list[Cell], ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger.of_workspace(tmp_path, "s")
    first, second, third = claim(ledger, cells), claim(other, cells), claim(ledger, cells)
    assert first
    assert second
    assert third
    assert [trial.cell for trial in (first, second, third)] == cells
    assert claim(other, cells) is None
    assert {trial.name for trial in ledger.running()} == {cell.name for cell in cells}
    first.complete(ENDING)
    assert other.endings() == {cells[0].key: ENDING}
    second.release()
    again = claim(ledger, cells)
    assert again
    assert again.cell == cells[1]
    for trial in (again, third):
        trial.release()


def test_many_threads_never_share_a_cell(experiment: Experiment, tmp_path: Path) -> None:
    cells = expand(experiment)
    taken: list[str] = []

    def work() -> None:
        ledger = Ledger.of_workspace(tmp_path, "s")
        while (ours := claim(ledger, cells)) is not None:
            taken.append(ours.cell.key)
            ours.complete(ENDING)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(cell.key for cell in cells)


def test_failures_count_against_retries_and_a_new_start_forgives_them(cells: list[Cell], ledger: Ledger) -> None:
    for _ in range(2):
        ours = claim(ledger, cells[:1])
        assert ours
        ours.fail("boom")
    assert ledger.failures(cells[0]) == ["boom", "boom"]
    assert claim(ledger, cells[:1]) is None
    assert ledger.open_cells(cells, 1, 0) == cells[1:]
    assert ledger.open_cells(cells, 2, 0) == cells
    start = ledger.next_start()
    again = claim(ledger, cells[:1], start=start)
    assert again
    again.release()
    last = claim(ledger, cells[:1], retries=0, start=start)
    assert last
    last.fail("boom again")
    assert ledger.all_failures(start) == {cells[0].key: ["boom again"]}
    assert claim(ledger, cells[:1], retries=0, start=start) is None
    assert ledger.next_start() == ledger.start == start + 1


def test_an_attempt_counts_for_the_start_it_was_made_for(cells: list[Cell], ledger: Ledger) -> None:
    """Also where it ends, or its worker is found dead, after the next start."""
    first = ledger.next_start()
    old, dead = claim(ledger, cells[:1], start=first), claim(ledger, cells[1:2], start=first)
    assert old
    assert dead
    dead.beating.end()
    sign(ledger, dead.trial_id, holder(started="long ago"))
    second = ledger.next_start()
    old.fail("boom")
    for number in (0, 1):
        again = claim(ledger, [cells[number]], retries=0, start=second)
        assert again
        again.fail("boom")
        assert claim(ledger, [cells[number]], retries=0, start=second) is None
    left_behind = ledger._enqueue(cells[2], first)
    taken = claim(ledger, cells[2:], retries=0, start=second)
    assert taken
    assert taken.trial_id == left_behind
    taken.fail("boom")
    assert claim(ledger, cells[2:], retries=0, start=second) is None


def test_a_study_from_before_starts_were_counted_goes_on(experiment: Experiment, ledger: Ledger) -> None:
    cells = expand(experiment)[:1]
    job = new_job("s", experiment, None, "")
    old = {name: value for name, value in dataclasses.asdict(job).items() if name != "start"}
    ledger.study.set_user_attr(ATTRIBUTE, old | {"experiment": experiment.model_dump(), "started": 1e9})
    assert published(ledger) == job
    for _ in range(2):
        ours = claim(ledger, cells)
        assert ours
        for name, value in {"reason": "boom", "counts": True, "at": 1e9 + 1}.items():
            ledger.storage.set_trial_user_attr(ours.trial_id, name, value)
        ours.release()
    assert claim(ledger, cells) is None
    assert claim(ledger, cells, start=ledger.next_start())


def test_a_look_takes_in_what_is_new_alone(cells: list[Cell], ledger: Ledger, tmp_path: Path) -> None:
    other = Ledger.of_workspace(tmp_path, "s")
    for cell in cells[:2]:
        ours = claim(other, [cell])
        assert ours
        ours.complete(ENDING)
        assert list(ledger.endings()) == list(other.endings())
    known = ledger.endings()
    assert known.pop(cells[0].key) == ENDING
    assert cells[0].key in ledger.endings()  # what was given away is not what is kept
    assert ledger.book.endings[cells[1].key] is ledger.endings()[cells[1].key]
    ours = claim(other, cells)
    assert ours
    assert [trial.cell_key for trial in ledger.running()] == [cells[2].key]
    ours.fail("boom")
    assert ledger.running() == []
    assert ledger.failures(cells[2]) == ["boom"]


def test_the_trial_of_a_dead_process_is_taken_over_at_once(cells: list[Cell], ledger: Ledger) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ours = claim(ledger, cells[:1])
    assert ours
    ours.beating.end()
    sign(ledger, ours.trial_id, holder(pid=gone.pid, started="1"), step=4)
    taken = claim(ledger, cells[:1])
    assert taken
    assert taken.trial_id != ours.trial_id
    assert ledger.failures(cells[0]) == []
    with pytest.raises(LeaseLost):
        ours.held()
    with pytest.raises(LeaseLost):
        ours.complete(ENDING)
    taken.complete(ENDING)
    assert list(ledger.endings()) == [cells[0].key]


def test_a_silent_worker_elsewhere_loses_its_trial_after_a_lease(
    cells: list[Cell], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = claim(ledger, cells[:1])
    assert ours
    ours.beating.end()
    sign(ledger, ours.trial_id, holder(host="elsewhere"))
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    assert claim(ledger, cells[:1]) is None
    clock[0] += heartbeat.LEASE - 1
    sign(ledger, ours.trial_id, holder(host="elsewhere"), beat=1)
    assert claim(ledger, cells[:1]) is None
    clock[0] += heartbeat.LEASE - 1
    assert claim(ledger, cells[:1]) is None
    clock[0] += 2
    assert claim(ledger, cells[:1])


def test_a_worker_that_was_frozen_asks_for_its_lease_before_it_writes_again(
    cells: list[Cell], ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = claim(ledger, cells[:1])
    assert ours
    ours.beating.end()  # as if it were frozen
    assert not ours.lost
    end_trial(ledger.storage, ours.trial_id, TrialState.FAIL, reason="its worker sent no more heartbeats")
    assert not ours.lost
    clock = time.monotonic() + heartbeat.LEASE + 1
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    assert ours.lost


def test_what_could_not_be_watched_has_not_been_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watch, there = Watch(), holder(host="elsewhere")
    assert not watch.lapsed(1, there, 5)
    watch.forget()
    clock[0] += 2 * heartbeat.LEASE
    assert not watch.lapsed(1, there, 5)
    clock[0] += 2 * heartbeat.LEASE
    assert watch.lapsed(1, there, 5)


def test_a_cell_that_takes_every_worker_down_is_given_up(cells: list[Cell], ledger: Ledger) -> None:
    for death in range(DEATHS):
        ours = claim(ledger, cells[:1])
        assert ours, death
        ours.beating.end()
        sign(ledger, ours.trial_id, holder(started="long ago"), step=3)
    assert claim(ledger, cells[:1]) is None
    assert ledger.open_cells(cells, 1, 0) == cells[1:]


def test_of_two_trials_of_a_cell_the_older_one_counts(cells: list[Cell], ledger: Ledger) -> None:
    first, second = ledger._enqueue(cells[0], 0), ledger._enqueue(cells[0], 0)
    ledger.storage.set_trial_state_values(first, TrialState.RUNNING)
    sign(ledger, first, holder(host="elsewhere"))
    assert claim(ledger, cells[:1]) is None
    ledger.storage.set_trial_state_values(second, TrialState.RUNNING)
    assert claim(ledger, cells[:1]) is None


def test_a_job_comes_back_as_it_was_published(experiment: Experiment, ledger: Ledger) -> None:
    job = new_job("s", experiment, "run", "sqlite:///x", retries=3)
    job.publish(ledger)
    assert published(ledger) == job
    assert [c.key for c in expand(published(ledger).experiment)] == [c.key for c in expand(experiment)]


def test_a_half_written_line_does_not_spoil_the_journal(cells: list[Cell], ledger: Ledger, tmp_path: Path) -> None:
    ours = claim(ledger, cells[:1])
    assert ours
    journal = tmp_path / "studies" / "journal.log"
    with open(journal, "ab") as file:
        file.write(b'{"op_code":6,"worker')
    ours.complete(ENDING)
    assert Ledger.of_workspace(tmp_path, "s").endings() == {cells[0].key: ENDING}
    assert os.path.getsize(journal) > 0


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sqlite:///x.db", "SQLite may assign one trial to two workers"),
        ("redis://x", "unknown kind"),
        ("grpc://nowhere", "write it as grpc://HOST:PORT"),
        ("postgresql://me:secret@127.0.0.1:1/x", r"postgresql://me:\*\*\*@127.0.0.1:1/x: it cannot be reached"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused(tmp_path: Path, address: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        Ledger.of_workspace(tmp_path, "s", address)
    assert "secret" not in str(error.value)


def test_a_password_does_not_travel_with_a_study(
    experiment: Experiment, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "postgresql://me:secret@db/runs"
    new_job("s", experiment, "run", secret).publish(ledger)
    assert "secret" not in str(ledger.study.user_attrs)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"set MLFLOW_TRACKING_URI"):
        published(ledger)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", secret)
    assert published(ledger).uri == secret


def test_a_worker_that_joins_waits_for_a_sweep_that_is_being_set_up(ledger: Ledger, experiment: Experiment) -> None:
    said: list[str] = []

    def publish() -> None:
        while not said:
            time.sleep(0.01)
        new_job(ledger.name, experiment, "run", "sqlite:///x.db").publish(ledger)

    threading.Thread(target=publish, daemon=True).start()
    assert awaited(ledger, said.append, Stop()).parent_run == "run"
    assert said == [f"waiting: the sweep of {ledger.name} is being set up"]


def test_a_sweep_that_was_never_set_up_is_not_waited_for_for_ever(ledger: Ledger) -> None:
    with pytest.raises(UserError, match="no experiment yet"):
        awaited(ledger, lambda _: None, Stop(), seconds=0.1)
