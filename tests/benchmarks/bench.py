"""`just bench`: ratios, each measured within this one run on one thread. Prints a line a comparison."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from analysis.runs import read_runs
from workbench.config.load import apply
from workbench.config.schema import Settings
from workbench.data.captions import read_source
from workbench.data.loader import Order
from workbench.data.prepare import prepare_source
from workbench.data.scenes import render, scenes
from workbench.data.store import Pictures
from workbench.objectives.companions import make_companions
from workbench.objectives.step import losses
from workbench.tracking.runs import Tracker
from workbench.tracking.store import open_store
from workbench.training.batches import on_device, plan_batch, read_pictures
from workbench.training.distributed import speed_up
from workbench.training.loop import optimiser_for, starting_model, train_mode
from workbench.training.prepare import Prepared, prepare
from workbench.world import ALONE


def seconds(action: Callable[[], object], repeats: int) -> float:
    """The median of `repeats` timings, after one that is not counted."""
    action()
    timings = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        timings.append(time.perf_counter() - started)
    return float(np.median(timings))


def train_step(settings: Settings, prepared: Prepared) -> Callable[[], None]:
    model = starting_model(settings, 0, prepared)
    speed_up(model, settings)
    optimiser = optimiser_for(model, settings)
    corpus = prepared.corpus
    companions = make_companions(settings.objectives, model, corpus.train.token_ids, corpus.synonyms, corpus.tokeniser)

    order = Order(corpus.train.shares, settings.optimisation.batch_size, 0)

    def step() -> None:
        train_mode(model, settings)
        _, rows = order.at(0)
        (read,) = next(read_pictures(settings, prepared, order, ALONE, 0))
        made = losses(
            model,
            on_device(settings, prepared, read, rows, 0, 0),
            plan_batch(settings, prepared, companions, None, rows, 0, 0, 0).part(),
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


def main() -> None:
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

        drawn = list(scenes(0, "train", 200, 3))
        rendering = seconds(lambda: [render(scene, 64) for scene in drawn], 3)
        loaded = np.load(next(home.glob("scenes-*/train.npy")), mmap_mode="r")
        reading = seconds(lambda: np.array(loaded[:200]), 3)
        print(f"200 pictures, rendered / read from the cache: {rendering / reading:.0f}")

        corpora(home)
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


if __name__ == "__main__":
    main()
