"""How a training step's speed grows with the batch, and falls with the width of the model."""

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.figures import CPU, Figure, by_turns, curve
from tests.benchmarks.gpu import METHOD, large_model, step_of
from tests.benchmarks.reference import FORMS
from workbench.data.text import Vocabulary

BATCHES = (16, 32, 64, 128, 256)
WIDTHS = (64, 128, 256, 512)
BATCH = 32  # at every width


def measure(repeats: int, home: Path) -> list[Figure]:
    of_batches = speeds({batch: step({}, batch) for batch in BATCHES}, repeats)
    of_widths = speeds({width: step({"model.width": width}, BATCH) for width in WIDTHS}, repeats, BATCH)
    return [
        *curve("`tiny`", "pairs/s", of_batches, "pairs a batch", CPU),
        *curve(f"`tiny`, {BATCH} pairs a batch", "pairs/s", of_widths, "width", CPU),
    ]


def step(changes: Mapping[str, Any], batch: int) -> Callable[[], object]:
    """A step with written negatives and soft labels, on random images and words."""
    given = METHOD | {"optimisation.learning_rate": 1e-5} | dict(changes)
    settings, model, teachers = large_model("tiny", given, Vocabulary.plain(FORMS["tiny"].vocabulary))
    made, numbers = step_of(settings, model, teachers, batch), count()
    return lambda: made(next(numbers))


def speeds(steps: Mapping[int, Callable[[], object]], repeats: int, batch: int | None = None) -> dict[int, np.ndarray]:
    """Size -> pairs a second in each of the repeats; the size is that of the batch where none is given."""
    times = by_turns({str(size): each for size, each in steps.items()}, repeats, times=3)
    return {size: (batch or size) / times[str(size)] for size in steps}
