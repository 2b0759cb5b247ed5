"""One trial: what it does when it is judged poor, when another worker has taken it over, and where nobody could."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from workbench.config.schema import Experiment, Search
from workbench.events import Event, Stepped
from workbench.outage import Patience
from workbench.record import read_tags
from workbench.stop import Stopped
from workbench.sweep.grid import expand
from workbench.sweep.search import goal_of, planned, pruned_by
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.training.prepare import Prepared
from workbench.training.state import _write, read
from workbench.trial import run
from workbench.trial.cell import Cell
from workbench.trial.checkpoints import checkpoint_of
from workbench.trial.job import Context, Goal, Job, WorkerSpec, new_job
from workbench.trial.lease import LeaseLost, Owned, Unleased
from workbench.trial.ledger import Ledger
from workbench.trial.run import run_cell, start_run
from workbench.trial.torchrun import run_together

VALUE, COURSE = "test/foil_accuracy", "val/foil_accuracy"


@pytest.fixture
def job(experiment: Experiment, place: WorkerSpec) -> Job:
    return new_job("s", experiment, None, ensure_store(place.workspace))


@pytest.fixture
def lease(job: Job, place: WorkerSpec) -> Owned:
    claimed = Ledger.of_workspace(place.workspace, "s").claim(expand(job.experiment), 0, 0, "w")
    assert claimed
    return claimed


def context(place: WorkerSpec, emit: Callable[[Event], None] = lambda _: None) -> Context:
    return Context(place, emit, Patience(print))


def status(job: Job, place: WorkerSpec, cell: Cell) -> str:
    run = Tracker(job.uri, place.workspace).find({"config_hash": cell.key})
    assert run is not None
    return str(run.info.status)


def test_a_trial_is_judged_after_each_validation_but_the_last_on_all_it_knows(
    job: Job, place: WorkerSpec, prepared: Prepared
) -> None:
    asked: list[dict[int, float]] = []

    def poor(course: dict[int, float]) -> bool:
        asked.append(course)
        return False

    cell = expand(job.experiment)[0]
    ending = run_cell(job, Goal(VALUE, COURSE, poor), Unleased(cell), prepared, context(place))
    assert ending.outcome == "finished"
    assert set(ending.curve) == {3, 6}
    assert asked == [{3: ending.curve[3]}]


def test_a_poor_trial_ends_there_and_keeps_its_course(
    job: Job, place: WorkerSpec, prepared: Prepared, lease: Owned
) -> None:
    ending = run_cell(job, Goal(VALUE, COURSE, bool), lease, prepared, context(place))
    assert (ending.outcome, list(ending.curve)) == ("pruned", [3])
    assert ending.value == ending.curve[3]
    lease.complete(ending)
    assert Ledger.of_workspace(place.workspace, "s").endings() == {lease.cell.key: ending}
    assert status(job, place, lease.cell) == "FINISHED"


@pytest.mark.long
def test_two_processes_agree_that_a_trial_is_poor(job: Job, place: WorkerSpec, lease: Owned) -> None:
    together = Job(**vars(job) | {"processes": 2})
    ending = run_together(together, Goal(VALUE, COURSE, bool), lease, context(place))
    assert (ending.outcome, list(ending.curve)) == ("pruned", [3])
    lease.let_go()


def test_after_its_lease_is_lost_a_trial_writes_nothing_more(
    job: Job, place: WorkerSpec, prepared: Prepared, lease: Owned
) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 4:
            lease.beating.lost.set()

    with pytest.raises(LeaseLost):
        run_cell(job, Goal(VALUE, COURSE), lease, prepared, context(place, emit))
    lease.let_go()
    assert read(checkpoint_of(place.workspace, "s", lease.cell.key))["rest"]["step"] == 3
    assert status(job, place, lease.cell) == "RUNNING"  # it is the other worker's


@pytest.mark.parametrize(("is_other", "told"), [(False, True), (True, True), (True, False)])
def test_a_trial_goes_on_with_the_data_alone_that_it_was_begun_with(
    job: Job, place: WorkerSpec, prepared: Prepared, is_other: bool, told: bool
) -> None:
    """`told`: whether its state says so, which it did not in older versions; its run did."""
    stop: list[bool] = []

    def emit(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 4:
            stop.append(True)

    cell, tracker = expand(job.experiment)[0], Tracker(job.uri, place.workspace)
    stopped = Context(place, emit, Patience(print, lambda: bool(stop)))
    with pytest.raises(Stopped):
        run_cell(job, Goal(VALUE, COURSE), Unleased(cell), prepared, stopped)
    begun = tracker.find({"config_hash": cell.key})
    assert begun
    if not told:
        path = checkpoint_of(place.workspace, "s", cell.key)
        saved = read(path)
        del saved["rest"]["made_from"]
        _write(saved, path)
    corpus = replace(prepared.corpus, fingerprint="other") if is_other else prepared.corpus
    seen: list[int] = []

    def see(event: Event) -> None:
        if isinstance(event, Stepped):
            seen.append(event.step)

    ending = run_cell(job, Goal(VALUE, COURSE), Unleased(cell), replace(prepared, corpus=corpus), context(place, see))
    assert seen[0] == (1 if is_other else 5)
    assert (ending.run_id != begun.info.run_id) == is_other
    assert set(ending.curve) == {3, 6}
    lifecycle = tracker.client.get_run(begun.info.run_id).info.lifecycle_stage
    assert lifecycle == ("deleted" if is_other else "active")


def test_a_run_tells_each_state_of_the_code_that_it_was_run_with(
    job: Job, place: WorkerSpec, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, tracker = expand(job.experiment)[0], Tracker(job.uri, place.workspace)
    for commit in ("a", "b", "b"):
        monkeypatch.setattr(run, "provenance", lambda commit=commit: {"commit": commit * 40})
        run_id, _ = start_run(tracker, job, cell, prepared)
    tags = read_tags(tracker.client.get_run(run_id).data.tags)
    assert tags
    assert tags.codes == ["a" * 12, "b" * 12]


def test_a_goal_travels_to_the_processes_of_a_trial(experiment: Experiment) -> None:
    search = Search.model_validate({"settings": {"objectives.mlm.mask_ratio": [0.2, 0.3]}, "trials": 2})
    searched = experiment.model_copy(update={"search": search})
    for asked, poor in ((searched, pruned_by), (experiment, None)):
        goal = goal_of(asked, planned(asked, {}).cells[0], {})
        there = pickle.loads(pickle.dumps(goal))
        assert (there.value, there.course) == (goal.value, COURSE)
        assert (isinstance(there.poor, partial) and there.poor.func) == (poor or False)
        assert not there.poor({3: 0.5})
