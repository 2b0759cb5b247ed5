"""How many images a second a loader reads with 0, 1 and 2 worker processes."""

import time
from pathlib import Path

import numpy as np

from tests.benchmarks.figures import WALL, Figure, exponent, figure
from tests.benchmarks.storage import photographs
from workbench.data.loader import Order, read_ahead
from workbench.data.prepare import prepare_source
from workbench.data.sources.detect import read_source
from workbench.data.store import Images

IMAGES, SIDE, BATCH, STEPS = 128, 256, 32, 32
WORKERS = (0, 1, 2)


def measure(repeats: int, home: Path) -> list[Figure]:
    """Images stored as JPEGs; the start of the processes is not counted, nor is anything trained meanwhile."""
    source = photographs(home, IMAGES, SIDE, np.random.default_rng(0))
    store = prepare_source(read_source(source), home / "jpeg", SIDE, "crop", 1, lambda *_: None, stored="jpeg")
    images = Images([store], [np.arange(IMAGES)], SIDE)
    order = Order(((IMAGES, 1.0),), BATCH, 0)
    speeds: dict[int, list[float]] = {count: [] for count in WORKERS}
    for _ in range(repeats):
        for count in WORKERS:
            reader = read_ahead(images, order, [slice(0, BATCH)], range(STEPS + 4), count, False)
            for _ in range(4):
                next(reader)
            began = time.perf_counter()
            for _ in range(STEPS):
                next(reader)
            speeds[count].append(STEPS * BATCH / (time.perf_counter() - began))
            del reader  # ends its processes
    exponents = [exponent((1, 2), each) for each in zip(speeds[1], speeds[2], strict=True)]
    return [
        *(
            figure(f"JPEGs of {SIDE} px read and decoded, {count} worker processes", "images/s", each, WALL)
            for count, each in speeds.items()
        ),
        figure("... exponent over worker processes", "", exponents, "from one to two"),
    ]
