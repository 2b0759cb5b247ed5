"""What a worker does with a trial that raises."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from workbench.config.schema import Experiment
from workbench.sweep import trial, worker
from workbench.sweep.grid import expand
from workbench.sweep.study import Ledger
from workbench.sweep.worker import RETRIES, Job
from workbench.tracking.runs import Tracker
from workbench.tracking.store import open_store


@pytest.fixture
def job(experiment: Experiment, cache_dir: Path, prepared: object, tmp_path: Path) -> Job:
    (tmp_path / "cache").symlink_to(cache_dir)
    uri = open_store(tmp_path)
    parent = Tracker(uri, tmp_path).start("s", {"study": "s", "kind": "sweep"}, {})
    return Job(tmp_path, "s", parent, uri, expand(experiment)[:2], 1, 1, experiment.primary, time.time())


def test_a_trial_that_raises_is_retried_then_left_and_the_others_go_on(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []
    real = trial.train

    def train(settings: Any, *rest: Any) -> Any:
        attempts.append(str(settings.objectives.itm.hard_ratio))
        if settings == job.cells[0].settings:
            raise ValueError("boom")
        return real(settings, *rest)

    monkeypatch.setattr(trial, "train", train)
    events: list[Any] = []
    worker._work(job, 0, events.append, threading.Event(), threading.Event())
    assert attempts.count("0.0") == RETRIES + 1
    ledger = Ledger(job.workspace / "studies", "s")
    assert list(ledger.finished()) == [job.cells[1].key]
    assert [t.user_attrs["reason"] for t in ledger.failures(job.cells[0])] == ["ValueError: boom"] * (RETRIES + 1)
    run = Tracker(job.uri, job.workspace).find({"config_hash": job.cells[0].key})
    assert run is not None
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "ValueError: boom")
    assert {kind for kind, _ in events} >= {"failed", "done"}
    assert (job.workspace / "checkpoints" / f"{job.cells[1].key}.safetensors").exists()
    assert not (job.workspace / "checkpoints" / f"{job.cells[1].key}.pt").exists()
