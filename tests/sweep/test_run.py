"""What a sweep comes to where nothing is finished, or its report fails."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from analysis.report import write_report
from workbench.config.schema import Experiment, Search
from workbench.config.settings import read_preset
from workbench.errors import UserError
from workbench.events import Event, Said
from workbench.sweep.launch import local
from workbench.sweep.run import Options, Outcome, run_sweep
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.training.loop import Diverged
from workbench.trial import run as trial_run

Report = Callable[[str, str], Path]


@pytest.fixture
def small(experiment: Experiment) -> Experiment:
    seeds = experiment.seeds.model_copy(update={"count": 2})
    return experiment.model_copy(update={"arms": experiment.arms[:2], "seeds": seeds})


@pytest.fixture
def home(cache_dir: Path, prepared: object, tmp_path: Path) -> Path:
    (tmp_path / "cache").symlink_to(cache_dir)
    return tmp_path


@pytest.fixture
def told() -> list[Event]:
    return []


def swept(experiment: Experiment, home: Path, told: list[Event], report: Report | None = None) -> Outcome:
    report = report or (lambda uri, run_id: write_report(uri, run_id, home / "report"))
    return run_sweep(experiment, home, Options(1, 1, launcher="here"), told.append, report)


def diverge(*_: Any) -> None:
    raise Diverged(3)


def finish(_: Any, seed: int, prepared: Any, checkpoint: Path, hooks: Any, *more: object) -> dict[str, float]:
    final = {"val/foil_accuracy": 0.5, "test/foil_accuracy": 0.5 + 0.01 * seed, "val/itm_auc": 0.5}
    hooks.log(final, 6)
    return final


@pytest.fixture
def finishing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial finishes at once, with `finish`, and leaves no weights."""
    monkeypatch.setattr(trial_run, "train", finish)
    monkeypatch.setattr(trial_run, "keep_weights", lambda _: None)


def test_a_sweep_all_of_which_diverged_is_finished_and_says_so(
    small: Experiment, home: Path, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_run, "train", diverge)
    outcome = swept(small, home, told)
    assert (outcome.planned, outcome.finished, outcome.unreported) == (4, 4, None)
    assert outcome.report
    assert "Every trial diverged, 4 trials in all" in outcome.report.with_suffix(".md").read_text()


def test_a_search_all_of_which_diverged_is_over(
    small: Experiment, home: Path, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_run, "train", diverge)
    search = {"settings": {"optimisation.learning_rate": {"low": 1e-3, "high": 1e-2}}, "trials": 2, "batch": 2}
    outcome = swept(small.model_copy(update={"search": Search.model_validate(search)}), home, told)
    assert (outcome.planned, outcome.finished, outcome.failures, outcome.report) == (4, 4, [], None)


def test_a_report_that_fails_ends_no_sweep(small: Experiment, home: Path, told: list[Event], finishing: None) -> None:

    def fail(uri: str, run_id: str) -> Path:
        raise ValueError("Number of rows must be a positive integer")

    outcome = swept(small, home, told, fail)
    assert (outcome.planned, outcome.finished, outcome.report) == (4, 4, None)
    assert outcome.unreported
    assert "ValueError: Number of rows must be a positive integer" in outcome.unreported
    assert f"wb report --run-id {outcome.run_id}" in outcome.unreported
    assert [event.message for event in told if isinstance(event, Said)] == [outcome.unreported]
    again = swept(small, home, told)
    assert again.report
    assert again.unreported is None


def test_the_run_of_an_ended_cell_that_is_said_to_run_is_put_right(
    small: Experiment, home: Path, told: list[Event], finishing: None
) -> None:
    outcome = swept(small, home, told)
    tracker = Tracker(ensure_store(home), home)
    assert tracker.open_trials(outcome.run_id) == []
    (late, *_) = tracker.trials_of(outcome.run_id)
    tracker.client.update_run(late, status="RUNNING")  # as a worker does that was frozen before it said so
    assert tracker.open_trials(outcome.run_id) == [late]
    swept(small, home, told)
    assert tracker.open_trials(outcome.run_id) == []


def test_the_run_of_a_sweep_holds_what_its_report_compares(
    small: Experiment, home: Path, told: list[Event], finishing: None
) -> None:
    outcome = swept(small, home, told)
    metrics = Tracker(ensure_store(home), home).client.get_run(outcome.run_id).data.metrics
    assert metrics == pytest.approx(
        {
            "mean/test/foil_accuracy/hard_ratio:0.0": 0.505,
            "mean/test/foil_accuracy/hard_ratio:0.25": 0.505,
            "effect/test/foil_accuracy/hard_ratio:0.25": 0.0,  # two seeds give no interval
            "mean/val/itm_auc/hard_ratio:0.0": 0.5,
            "mean/val/itm_auc/hard_ratio:0.25": 0.5,
            "effect/val/itm_auc/hard_ratio:0.25": 0.0,
        }
    )


def test_what_a_worker_is_asked_raises_here_what_it_raises_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PRELOADED", [])
    looks: Callable[[], Any] = partial(os.path.exists, "nowhere")
    raises: Callable[[], Any] = partial(read_preset, "vast")
    local.in_a_worker(looks)
    with pytest.raises(UserError, match="there is no preset `vast`"):
        local.in_a_worker(raises)
    with pytest.raises(RuntimeError, match="exit code 3"):
        local.in_a_worker(partial(os._exit, 3))
