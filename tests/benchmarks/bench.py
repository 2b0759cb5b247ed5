"""`just bench`: ratios, each measured within this one run on one thread. Prints a line a comparison."""

import math
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import torch
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from analysis.report import write_report
from analysis.runs import read_runs
from tests.analysis.toy import toy_store
from tests.benchmarks.storage import storage
from workbench.config.load import load_experiment
from workbench.config.schema import Experiment, Seeds, Settings
from workbench.config.settings import apply
from workbench.data.captions import read_source
from workbench.data.loader import Order
from workbench.data.prepare import prepare_source
from workbench.data.scenes import render, scenes
from workbench.data.store import Pictures
from workbench.evaluation.contract import evaluate
from workbench.events import Event, TrialEnded
from workbench.objectives.companions import make_companions
from workbench.objectives.plan import Weights
from workbench.objectives.step import losses
from workbench.outage import Patience
from workbench.stop import Stop
from workbench.sweep import worker
from workbench.tracking.log import RunLog
from workbench.tracking.runs import Tracker
from workbench.tracking.store import open_store
from workbench.training.batches import on_device, plan_batch, read_pictures
from workbench.training.distributed import speed_up
from workbench.training.loop import Hooks
from workbench.training.measures import Subject, at_the_end, examples, validation
from workbench.training.prepare import Prepared, prepare
from workbench.training.pretrain import optimiser_for, starting_model, train, train_mode
from workbench.training.state import TrainState, save
from workbench.trial import run as trial
from workbench.trial.job import Place, new_job
from workbench.trial.ledger import Ledger
from workbench.trial.quiet import quiet
from workbench.world import ALONE

EXPERIMENT = Path(__file__).resolve().parents[2] / "experiments" / "ablation_itm.yaml"


def seconds(action: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The median of `repeats` timings, after one that is not counted."""
    action()
    timings = []
    for _ in range(repeats):
        started = clock()
        action()
        timings.append(clock() - started)
    return float(np.median(timings))


def train_step(settings: Settings, prepared: Prepared) -> Callable[[], None]:
    model = starting_model(settings, 0, prepared)
    speed_up(model, settings)
    optimiser = optimiser_for(model, settings)
    corpus = prepared.corpus
    companions = make_companions(settings.objectives, model, corpus)

    order = Order(corpus.train.shares, settings.optimisation.batch_size, 0)

    def step() -> None:
        train_mode(model, settings)
        _, rows = order.at(0)
        (read,) = next(read_pictures(settings, prepared, order, ALONE, 0))
        made = losses(
            model,
            on_device(settings, prepared, read, rows, 0, 0),
            plan_batch(settings, prepared, companions, None, rows, 0, 0, 0, lambda _: Weights()).part(),
            settings.objectives,
            companions,
            alpha=0.0,
            length_buckets=settings.optimisation.length_buckets,
        )
        optimiser.zero_grad(set_to_none=True)
        made["loss"].backward()
        optimiser.step()

    return step


class Files(Dataset[Tensor]):
    """Picture files, read as torchvision's ImageFolder does with the usual transforms."""

    def __init__(self, paths: list[Path], side: int) -> None:
        self.paths = paths
        self.transform = v2.Compose([v2.PILToTensor(), v2.Resize(side, antialias=True), v2.CenterCrop(side)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        with Image.open(self.paths[place]) as opened:
            made: Tensor = self.transform(opened.convert("RGB"))
        return made


def corpora(home: Path) -> None:
    """512 JPEG files of COCO's usual size: prepared, and read back in random order."""
    files, side = home / "files", 256
    files.mkdir()
    rng = np.random.default_rng(0)
    for place in range(512):
        coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(files / f"{place}.jpg", quality=90)
        (files / f"{place}.txt").write_text(f"picture {place}")
    began = time.perf_counter()
    store = prepare_source(read_source(files), home / "stored", side, "crop", 1, lambda *_: None)
    preparing = time.perf_counter() - began
    order = rng.permutation(512)
    pictures = Pictures([store], [np.arange(512)], side)
    paths = sorted(files.glob("*.jpg"))

    def from_files() -> None:
        for _ in DataLoader(Files([paths[place] for place in order], side), batch_size=64):
            pass

    def from_store() -> None:
        for start in range(0, 512, 64):
            torch.from_numpy(pictures[order[start : start + 64]])

    slow, fast = seconds(from_files, 3), seconds(from_store, 5)
    print(f"512 JPEG files of 640 x 480, ImageFolder-style loader / prepared: {slow / fast:.0f}")
    print(f"... preparing them once / one pass of that loader: {preparing / slow:.2f}")
    print(f"({512 / slow:.0f} pictures/s from files, {512 / fast:.0f} prepared, {512 / preparing:.0f} while preparing)")


def reading(home: Path, trials: int = 1000, metrics: int = 20, points: int = 200) -> None:
    """Reading a sweep of 1,000 runs x 20 metrics x 200 points into frames."""
    uri = open_store(home)
    tracker = Tracker(uri, home)
    parent, _ = tracker.start("big", {"study": "big", "kind": "sweep"}, {}, {})
    experiment = tracker.experiment_id()
    ids = [f"{k:032x}" for k in range(trials)]
    with sqlite3.connect(home / "mlflow.db") as store:
        columns = "run_uuid, name, status, start_time, end_time, lifecycle_stage, artifact_uri, experiment_id"
        store.executemany(
            f"INSERT INTO runs ({columns}) VALUES (?, 'r', 'FINISHED', 1, 2, 'active', '', {experiment})",
            [(run,) for run in ids],
        )
        tags = [
            (key, value, run)
            for place, run in enumerate(ids)
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
                for run in ids
                for m in range(metrics)
                for step in range(points)
            ),
        )
    began = time.perf_counter()
    runs = read_runs(uri, parent)
    took = time.perf_counter() - began
    assert runs.metrics.height == trials * metrics * points
    print(f"reading {trials:,} runs x {metrics} metrics x {points} points: {took:.1f} s")


def reporting(home: Path) -> None:
    """The report of 100 runs, with all its figures: 5 arms x 20 seeds, and 20 arms x 5 seeds."""
    for arms, seeds in ((5, 20), (20, 5)):
        uri, run_id = toy_store(home / str(arms), arms, seeds)
        began = time.perf_counter()
        page = write_report(uri, run_id, home / f"report{arms}")
        took, size = time.perf_counter() - began, page.stat().st_size / 1e6
        print(f"report of {arms} arms x {seeds} seeds: {took:.1f} s, {size:.1f} MB")


TRIALS = 20
LOGGED = {f"val/m{k}": float(k) for k in range(40)}  # what a trial logs at each of its evaluations
EVALUATIONS = 8


def engine(home: Path, settings: Settings) -> None:
    """What a trial costs beside its training, in the engine and in plain Optuna and MLflow calls."""
    levels = [k / TRIALS for k in range(TRIALS)]
    name = "objectives.itm.hard_ratio"
    experiment = Experiment(
        name="bench",
        question="?",
        preset="tiny",
        settings=settings,
        factors={name: levels},
        arms=[{name: level} for level in levels],
        baseline={name: 0.0},
        seeds=Seeds(count=1),
    )
    uri = open_store(home)
    parent, _ = Tracker(uri, home).start("bench", {"study": "bench", "kind": "sweep"}, {}, {})
    new_job("bench", experiment, parent, uri).publish(Ledger.of_workspace(home, "bench"))
    ends: list[float] = []

    def nothing(cell: Settings, seed: int, prepared: Prepared, checkpoint: Path, hooks: Hooks, *_: object) -> object:
        save(TrainState(starting, optimiser_for(starting, cell)), checkpoint)
        for evaluation in range(EVALUATIONS):
            hooks.progress(evaluation, {"loss": 1.0})
            hooks.log(LOGGED | {"val/itm_auc": 0.5}, evaluation)
        return LOGGED | {"val/itm_auc": 0.5}

    def heard(event: Event) -> None:
        if isinstance(event, TrialEnded):
            ends.append(time.perf_counter())

    starting = starting_model(settings, 0, prepare(settings, home / "cache", lambda *_: None))
    real, trial.train = trial.train, nothing  # type: ignore[assignment]
    try:
        worker.Worker(Place(home, None, "bench"), "bench", heard, Stop()).work()
    finally:
        trial.train = real
    ours = float(np.median(np.diff(ends)))

    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(home / "plain.log"))))
    client = MlflowClient(uri)
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

    theirs = seconds(plain, TRIALS)
    print(f"a trial without its training, the sweep engine / plain Optuna and MLflow calls: {ours / theirs:.2f}")
    print(f"({ours:.3f} s and {theirs:.3f} s; the engine also keeps weights, provenance, a lease and a spool)")
    print(
        f"share of a trial's time that logging takes, {settings.optimisation.steps} steps: {logging_share(home, settings):.4f}"
    )


def logging_share(home: Path, settings: Settings) -> float:
    """Seconds that training waits for logging, over seconds of training and logging."""
    tracker = Tracker(open_store(home), home)
    run_id, _ = tracker.start("r", {"study": "share"}, {}, {})
    sent = RunLog(tracker, run_id, home / "share.jsonl", False, Patience(print))
    spent: list[float] = []

    def log(metrics: dict[str, float], step: int) -> None:
        began = time.perf_counter()
        sent.log(metrics, step)
        spent.append(time.perf_counter() - began)

    began = time.perf_counter()
    prepared = prepare(settings, home / "cache", lambda *_: None)
    train(settings, 0, prepared, home / "share.pt", Hooks(log, lambda *_: None))
    whole = time.perf_counter() - began
    sent.close()
    return sum(spent) / whole


def evaluation_share(home: Path, times: int) -> float:
    """Of the CPU time of a trial of `tiny`, what its evaluations take, with so many times the pairs; what trials share is there already."""
    settings = load_experiment(EXPERIMENT).settings
    counts = {name: times * getattr(settings.evaluation, name) for name in ("pairs", "final_pairs", "robustness_pairs")}
    settings = apply(
        settings,
        {"data.train_pairs": 512, "data.eval_pairs": counts["final_pairs"], "objectives.itm.hard_ratio": 0.5}
        | {f"evaluation.{name}": count for name, count in counts.items()},
    )
    prepared = prepare(settings, home / "cache", lambda *_: None)
    model = starting_model(settings, 0, prepared)
    subject = Subject(model, settings, prepared, make_companions(settings.objectives, model, prepared.corpus))
    every, steps = settings.evaluation.every, settings.optimisation.steps
    training = steps * seconds(train_step(settings, prepared), 5, time.process_time)
    validations = math.ceil(steps / every) * seconds(lambda: evaluate(validation(subject)), 3, time.process_time)
    final = seconds(lambda: evaluate(at_the_end(subject)), 1, time.process_time)
    shown = seconds(lambda: examples(subject), 1, time.process_time)
    measured = validations + final + shown
    return measured / (training + measured)


def main() -> None:
    quiet()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    base = apply(
        Settings(), {"data.train_pairs": 512, "data.eval_pairs": 64, "warm_start.steps": 2, "model.vision.frozen": True}
    )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        frozen = seconds(train_step(base, prepare(base, home, lambda *_: None)), 15)
        free = apply(base, {"model.vision.frozen": False})
        live = seconds(train_step(free, prepare(free, home, lambda *_: None)), 7)
        print(f"training step, vision encoder trained / frozen with stored features: {live / frozen:.2f}")
        random = apply(base, {"objectives.itm.negatives": "random_image"})
        plain = seconds(train_step(random, prepare(random, home, lambda *_: None)), 7)
        print(f"training step, half of the negatives synthesized / random: {frozen / plain:.2f}")
        shared = prepare(base, home, lambda *_: None)
        for name, value in (("length_buckets", 2), ("length_buckets", 4), ("compile", True)):
            changed = apply(base, {f"optimisation.{name}": value})
            print(f"training step, {name} {value} / without: {seconds(train_step(changed, shared), 15) / frozen:.2f}")

        for times in (1, 2):
            share = evaluation_share(home, times)
            print(f"share of evaluation in the CPU time of a trial of `tiny`, {times} x its pairs: {share:.2f}")

        drawn = list(scenes(0, "train", 200, 3))
        rendering = seconds(lambda: [render(scene, 64) for scene in drawn], 3)
        loaded = np.load(next(home.glob("scenes-*/train.npy")), mmap_mode="r")
        loading = seconds(lambda: np.array(loaded[:200]), 3)
        print(f"200 pictures, rendered / read from the cache: {rendering / loading:.0f}")

        corpora(home)
        (home / "storage").mkdir()
        storage(home / "storage")
        uri = open_store(home)
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

        ratio = seconds(through_client, 3) / seconds(lambda: read_runs(uri, parent), 3)
        print(f"5,000 metric values, MLflow's client / the report's reader: {ratio:.1f}")
        for name in ("engine", "big"):
            (home / name).mkdir()
        reading(home / "big")
        reporting(home / "reports")
        engine(home / "engine", apply(base, {"optimisation.steps": 60, "evaluation.every": 20, "warm_start.steps": 20}))


if __name__ == "__main__":
    main()
