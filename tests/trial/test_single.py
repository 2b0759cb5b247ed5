"""A training outside a sweep, started again."""

from pathlib import Path
from typing import Any

import pytest

from workbench.config.schema import Experiment
from workbench.outage import Patience
from workbench.training import warm_start
from workbench.trial import run as trial_run
from workbench.trial.job import Context, WorkerSpec
from workbench.trial.single import run_single


def test_a_finished_training_says_that_it_was_made_from_something_else(
    experiment: Experiment, place: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def train(_: Any, seed: int, prepared: Any, checkpoint: Path, hooks: Any, *more: object) -> dict[str, float]:
        return {experiment.primary: 0.5}

    monkeypatch.setattr(trial_run, "train", train)
    monkeypatch.setattr(trial_run, "keep_weights", lambda _: None)
    context = Context(place, lambda _: None, Patience(told.append))
    first = run_single(experiment, 0, context)
    assert not first.again
    again = run_single(experiment, 0, context)
    assert (again.again, again.run_id, told) == (True, first.run_id, [])
    monkeypatch.setattr(warm_start, "VERSION", 0)
    assert run_single(experiment, 0, context).run_id == first.run_id
    assert told[0].startswith("it was made from other inputs than there are now: the start (")
