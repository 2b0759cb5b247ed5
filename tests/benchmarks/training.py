"""What each of a training step's ways costs over another: frozen or trained, written or random negatives, buckets,
compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks.figures import CPU, Figure, by_turns, figure, ratio
from workbench.config.schema import Settings
from workbench.config.settings import apply
from workbench.data.loader import Order
from workbench.distributed import ALONE
from workbench.objectives.batch import BatchKey, Weights
from workbench.objectives.step import losses
from workbench.objectives.teachers import make_teachers
from workbench.training.batches import on_device, read_images, training_batch
from workbench.training.parallelize import speed_up
from workbench.training.prepare import Prepared, prepare
from workbench.training.pretrain import optimiser_for, starting_model, train_mode

BASE = apply(
    Settings(),
    {
        "data.train_pairs": 512,
        "data.eval_pairs": 64,
        "warm_start.steps": 2,
        "model.vision.frozen": True,
        "optimisation.steps": 100_000,  # as many as are asked for
    },
)
# What a variant changes of the base, and whether its time is what is divided.
VARIANTS: dict[str, tuple[dict[str, Any], bool]] = {
    "vision encoder trained / frozen with stored features": ({"model.vision.frozen": False}, True),
    "half of the negatives written / random": ({"objectives.itm.negatives": "random_image"}, False),
    "`length_buckets` 2 / without": ({"optimisation.length_buckets": 2}, True),
    "`length_buckets` 4 / without": ({"optimisation.length_buckets": 4}, True),
    "`compile` / without": ({"optimisation.compile": True}, True),
}


def train_step(settings: Settings, prepared: Prepared) -> Callable[[], None]:
    """A whole step, from the reading of its images; each call is the next one."""
    model = starting_model(settings, 0, prepared)
    speed_up(model, settings)
    optimiser = optimiser_for(model, settings)
    teachers = make_teachers(settings.objectives, model, prepared.corpus)
    order = Order(prepared.corpus.train.shares, settings.optimisation.batch_size, 0)
    reader = enumerate(read_images(settings, prepared, order, ALONE, 0))

    def step() -> None:
        train_mode(model, settings)
        number, (read,) = next(reader)
        epoch, rows = order.at(number)
        key = BatchKey(rows, 0, epoch, number)
        batch = training_batch(settings, prepared, teachers, None, key, lambda _: Weights())
        parts = losses(
            model,
            on_device(settings, prepared, read, key, slice(None)),
            batch.part(),
            settings.objectives,
            teachers,
            alpha=0.0,
            length_buckets=settings.optimisation.length_buckets,
        )
        optimiser.zero_grad(set_to_none=True)
        parts["loss"].backward()
        optimiser.step()

    return step


def measure(
    repeats: int,
    home: Path,
    base: Settings = BASE,
    variants: dict[str, tuple[dict[str, Any], bool]] = VARIANTS,
    steps: int = 5,
) -> list[Figure]:
    """Means of `steps` steps, after as many that do not count and in which `compile` compiles."""
    cache, pairs = home / "cache", base.optimisation.batch_size

    def made(settings: Settings) -> Callable[[], None]:
        return train_step(settings, prepare(settings, cache, lambda *_: None))

    changed = {name: made(apply(base, changes)) for name, (changes, _) in variants.items()}
    times = by_turns({"base": made(base)} | changed, repeats, times=steps)
    under = times.pop("base")
    ratios = {name: (taken, under) if variants[name][1] else (under, taken) for name, taken in times.items()}
    return [
        figure("training step, `tiny`, frozen with stored features", "ms", 1000 * under, f"{pairs} pairs; {CPU}"),
        *(ratio(f"training step, {name}", *compared) for name, compared in ratios.items()),
    ]
