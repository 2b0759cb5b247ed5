"""A grid as one workload: a sweep of six shrunk `tiny` trials against the same six, each trained alone from nothing.

A sweep renders its data and encodes its images once, and its worker stays loaded from one trial to the next. Alone,
each trial is a `wb train` in a workspace of its own. Both have one thread a process; a sweep with one worker gains by
sharing alone.
"""

import time
from pathlib import Path

import numpy as np

from tests.benchmarks.figures import WALL, Figure, figure, ratio
from tests.benchmarks.studies import RATIO, begun, over_ratios, wb, written
from workbench.config.schema import Settings
from workbench.config.settings import apply, read_preset
from workbench.events import Event, Stepped, TrialEnded
from workbench.stop import Stop
from workbench.sweep.worker import Worker

RATIOS, SEEDS = (0.0, 0.5, 1.0), 2
GOAL = 0.65
SHRUNK = {
    "data.train_pairs": 512,
    "data.eval_pairs": 64,
    "optimisation.steps": 10,
    "optimisation.batch_size": 32,
    "evaluation.every": 5,
    "evaluation.pairs": 32,
    "evaluation.final_pairs": 64,
    "evaluation.robustness_pairs": 16,
}


def measure(repeats: int, home: Path) -> list[Figure]:
    together, alone = np.array([whole(home / str(number)) for number in range(repeats)]).T
    count = len(RATIOS) * SEEDS
    gaps, steps = between_trials(home / "worker", repeats)
    return [
        figure(f"a sweep of {count} trials, one worker", "s", together, f"{WALL}, report included"),
        figure(f"{count} trials, each by `wb train` from nothing", "s", alone, f"{WALL}, their sum"),
        ratio("the sweep / the trials alone", together, alone, f"{WALL}; goal at most {GOAL}"),
        figure(
            "a warm worker, from a trial's end to the next one's first step", "s", gaps, f"{WALL}, that step included"
        ),
        figure("... that step", "s", steps, f"{WALL}, from the second one's time"),
    ]


def whole(home: Path) -> tuple[float, float]:
    """Seconds of the sweep, and of all its trials alone."""
    home.mkdir()
    grid = written(home / "grid.yaml", SHRUNK, RATIOS, SEEDS)
    together = wb("sweep", grid, "--workers", "1", "--workspace", home / "together").wall
    alone = 0.0
    for place, level in enumerate(RATIOS):
        file = written(home / f"alone{place}.yaml", SHRUNK | {RATIO: level}, RATIOS, SEEDS)
        for seed in range(SEEDS):
            alone += wb("train", file, "--seed", str(seed), "--workspace", home / f"alone{place}-{seed}").wall
    return together, alone


def between_trials(home: Path, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds from the end of each trial but the last to the next one's first step; and of a second step, which is like
    the first."""
    home.mkdir()
    settings = apply(Settings.model_validate(read_preset("tiny")), SHRUNK | {"evaluation.every": 10})
    ends: list[float] = []
    at: dict[int, list[float]] = {1: [], 2: []}  # number of a step -> when it was done, in each trial

    def heard(event: Event) -> None:
        match event:
            case TrialEnded():
                ends.append(time.perf_counter())
            case Stepped(step=(1 | 2) as number):
                at[number].append(time.perf_counter())

    Worker(begun(home, over_ratios(settings, repeats + 1)), "bench", heard, Stop()).work()
    gaps = [first - end for end, first in zip(ends, at[1][1:], strict=False)]
    return gaps, [second - first for first, second in zip(at[1][1:], at[2][1:], strict=True)]
