"""Which blocks of seeds are begun within `--max-hours`, with a clock of our own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from analysis.report import write_report
from workbench.config.schema import Experiment
from workbench.stop import Stop
from workbench.sweep import worker
from workbench.sweep.grid import expand
from workbench.sweep.hours import Hours, held_back
from workbench.sweep.run import Options, Outcome, run_sweep
from workbench.sweep.search import Plan
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.trial import run as trial_run
from workbench.trial.job import WorkerSpec, new_job
from workbench.trial.ledger import Gate, Ledger

HOUR = 3600.0


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def with_seeds(experiment: Experiment, count: int) -> Experiment:
    seeds = experiment.seeds.model_copy(update={"count": count})
    return experiment.model_copy(update={"arms": experiment.arms[:2], "seeds": seeds})


@pytest.fixture
def plan(experiment: Experiment) -> Plan:
    cells = expand(with_seeds(experiment, 4))
    return Plan(cells, True, len(cells))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def home(cache_dir: Path, prepared: object, tmp_path: Path) -> Path:
    (tmp_path / "cache").symlink_to(cache_dir)
    return tmp_path


@pytest.fixture
def untrained(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that train nothing, each of which takes half an hour of the clock."""

    def finish(_: Any, seed: int, prepared: Any, checkpoint: Path, hooks: Any, *more: object) -> dict[str, float]:
        clock.now += HOUR / 2
        final = {"val/foil_accuracy": 0.5, "test/foil_accuracy": 0.5 + 0.01 * seed, "val/itm_auc": 0.5}
        hooks.log(final, 6)
        return final

    monkeypatch.setattr(trial_run, "train", finish)
    monkeypatch.setattr(trial_run, "keep_weights", lambda _: None)


def swept(experiment: Experiment, home: Path, clock: Callable[[], float], hours: float | None) -> Outcome:
    options = Options(1, 1, launcher="here", max_hours=hours, clock=clock)
    return run_sweep(
        experiment, home, options, lambda _: None, lambda uri, run_id: write_report(uri, run_id, home / "report")
    )


def seeds_ended(home: Path, experiment: Experiment) -> dict[int, int]:
    ended = Ledger.of_workspace(home, experiment.name).endings()
    cells = [cell for cell in expand(experiment) if cell.key in ended]
    return {seed: sum(cell.seed == seed for cell in cells) for seed in sorted({cell.seed for cell in cells})}


def test_the_second_block_waits_until_the_first_has_told_how_long_one_takes(plan: Plan, clock: Clock) -> None:
    hours, cells = Hours(10.0, clock=clock), plan.cells
    assert hours.look(plan, cells, (), False) == Gate(1, False, True)
    clock.now += 2
    assert hours.look(plan, cells, [cells[0].key, cells[1].key], True).until == 1  # both in hand, no block has ended
    clock.now += 3
    assert hours.look(plan, cells[2:], (), True).until == 2
    clock.now += 3.5  # 1.5 s of the ten are left, and a block took three
    assert hours.look(plan, cells[4:], (), True) == Gate(2, True, True)
    assert held_back(plan, Gate(2, True, True), [cell.key for cell in cells[:4]]) == 4


def test_preparation_is_no_part_of_a_block(plan: Plan, clock: Clock) -> None:
    hours, cells = Hours(10.0, clock=clock), plan.cells
    hours.look(plan, cells, (), False)
    clock.now += 6  # of preparation
    hours.look(plan, cells, [cells[0].key], True)
    clock.now += 2
    assert hours.look(plan, cells[2:], (), True) == Gate(2, False, True)


def test_a_further_block_is_begun_while_the_last_trials_of_one_before_still_run(plan: Plan, clock: Clock) -> None:
    hours, cells = Hours(100.0, clock=clock), plan.cells
    hours.look(plan, cells, (), False)
    clock.now += 3
    assert hours.look(plan, cells[2:], (), True).until == 2
    assert hours.look(plan, cells[2:], [cells[2].key], True).until == 2  # one of its cells is still free
    assert hours.look(plan, cells[2:], [cells[2].key, cells[3].key], True).until == 3


def test_workers_that_have_room_for_several_blocks_begin_them_at_once(plan: Plan, clock: Clock) -> None:
    assert Hours(10.0, 3, clock).look(plan, plan.cells, (), False).until == 3


def test_no_trial_of_a_search_is_begun_when_the_time_is_over(plan: Plan, clock: Clock) -> None:
    hours, searching = Hours(10.0, clock=clock), Plan(plan.cells[:0], False, 20)
    gate = hours.look(searching, (), (), False)
    assert (gate.lets(1000, True), gate.lets(0, False)) == (True, False)
    clock.now += 10
    gate = hours.look(searching, (), (), False)
    assert (gate.lets(1000, True), held_back(searching, gate, ())) == (False, 20)


@pytest.mark.usefixtures("untrained")
def test_a_sweep_ends_after_whole_blocks_and_the_same_command_goes_on(
    experiment: Experiment, home: Path, clock: Clock
) -> None:
    four = with_seeds(experiment, 4)
    outcome = swept(four, home, clock, 2.5)
    assert (outcome.planned, outcome.finished, outcome.held, outcome.stopped) == (8, 4, 4, False)
    assert seeds_ended(home, four) == {0: 2, 1: 2}
    assert outcome.report
    assert outcome.report.exists()
    run = Tracker(ensure_store(home), home).client.get_run(outcome.run_id)
    assert run.info.status == "FINISHED"
    again = swept(four, home, clock, None)
    assert (again.run_id, again.finished, again.held) == (outcome.run_id, 8, 0)


@pytest.mark.usefixtures("untrained")
def test_seeds_that_are_added_later_are_run_beside_those_that_are_there(
    experiment: Experiment, home: Path, clock: Clock
) -> None:
    swept(with_seeds(experiment, 2), home, clock, 0.0)  # the first block is begun whatever the limit
    assert seeds_ended(home, with_seeds(experiment, 4)) == {0: 2}
    outcome = swept(with_seeds(experiment, 3), home, clock, None)
    assert (outcome.planned, outcome.finished) == (6, 6)
    assert clock.now == 1000.0 + 6 * HOUR / 2  # no trial ran twice


@pytest.mark.usefixtures("untrained")
def test_a_worker_ends_where_the_gate_is_closed_or_nobody_is_left_to_open_it(
    experiment: Experiment, place: WorkerSpec
) -> None:
    two = with_seeds(experiment, 2)
    uri = ensure_store(place.workspace)
    parent, _ = Tracker(uri, place.workspace).start("s", {"study": "s", "kind": "sweep"}, {}, {})
    ledger = Ledger.of_workspace(place.workspace, "s")
    new_job("s", two, parent, uri).publish(ledger)
    with ledger.attended("a machine"):
        pass  # its sweep has ended
    for closed in (True, False):
        ledger.set_gate(Gate(1, closed, True))
        worker.Worker(place, "s", lambda _: None, Stop()).work()
        assert {cell.seed for cell in expand(two) if cell.key in ledger.endings()} == {0}
