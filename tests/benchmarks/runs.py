"""How runs are read: the report's reader against MLflow's client, and many runs at once."""

import sqlite3
from pathlib import Path

from analysis.runs import read_runs
from tests.benchmarks.figures import CPU, Figure, by_turns, figure, ratio
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store
from workbench.workspace import Workspace

TRIALS, METRICS, POINTS = 1000, 20, 200


def measure(repeats: int, home: Path) -> list[Figure]:
    return [*by_client(repeats, home / "few"), *many(repeats, home / "many")]


def by_client(repeats: int, home: Path) -> list[Figure]:
    """5 runs x 20 metrics x 50 points."""
    home.mkdir()
    uri = ensure_store(home)
    tracker = Tracker(uri, home)
    parent, _ = tracker.start("bench", {"study": "bench"}, {}, {})
    for seed in range(5):
        run, _ = tracker.start(f"r{seed}", {"study": "bench", "cell": "a", "seed": str(seed)}, {}, {}, parent)
        for at in range(50):
            tracker.log(run, {f"val/m{k}": float(k) for k in range(20)}, at)
        tracker.finish(run)

    def through_client() -> None:
        for run in tracker.client.search_runs([tracker.experiment_id()], f"tags.`mlflow.parentRunId` = '{parent}'"):
            for name in run.data.metrics:
                tracker.client.get_metric_history(run.info.run_id, name)

    times = by_turns({"client": through_client, "reader": lambda: read_runs(uri, parent)}, repeats)
    return [ratio("5,000 metric values, MLflow's client / the report's reader", times["client"], times["reader"])]


def many(repeats: int, home: Path) -> list[Figure]:
    """A whole sweep into frames."""
    home.mkdir()
    (parent,) = filled(home, 1, TRIALS, METRICS, POINTS)
    uri = ensure_store(home)

    def read() -> None:
        assert read_runs(uri, parent).metrics.height == TRIALS * METRICS * POINTS

    times = by_turns({"read": read}, repeats)
    return [figure(f"reading {TRIALS:,} runs x {METRICS} metrics x {POINTS} points", "s", times["read"], CPU)]


def filled(home: Path, sweeps: int, trials: int, metrics: int, points: int) -> list[str]:
    """The runs of sweeps with so many finished trials each, written past MLflow, which would take long."""
    tracker = Tracker(ensure_store(home), home)
    parents = [tracker.start(f"s{k}", {"study": f"s{k}", "kind": "sweep"}, {}, {})[0] for k in range(sweeps)]
    for parent in parents:
        tracker.finish(parent)
    experiment = tracker.experiment_id()
    runs = [(f"{k:032x}", k, parent) for k, parent in enumerate(parents * trials)]
    with sqlite3.connect(Workspace(home).database) as store:
        columns = "run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id"
        store.executemany(
            f"INSERT INTO runs ({columns}) VALUES (?, 'r', 'FINISHED', 1, 2, 'active', '', {experiment})",
            [(run,) for run, *_ in runs],
        )
        tags = [
            (key, value, run)
            for run, place, parent in runs
            for key, value in (
                ("cell", f"arm {place % 20}"),
                ("seed", str(place // 20)),
                ("mlflow.parentRunId", parent),
            )
        ]
        store.executemany("INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)", tags)
        store.executemany(
            "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, 0)",
            (
                (f"val/m{m}", m + 0.001 * step, 1000 * step, run, step)
                for run, *_ in runs
                for m in range(metrics)
                for step in range(points)
            ),
        )
    return parents
