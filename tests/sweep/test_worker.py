"""What a worker does with trials that raise, diverge, run out of memory or are pruned."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from workbench.config.schema import Experiment, Search
from workbench.events import Said, Stepped, TrialEnded, TrialFailed
from workbench.record import EXAMPLES, read_tags
from workbench.stop import Stop
from workbench.sweep import search, worker
from workbench.sweep.grid import expand
from workbench.sweep.search import planned
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.training import pretrain
from workbench.training.loop import Diverged
from workbench.training.state import read
from workbench.trial import run as trial_run
from workbench.trial.checkpoints import checkpoint_of
from workbench.trial.job import Job, WorkerSpec, new_job
from workbench.trial.ledger import Ledger


@pytest.fixture
def job(experiment: Experiment, place: WorkerSpec) -> Job:
    uri = ensure_store(place.workspace)
    parent, _ = Tracker(uri, place.workspace).start("s", {"study": "s", "kind": "sweep"}, {}, {})
    small = experiment.model_copy(
        update={"arms": experiment.arms[:2], "seeds": experiment.seeds.model_copy(update={"count": 1})}
    )
    job = new_job("s", small, parent, uri)
    job.publish(Ledger.of_workspace(place.workspace, "s"))
    return job


def work(place: WorkerSpec, study: str = "s") -> list[Any]:
    events: list[Any] = []
    worker.Worker(place, study, events.append, Stop()).work()
    return events


def test_a_trial_that_raises_is_retried_then_left_and_the_others_go_on(
    job: Job, place: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []
    real = pretrain.train
    first, second = expand(job.experiment)

    def train(settings: Any, *rest: Any) -> Any:
        attempts.append(str(settings.objectives.itm.hard_ratio))
        if settings == first.settings:
            raise ValueError("boom")
        return real(settings, *rest)

    monkeypatch.setattr(trial_run, "train", train)
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
    assert {type(event) for event in events} >= {TrialFailed, TrialEnded}
    assert checkpoint_of(place.workspace, "s", second.key).with_suffix(".safetensors").exists()
    assert not list((place.workspace / "checkpoints").rglob("*.pt*"))
    assert not list((place.workspace / "spool").iterdir())


@pytest.mark.parametrize("late", [600.0, -600.0])
def test_the_clock_of_a_worker_does_not_count(
    job: Job, place: WorkerSpec, monkeypatch: pytest.MonkeyPatch, late: float
) -> None:
    attempts, stop, now = Counter[str](), Stop(), time.time

    def train(settings: Any, *_: object) -> None:
        attempts[settings.model_dump_json()] += 1
        if attempts.total() > 10:
            stop.ask()
        raise ValueError("boom")

    monkeypatch.setattr(trial_run, "train", train)
    monkeypatch.setattr(time, "time", lambda: now() - late)
    worker.Worker(place, "s", lambda _: None, stop).work()
    assert set(attempts.values()) == {job.retries + 1}


def test_divergence_is_an_outcome_and_memory_halves_the_micro_batch(
    job: Job, place: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = pretrain.train, list[int]()
    first, second = expand(job.experiment)

    def train(settings: Any, *rest: Any) -> Any:
        if settings.objectives.itm.hard_ratio == 0.0:
            raise Diverged(5)
        asked.append(settings.optimisation.micro_batches)
        if settings.optimisation.micro_batches == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(settings, *rest)

    monkeypatch.setattr(trial_run, "train", train)
    events = work(place)
    endings = Ledger.of_workspace(place.workspace, "s").endings()
    assert [endings[cell.key].outcome for cell in (first, second)] == ["diverged", "finished"]
    assert asked == [1, 2]
    assert any("2 micro-batches" in event.message for event in events if isinstance(event, Said))
    runs = [Tracker(job.uri, place.workspace).find({"config_hash": cell.key}) for cell in (first, second)]
    assert all(run is not None and run.info.status == "FINISHED" for run in runs)
    assert runs[0] is not None
    assert runs[0].data.tags["diverged_at"] == "5"
    assert runs[1] is not None
    assert runs[1].data.tags["micro_batches"] == "2"


def test_a_trial_tells_what_it_is_and_what_it_made_of_a_few_pairs(job: Job, place: WorkerSpec) -> None:
    work(place)
    tracker = Tracker(job.uri, place.workspace)
    for cell in expand(job.experiment):
        run = tracker.find({"config_hash": cell.key})
        assert run is not None
        tags = read_tags(run.data.tags)
        assert tags is not None
        assert (tags.cell, tags.arm, tags.seed, tags.kind, tags.outcome) == (
            cell.label,
            cell.arm,
            0,
            "trial",
            "finished",
        )
        assert tags.pairs == {"train": 256, "val": 48, "test": 48}
        assert tags.study == "s"
        examples = tracker.attached(run.info.run_id, EXAMPLES)
        assert (examples["split"], len(examples["pairs"])) == ("test", 48)
        ending = Ledger.of_workspace(place.workspace, "s").endings()[cell.key]
        assert job.experiment.primary == "test/foil_accuracy"
        assert ending.value == run.data.metrics["test/foil_accuracy"]
        assert ending.curve[6] == run.data.metrics["val/foil_accuracy"]


def test_a_search_is_scored_and_pruned_on_the_validation_split(
    experiment: Experiment, place: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[int, float]] = []

    def train(settings: Any, seed: int, prepared: Any, checkpoint: Path, hooks: Any, *_: object) -> dict[str, float]:
        hooks.log({"val/foil_accuracy": 0.25}, 3)
        assert not hooks.prune()
        final = {"val/foil_accuracy": 0.5, "test/foil_accuracy": 0.75}
        hooks.log(final, 6)
        return final

    def pruned_by(job: Any, cell: Any, endings: Any, curve: dict[int, float]) -> bool:
        seen.append(dict(curve))
        return False

    monkeypatch.setattr(trial_run, "train", train)
    monkeypatch.setattr(search, "pruned_by", pruned_by)
    monkeypatch.setattr(trial_run, "keep_weights", lambda _: None)
    uri = ensure_store(place.workspace)
    parent, _ = Tracker(uri, place.workspace).start("s", {"study": "s", "kind": "sweep"}, {}, {})
    searched = experiment.model_copy(
        update={
            "arms": experiment.arms[:2],
            "seeds": experiment.seeds.model_copy(update={"count": 1}),
            "search": Search.model_validate({"settings": {"objectives.mlm.mask_ratio": [0.2, 0.3]}, "trials": 2}),
        }
    )
    ledger = Ledger.of_workspace(place.workspace, "s")
    new_job("s", searched, parent, uri).publish(ledger)
    work(place)
    cells = planned(searched, ledger.endings()).cells
    values = {(cell.searching is not None, ledger.endings()[cell.key].value) for cell in cells}
    assert values == {(True, 0.5), (False, 0.75)}
    assert {ending.curve[6] for ending in ledger.endings().values()} == {0.5}
    assert all(curve == {3: 0.25} for curve in seen)
    runs = [Tracker(uri, place.workspace).find({"config_hash": cell.key}) for cell in cells]
    tags = [read_tags(run.data.tags) for run in runs if run is not None]
    assert [(told.arm, told.cell, told.kind) for told in tags if told] == [
        (cell.arm, cell.label, "search" if cell.searching is not None else "trial") for cell in cells
    ]


def test_a_stopped_worker_gives_its_trial_back(job: Job, place: WorkerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = Stop()
    events: list[Any] = []

    def emit(event: Any) -> None:
        events.append(event)
        if isinstance(event, Stepped) and event.step == 4:
            stop.ask()

    worker.Worker(place, "s", emit, stop).work()
    ledger = Ledger.of_workspace(place.workspace, "s")
    assert ledger.endings() == {}
    assert ledger.running() == []
    first = expand(job.experiment)[0]
    run = Tracker(job.uri, place.workspace).find({"config_hash": first.key})
    assert run is not None
    assert run.info.status == "KILLED"
    assert checkpoint_of(place.workspace, "s", first.key).exists()
    work(place)
    assert {tuple(ending.curve) for ending in ledger.endings().values()} == {(3, 6)}
    assert len(ledger.endings()) == 2


def test_two_studies_with_the_same_cell_do_not_touch_each_others_state(job: Job, place: WorkerSpec) -> None:
    stop = Stop()

    def emit(event: Any) -> None:
        if isinstance(event, Stepped) and event.step == 4:
            stop.ask()

    worker.Worker(place, "s", emit, stop).work()
    other = Ledger.of_workspace(place.workspace, "other")
    replace(job, study="other").publish(other)
    work(place, "other")
    assert {tuple(ending.curve) for ending in other.endings().values()} == {(3, 6)}
    first = expand(job.experiment)[0]
    runs = [
        Tracker(job.uri, place.workspace).find({"study": study, "config_hash": first.key}) for study in ("s", "other")
    ]
    assert [run.info.status for run in runs if run] == ["KILLED", "FINISHED"]
    assert read(checkpoint_of(place.workspace, "s", first.key))["rest"]["step"] == 4
    said = [event.message for event in work(place) if isinstance(event, Said)]
    assert not said
    endings = Ledger.of_workspace(place.workspace, "s").endings()
    assert {key: ending.curve for key, ending in endings.items()} == {
        key: ending.curve for key, ending in other.endings().items()
    }


def test_a_further_level_of_a_finished_grid_of_30_runs_exactly_its_cells(
    experiment: Experiment, place: WorkerSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[float, int]] = []

    def train(settings: Any, seed: int, prepared: Any, checkpoint: Path, hooks: Any, *_: object) -> dict[str, float]:
        ran.append((settings.objectives.itm.hard_ratio, seed))
        hooks.log({experiment.primary: 0.5}, 6)
        return {experiment.primary: 0.5}

    monkeypatch.setattr(trial_run, "train", train)
    monkeypatch.setattr(trial_run, "keep_weights", lambda _: None)
    name = "objectives.itm.hard_ratio"
    uri = ensure_store(place.workspace)
    parent, _ = Tracker(uri, place.workspace).start("s", {"study": "s", "kind": "sweep"}, {}, {})
    ledger = Ledger.of_workspace(place.workspace, "s")

    def grown(levels: list[float]) -> list[tuple[float, int]]:
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
    assert grown(grid) == sorted((level, seed) for level in grid for seed in range(6))
    assert grown([*grid, 0.9]) == [(0.9, seed) for seed in range(6)]
    assert grown(grid[:2]) == []
    assert len(ledger.endings()) == 36
