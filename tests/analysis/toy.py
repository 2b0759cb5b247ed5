"""Sweeps with known values, for tests."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from mlflow.entities import Metric

from analysis.runs import METRICS, TRIALS, Runs
from workbench.tracking.runs import Tracker
from workbench.tracking.store import open_store


def toy_runs(arms: dict[str, dict[str, Any]], seeds: int, value: Callable[[dict[str, Any], int], float]) -> Runs:
    """A sweep whose arms have these factor levels, the baseline first; val/itm_auc ends at `value(levels, seed)`."""
    each = [(arm, levels, seed) for arm, levels in arms.items() for seed in range(seeds)]
    trials = [(f"{arm}{seed}", "n", "FINISHED", arm, seed) for arm, _, seed in each]
    rows = [(f"{arm}{seed}", "val/itm_auc", 9, value(levels, seed)) for arm, levels, seed in each]
    about = {"arms": list(arms), "baseline_arm": next(iter(arms)), "arm_values": arms}
    frames = pl.DataFrame(trials, schema=TRIALS, orient="row"), pl.DataFrame(rows, schema=METRICS, orient="row")
    return Runs("r", "r", about, *frames)


def toy_experiment(arms: int) -> dict[str, Any]:
    labels = [f"hard_ratio={place / arms:.3g}" for place in range(arms)]
    levels = {label: {"objectives.itm.hard_ratio": place / arms} for place, label in enumerate(labels)}
    return {
        "question": "Which ratio?",
        "arms": labels,
        "baseline_arm": labels[0],
        "arm_values": levels,
        "primary": "val/foil_accuracy",
        "target": {"metric": "val/itm_auc", "value": 0.8},
        "settings": {"data": {"source": "scenes"}},
    }


def toy_metrics(arms: int, seeds: int, points: int = 8) -> list[tuple[str, str, int, str, int, float]]:
    """(arm, seed's run, seed, metric, step, value): all that a trial on the embedded world logs, for each trial."""
    rows: list[tuple[str, str, int, str, int, float]] = []
    kinds = ("replace_colour", "replace_object", "swap_arguments")
    for place, arm in enumerate(toy_experiment(arms)["arms"]):
        for seed in range(seeds):
            rng = np.random.default_rng([place, seed])
            common = float(np.random.default_rng(seed).normal(0, 0.01))
            run = f"{place:02d}{seed:02d}"

            def put(name: str, step: int, value: float, run: str = run, arm: str = arm, seed: int = seed) -> None:
                rows.append((arm, run, seed, name, step, value))

            for point in range(1, points + 1):
                step = 50 * point
                risen = 0.5 + 0.45 * (1 - math.exp(-point / (2 + 0.3 * place))) + common
                for name in (
                    "itm_auc",
                    "foil_accuracy",
                    "mlm_accuracy",
                    "synonym_mass",
                    "itm_accuracy",
                    "paraphrase_match",
                ):
                    put(f"val/{name}", step, risen + float(rng.normal(0, 0.01)))
                for name in ("mlm_loss", "itm_ece", "mlm_ece", "generator_perplexity"):
                    put(f"val/{name}", step, 2 - risen + float(rng.normal(0, 0.01)))
                for kind in kinds:
                    put(f"val/foil/{kind}", step, risen + float(rng.normal(0, 0.01)))
                put("seconds", step, point * (4.0 + 0.2 * place))
                put("samples_seen", step, 64.0 * step)
            last = 50 * points
            for kind in kinds:
                put(f"compositional/scenes/{kind}", last, 0.8 - 0.02 * place + float(rng.normal(0, 0.01)))
                put(f"blank_image/scenes/{kind}", last, 0.5 + float(rng.normal(0, 0.01)))
            put("robustness/clean/0", last, 0.95 + common)
            for kind in ("contrast", "gaussian_blur", "occlusion", "word_dropping"):
                for severity in range(1, 6):
                    put(f"robustness/{kind}/{severity}", last, 0.95 + common - 0.01 * severity * (1 + place))
            for head in ("itm", "mlm"):
                for bucket in range(8, 15):
                    put(f"reliability/{head}/{bucket:02d}/confidence", last, (bucket + 0.5) / 15)
                    put(f"reliability/{head}/{bucket:02d}/accuracy", last, (bucket + 0.5) / 15 - 0.02 * place + common)
                    put(f"reliability/{head}/{bucket:02d}/share", last, 1 / 7)
            put("perf/device_seconds", last, points * (4.0 + 0.2 * place))
    return rows


def toy_findings_runs(arms: int = 3, seeds: int = 4) -> Runs:
    """The same as frames, without a store."""
    rows = toy_metrics(arms, seeds)
    trials = {run: (run, f"{arm} · seed {seed}", "FINISHED", arm, seed) for arm, run, seed, *_ in rows}
    metrics = [(run, name, step, value) for _, run, _, name, step, value in rows]
    frames = (
        pl.DataFrame(list(trials.values()), schema=TRIALS, orient="row"),
        pl.DataFrame(metrics, schema=METRICS, orient="row"),
    )
    return Runs("r", "toy", toy_experiment(arms), *frames)


def toy_store(workspace: Path, arms: int, seeds: int, name: str = "toy") -> tuple[str, str]:
    """A local store that holds it; its address and the sweep's run."""
    uri = open_store(workspace)
    tracker = Tracker(uri, workspace)
    parent, _ = tracker.start(name, {"study": name, "kind": "sweep"}, {}, {})
    tracker.attach(parent, toy_experiment(arms), "experiment.json")
    logged: dict[tuple[str, int], list[Metric]] = {}
    for arm, _, seed, metric, step, value in toy_metrics(arms, seeds):
        logged.setdefault((arm, seed), []).append(Metric(metric, value, step, step))
    for (arm, seed), metrics in logged.items():
        tags = {"study": name, "cell": arm, "seed": str(seed)}
        run_id, _ = tracker.start(f"{arm} · seed {seed}", tags, {}, {}, parent)
        tracker.client.log_batch(run_id, metrics=metrics)
        tracker.finish(run_id)
    tracker.finish(parent)
    return uri, parent
