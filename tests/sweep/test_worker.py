"""What a worker does with trials that raise, diverge, run out of memory or are pruned."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.config.schema import Experiment
from workbench.sweep import trial, worker
from workbench.sweep.grid import expand
from workbench.sweep.job import Job, Place, new_job
from workbench.sweep.study import Ledger
from workbench.tracking.runs import Tracker
from workbench.tracking.store import open_store
from workbench.training.loop import Diverged


@pytest.fixture
def place(cache_dir: Path, prepared: object, tmp_path: Path) -> Place:
    (tmp_path / "cache").symlink_to(cache_dir)
    return Place(tmp_path, None, "w")


@pytest.fixture
def job(experiment: Experiment, place: Place) -> Job:
    uri = open_store(place.workspace)
    parent, _ = Tracker(uri, place.workspace).start("s", {"study": "s", "kind": "sweep"}, {}, {})
    small = experiment.model_copy(
        update={"arms": experiment.arms[:2], "seeds": experiment.seeds.model_copy(update={"count": 1})}
    )
    made = new_job("s", small, parent, uri)
    made.publish(Ledger.of_workspace(place.workspace, "s"))
    return made


def work(place: Place) -> list[Any]:
    events: list[Any] = []
    worker._work(place, "s", events.append, threading.Event(), threading.Event())
    return events


def test_a_trial_that_raises_is_retried_then_left_and_the_others_go_on(
    job: Job, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []
    real = trial.train
    first, second = expand(job.experiment)

    def train(settings: Any, *rest: Any) -> Any:
        attempts.append(str(settings.objectives.itm.hard_ratio))
        if settings == first.settings:
            raise ValueError("boom")
        return real(settings, *rest)

    monkeypatch.setattr(trial, "train", train)
    events = work(place)
    assert attempts.count("0.0") == job.retries + 1
    ledger = Ledger.of_workspace(place.workspace, "s")
    assert list(ledger.endings()) == [second.key]
    assert ledger.failures(first) == ["ValueError: boom"] * (job.retries + 1)
    run = Tracker(job.uri, place.workspace).find({"config_hash": first.key})
    assert run is not None
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "ValueError: boom")
    failure = place.workspace / "artifacts" / run.info.run_id / "artifacts" / "failure.txt"
    assert "ValueError: boom" in failure.read_text()
    assert {kind for kind, _ in events} >= {"failed", "ended"}
    assert (place.workspace / "checkpoints" / f"{second.key}.safetensors").exists()
    assert not list((place.workspace / "checkpoints").glob("*.pt*"))
    assert not list((place.workspace / "spool").iterdir())


def test_divergence_is_an_outcome_and_memory_halves_the_micro_batch(
    job: Job, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = trial.train, []
    first, second = expand(job.experiment)

    def train(settings: Any, *rest: Any) -> Any:
        if settings.objectives.itm.hard_ratio == 0.0:
            raise Diverged(5)
        asked.append(settings.optimisation.micro_batches)
        if settings.optimisation.micro_batches == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(settings, *rest)

    monkeypatch.setattr(trial, "train", train)
    events = work(place)
    endings = Ledger.of_workspace(place.workspace, "s").endings()
    assert [endings[cell.key].outcome for cell in (first, second)] == ["diverged", "finished"]
    assert asked == [1, 2]
    assert any("2 micro-batches" in told.get("message", "") for kind, told in events if kind == "say")
    runs = [Tracker(job.uri, place.workspace).find({"config_hash": cell.key}) for cell in (first, second)]
    assert all(run is not None and run.info.status == "FINISHED" for run in runs)
    assert runs[0] is not None
    assert runs[0].data.tags["diverged_at"] == "5"
    assert runs[1] is not None
    assert runs[1].data.tags["micro_batches"] == "2"


def test_a_stopped_worker_gives_its_trial_back(job: Job, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = threading.Event()
    events: list[Any] = []

    def emit(event: Any) -> None:
        events.append(event)
        if event[0] == "step" and event[1]["step"] == 4:
            stop.set()

    worker._work(place, "s", emit, stop, threading.Event())
    ledger = Ledger.of_workspace(place.workspace, "s")
    assert ledger.endings() == {}
    assert ledger.running() == []
    first = expand(job.experiment)[0]
    run = Tracker(job.uri, place.workspace).find({"config_hash": first.key})
    assert run is not None
    assert run.info.status == "KILLED"
    assert (place.workspace / "checkpoints" / f"{first.key}.pt").exists()
    work(place)
    assert {tuple(ending.curve) for ending in ledger.endings().values()} == {(3, 6)}
    assert len(ledger.endings()) == 2


def test_a_further_level_of_a_finished_grid_of_30_runs_exactly_its_cells(
    experiment: Experiment, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[float, int]] = []

    def train(settings: Any, seed: int, prepared: Any, checkpoint: Path, hooks: Any, *_: object) -> dict[str, float]:
        ran.append((settings.objectives.itm.hard_ratio, seed))
        hooks.log({experiment.primary: 0.5}, 6)
        return {experiment.primary: 0.5}

    monkeypatch.setattr(trial, "train", train)
    monkeypatch.setattr(trial, "keep_weights", lambda _: None)
    name = "objectives.itm.hard_ratio"
    uri = open_store(place.workspace)
    parent, _ = Tracker(uri, place.workspace).start("s", {"study": "s", "kind": "sweep"}, {}, {})
    ledger = Ledger.of_workspace(place.workspace, "s")

    def run(levels: list[float]) -> list[tuple[float, int]]:
        ran.clear()
        grid = experiment.model_copy(
            update={
                "factors": {name: levels},
                "arms": [{name: level} for level in levels],
                "seeds": experiment.seeds.model_copy(update={"count": 6}),
            }
        )
        new_job("s", grid, parent, uri).publish(ledger)
        work(place)
        return sorted(ran)

    grid = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert run(grid) == sorted((level, seed) for level in grid for seed in range(6))
    assert run([*grid, 0.9]) == [(0.9, seed) for seed in range(6)]
    assert run(grid[:2]) == []
    assert len(ledger.endings()) == 36
