"""Sweeps with known values, for tests."""

import base64
import io
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from mlflow.entities import Metric
from PIL import Image

from analysis.runs import METRICS, TRIALS, Runs
from workbench.config.schema import Target
from workbench.record import EXAMPLES, FILE, VERSION, SweepRecord, TrialTags
from workbench.tracking.runs import Tracker
from workbench.tracking.store import ensure_store


def toy_runs(arms: dict[str, dict[str, Any]], seeds: int, value: Callable[[dict[str, Any], int], float]) -> Runs:
    """A sweep whose arms have these factor levels, the baseline first; val/itm_auc ends at `value(levels, seed)`."""
    cells = [(arm, levels, seed) for arm, levels in arms.items() for seed in range(seeds)]
    trials = [(f"{arm}{seed}", "n", "FINISHED", arm, seed, "finished") for arm, _, seed in cells]
    rows = [(f"{arm}{seed}", "val/itm_auc", 9, value(levels, seed)) for arm, levels, seed in cells]
    about = SweepRecord(arms=list(arms), baseline_arm=next(iter(arms)), arm_values=arms)
    frames = pl.DataFrame(trials, schema=TRIALS, orient="row"), pl.DataFrame(rows, schema=METRICS, orient="row")
    return Runs("r", "r", about, *frames)


def sweep_of(values: dict[str, list[float | str | None]], metric: str = "val/itm_auc", **about: Any) -> Runs:
    """A sweep with these final values per arm and seed, the baseline first; None: the trial is missing, "diverged": it
    diverged."""
    cells = [(arm, seed, value) for arm, row in values.items() for seed, value in enumerate(row) if value is not None]
    trials = [
        (f"{arm}{seed}", "n", "FINISHED", arm, seed, "diverged" if value == "diverged" else "finished")
        for arm, seed, value in cells
    ]
    rows = [(f"{arm}{seed}", metric, 9, value) for arm, seed, value in cells if not isinstance(value, str)]
    record = SweepRecord.model_validate(
        {"arms": list(values), "baseline_arm": next(iter(values)), "primary": metric} | about
    )
    frames = pl.DataFrame(trials, schema=TRIALS, orient="row"), pl.DataFrame(rows, schema=METRICS, orient="row")
    return Runs("r", "r", record, *frames)


def curves_of(curves: dict[str, list[Any]], at: Any, target: float | str, diverged: tuple[str, ...] = ()) -> Runs:
    """A sweep whose trials have these curves of val/itm_auc, evaluated `at` steps; `diverged` names trials as arm and
    seed, `fast3`. A curve that is shorter ends earlier."""
    cells = [(arm, seed, curve) for arm, rows in curves.items() for seed, curve in enumerate(rows)]
    trials = [
        (f"{arm}{seed}", "n", "FINISHED", arm, seed, "diverged" if f"{arm}{seed}" in diverged else "finished")
        for arm, seed, _ in cells
    ]
    rows = [
        (f"{arm}{seed}", "val/itm_auc", int(step), float(value))
        for arm, seed, curve in cells
        for step, value in zip(at, curve, strict=False)
    ]
    record = SweepRecord.model_validate(
        {"arms": list(curves), "baseline_arm": next(iter(curves)), "target": {"metric": "val/itm_auc", "value": target}}
    )
    frames = pl.DataFrame(trials, schema=TRIALS, orient="row"), pl.DataFrame(rows, schema=METRICS, orient="row")
    return Runs("r", "r", record, *frames)


def toy_experiment(arms: int) -> SweepRecord:
    """The record of a sweep over one factor."""
    labels = [f"hard_ratio={place / arms:.3g}" for place in range(arms)]
    levels = {label: {"objectives.itm.hard_ratio": place / arms} for place, label in enumerate(labels)}
    return SweepRecord(
        version=VERSION,
        question="Which ratio?",
        arms=labels,
        baseline_arm=labels[0],
        arm_values=levels,
        primary="val/foil_accuracy",
        target=Target(metric="val/itm_auc", value=0.8),
        settings={"data": {"source": "scenes"}},
    )


def toy_metrics(arms: int, seeds: int, points: int = 8) -> list[tuple[str, str, int, str, int, float]]:
    """(arm, seed's run, seed, metric, step, value): all that a trial on the embedded world logs, for each trial."""
    rows: list[tuple[str, str, int, str, int, float]] = []
    kinds = ("replace_colour", "replace_object", "swap_arguments")
    for place, arm in enumerate(toy_experiment(arms).arms):
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
            for name in ("foil_accuracy", "itm_auc"):
                put(f"test/{name}", last, risen + float(rng.normal(0, 0.01)))
    return rows


def toy_examples(arm: str, seed: int, pairs: int = 14) -> dict[str, Any]:
    """What a trial logs of a few held-out pairs; most are matched better than their foils."""
    rng = np.random.default_rng([*arm.encode(), seed])
    captions = {"caption": "a red cube left of a blue ball", "other": "a blue cube left of a red ball"}
    return {
        "split": "test",
        "pairs": [
            captions
            | {"row": row, "kind": "swap_colour", "image": toy_image(row)}
            | {"match": float(rng.uniform(0.4, 1.0)), "other_match": float(rng.uniform(0.0, 0.6))}
            for row in range(pairs)
        ],
        "method": {
            "caption": captions["caption"],
            "image": toy_image(0),
            "masked": [{"word": "red", "label": [["red", 0.8], ["blue", 0.2]], "model": [["red", 0.6]]}],
            "written": ["a green cube left of a blue ball"],
        },
    }


@cache
def toy_image(row: int) -> str:
    """A small image as a data URI, another one for each row."""
    image = Image.new("RGB", (16, 16), (230, 230, 230))
    image.paste((200, 40, 40), (2, 6, 7, 11))
    image.paste((40, 60, 10 * (row % 20)), (9, 6, 14, 11))
    held = io.BytesIO()
    image.save(held, "PNG")
    return "data:image/png;base64," + base64.b64encode(held.getvalue()).decode()


def toy_tags(arm: str, seed: int, study: str = "toy") -> TrialTags:
    """The tags of a trial that is finished."""
    return TrialTags(study=study, seed=seed, cell=arm, arm=arm, pairs={"train": 2048, "val": 512, "test": 512})


def toy_findings_runs(arms: int = 3, seeds: int = 4) -> Runs:
    """The same as frames, without a store."""
    rows = toy_metrics(arms, seeds)
    trials = {run: (run, f"{arm} · seed {seed}", "FINISHED", arm, seed, "finished") for arm, run, seed, *_ in rows}
    metrics = [(run, name, step, value) for _, run, _, name, step, value in rows]
    frames = (
        pl.DataFrame(list(trials.values()), schema=TRIALS, orient="row"),
        pl.DataFrame(metrics, schema=METRICS, orient="row"),
    )
    examples = {run: toy_examples(arm, seed) for run, _, _, arm, seed, _ in trials.values()}
    tags = {run: toy_tags(arm, seed) for run, _, _, arm, seed, _ in trials.values()}
    return Runs("r", "toy", toy_experiment(arms), *frames, examples=examples, tags=tags)


def toy_store(workspace: Path, arms: int, seeds: int, name: str = "toy") -> tuple[str, str]:
    """A local store that holds it; its address and the sweep's run."""
    uri = ensure_store(workspace)
    tracker = Tracker(uri, workspace)
    parent, _ = tracker.start(name, {"study": name, "kind": "sweep"}, {}, {})
    tracker.attach(parent, toy_experiment(arms).model_dump(mode="json"), FILE)
    logged: dict[tuple[str, int], list[Metric]] = {}
    for arm, _, seed, metric, step, value in toy_metrics(arms, seeds):
        logged.setdefault((arm, seed), []).append(Metric(metric, value, step, step))
    for (arm, seed), metrics in logged.items():
        identity = {"study": name, "cell": arm, "seed": str(seed)}
        run_id, _ = tracker.start(f"{arm} · seed {seed}", identity, toy_tags(arm, seed, name).written(), {}, parent)
        tracker.client.log_batch(run_id, metrics=metrics)
        tracker.attach(run_id, toy_examples(arm, seed), EXAMPLES)
        tracker.finish(run_id)
    tracker.finish(parent)
    return uri, parent
