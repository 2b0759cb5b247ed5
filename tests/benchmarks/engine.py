"""What the sweep engine costs a trial beside its training: against plain Optuna and MLflow calls, and what logging
takes."""

import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import optuna
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.benchmarks.figures import WALL, Figure, figure, ratio, seconds
from tests.benchmarks.studies import begun, over_ratios
from tests.benchmarks.training import BASE
from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.events import Event, TrialEnded
from workbench.outage import Patience
from workbench.stop import Stop
from workbench.sweep.worker import Worker
from workbench.tracking.log import RunLog
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.training.loop import Hooks
from workbench.training.prepare import Prepared, prepare
from workbench.training.pretrain import optimiser_for, starting_model, train
from workbench.training.state import TrainState, save
from workbench.trial import run as trial

TRIALS = 20
LOGGED = {f"val/m{k}": float(k) for k in range(40)}  # what a trial logs at each of its evaluations
EVALUATIONS = 8
SETTINGS = apply(
    BASE,
    {
        "optimisation.steps": 60,
        "evaluation.every": 20,
        "evaluation.robustness_pairs": 0,
        "warm_start.steps": 20,
    },
)


def measure(repeats: int, home: Path) -> list[Figure]:
    prepared = prepare(SETTINGS, home / "cache", lambda *_: None)
    ours, plain, share = [], [], []
    for number in range(repeats):
        place = home / str(number)
        place.mkdir()
        (place / "cache").symlink_to(home / "cache")
        ours.append(in_the_engine(place, SETTINGS, prepared))
        plain.append(in_plain_calls(place, SETTINGS))
        share.append(logging_share(place, SETTINGS, prepared))
    name = "a trial without its training"
    more = f"{WALL}; the engine also keeps weights, provenance, a lease and a spool"
    return [
        ratio(f"{name}, the engine / plain Optuna and MLflow calls", np.array(ours), np.array(plain), more),
        figure("... the engine", "s", ours, f"{WALL}, median of {TRIALS}"),
        figure("... plain calls", "s", plain, f"{WALL}, median of {TRIALS}"),
        figure(f"share of a trial that logging takes, {SETTINGS.optimisation.steps} steps", "", share, WALL),
    ]


def in_the_engine(home: Path, settings: Settings, prepared: Prepared) -> float:
    """Median seconds of a trial that does everything but train."""
    place = begun(home, over_ratios(settings, TRIALS))
    starting, ends = starting_model(settings, 0, prepared), []

    def nothing(cell: Settings, seed: int, prepared: Prepared, checkpoint: Path, hooks: Hooks, *_: object) -> object:
        save(TrainState(starting, optimiser_for(starting, cell)), checkpoint)
        for evaluation in range(EVALUATIONS):
            hooks.progress(evaluation, {"loss": 1.0})
            hooks.log(LOGGED | {"val/itm_auc": 0.5}, evaluation)
        return LOGGED | {"val/itm_auc": 0.5}

    def heard(event: Event) -> None:
        if isinstance(event, TrialEnded):
            ends.append(time.perf_counter())

    with patch.object(trial, "train", nothing):
        Worker(place, "bench", heard, Stop()).work()
    return float(np.median(np.diff(ends)))


def in_plain_calls(home: Path, settings: Settings) -> float:
    """Median seconds of the calls that a plain script would make for the same trial."""
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(home / "plain.log"))))
    client = MlflowClient(ensure_store(home))
    experiment_id = client.create_experiment("plain", artifact_location=(home / "artifacts").as_uri())

    def plain() -> None:
        asked = study.ask()
        run_id = client.create_run(experiment_id).info.run_id
        client.log_batch(run_id, params=[Param("ratio", str(asked.suggest_float("ratio", 0, 1)))])
        client.log_dict(run_id, settings.model_dump(), "config.json")
        for evaluation in range(EVALUATIONS):
            now = int(time.time() * 1000)
            client.log_batch(run_id, metrics=[Metric(n, v, now, evaluation) for n, v in LOGGED.items()])
        client.set_terminated(run_id)
        study.tell(asked, 0.5)

    plain()
    return float(np.median([seconds(plain) for _ in range(TRIALS)]))


def logging_share(home: Path, settings: Settings, prepared: Prepared) -> float:
    """Seconds that training waits for logging, over seconds of training, validations and logging."""
    tracker = Tracker(ensure_store(home), home)
    run_id, _ = tracker.start("r", {"study": "share"}, {}, {})
    sent = RunLog(tracker, run_id, home / "share.jsonl", False, Patience(print))
    spent: list[float] = []

    def log(metrics: dict[str, float], step: int) -> None:
        spent.append(seconds(partial(sent.log, metrics, step)))

    whole = seconds(lambda: train(settings, 0, prepared, home / "share.pt", Hooks(log, lambda *_: None)))
    sent.close()
    return sum(spent) / whole
