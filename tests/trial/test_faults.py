"""What one of several processes of a trial meets alone ends all of them at once, and the first reason is the one that
is heard."""

import signal
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.services import until
from tests.trial import faults
from workbench.config.schema import Experiment
from workbench.config.settings import apply
from workbench.errors import UserError
from workbench.events import Event, Said
from workbench.outage import Patience
from workbench.stop import Stop, Stopped
from workbench.sweep.grid import expand
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.training.prepare import Prepared
from workbench.trial.cell import Ending
from workbench.trial.job import Context, Goal, WorkerSpec, new_job
from workbench.trial.lease import LeaseLost, Owned
from workbench.trial.ledger import Ledger
from workbench.trial.torchrun import MemberFailed, run_together

GOAL = Goal("test/foil_accuracy", "val/foil_accuracy")
SOON = 5.0  # seconds


class Trial:
    """A trial of two processes, claimed in a workspace of its own."""

    def __init__(self, home: Path, experiment: Experiment, cache: Path) -> None:
        (home / "cache").symlink_to(cache)
        settings = apply(
            experiment.settings, {"optimisation.batch_size": 32, "optimisation.steps": 6, "evaluation.every": 6}
        )
        self.job = new_job(
            "s", experiment.model_copy(update={"settings": settings}), None, ensure_store(home), processes=2
        )
        self.place = WorkerSpec(home, None, "w")
        claimed = Ledger.of_workspace(home, "s").claim(expand(self.job.experiment), 0, 0, "w")
        assert claimed
        self.lease: Owned = claimed
        self.stop, self.events = Stop(), list[Event]()

    def run(self, entry: Any = faults.member) -> Ending:
        context = Context(self.place, self.events.append, Patience(print, self.stop))
        try:
            return run_together(self.job, GOAL, self.lease, context, entry)
        finally:
            self.lease.let_go()

    def status(self) -> tuple[str, str]:
        run = Tracker(self.job.uri, self.place.workspace).find({"config_hash": self.lease.cell.key})
        assert run is not None
        return run.info.status, run.data.tags.get("failure", "")


@pytest.fixture
def trial(
    tmp_path: Path,
    experiment: Experiment,
    cache_dir: Path,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
) -> Trial:
    monkeypatch.setenv(faults.WHEN, str(tmp_path / "when"))
    return Trial(tmp_path, experiment, cache_dir)


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("1 image", MemberFailed, "ValueError: pictures/07.png cannot be decoded"),
        pytest.param(*("0 bug", MemberFailed, "ZeroDivisionError: division by zero"), marks=pytest.mark.long),
        pytest.param(*("0 disk", MemberFailed, "PermissionError: .*Permission denied"), marks=pytest.mark.long),
        pytest.param(
            *("0 preparing", MemberFailed, "ValueError: pictures/07.png cannot be decoded"), marks=pytest.mark.long
        ),
        ("1 killed", MemberFailed, "process 2 of 2 was ended by signal 9, perhaps for lack of memory"),
        pytest.param(*("0 exit", MemberFailed, "process 1 of 2 ended with exit code 3"), marks=pytest.mark.long),
        pytest.param(*("1 user", UserError, "the corpus `some` is gone"), marks=pytest.mark.long),
        pytest.param(*("0 lost", LeaseLost, None), marks=pytest.mark.long),
        pytest.param(*("0 interrupted", Stopped, None), marks=pytest.mark.long),
    ],
)
def test_what_one_process_meets_alone_ends_all_and_is_what_is_said(
    trial: Trial, fault: str, error: type[Exception], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.FAULT, fault)
    with pytest.raises(error, match=said) as raised:
        trial.run()
    assert time.monotonic() - float((trial.place.workspace / "when").read_text()) < SOON
    assert not [process for process in psutil.Process().children() if "spawn_main" in " ".join(process.cmdline())]
    if error is MemberFailed and fault != "0 preparing":
        assert trial.status() == ("FAILED", str(raised.value))
    if error is Stopped:
        assert trial.status() == ("KILLED", "")


@pytest.mark.long
def test_where_one_process_lacks_memory_all_begin_again_with_smaller_micro_batches(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(faults.FAULT, "1 memory")
    assert trial.run().outcome == "finished"
    (told,) = [event.message for event in trial.events if isinstance(event, Said)]
    assert "out of GPU memory in process 2 of 2; continuing with 2 micro-batches of the same batch" in told
    run = Tracker(trial.job.uri, trial.place.workspace).find({"config_hash": trial.lease.cell.key})
    assert run is not None
    assert (run.info.status, run.data.tags["micro_batches"]) == ("FINISHED", "2")


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("stopped", marks=pytest.mark.long),
        pytest.param("lost", marks=pytest.mark.long),
        pytest.param("killed", marks=pytest.mark.long),
    ],
)
def test_processes_that_wait_for_one_that_hangs_end_with_the_trial(
    trial: Trial, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is inside an exchange, where it runs no signal handler."""
    monkeypatch.setenv(faults.FAULT, "1 hangs")
    asked: list[float] = []

    def ask() -> None:
        until((trial.place.workspace / "when").exists, 120)
        time.sleep(1)
        asked.append(time.monotonic())
        if how == "stopped":
            trial.stop.ask()
        elif how == "lost":
            trial.lease.beating.lost.set()
        else:
            for process in psutil.Process().children():
                if "spawn_main" in " ".join(process.cmdline()):
                    process.send_signal(signal.SIGKILL)

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises({"stopped": Stopped, "lost": LeaseLost, "killed": MemberFailed}[how]):
        trial.run()
    assert time.monotonic() - asked[0] < SOON
