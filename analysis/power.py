"""The power of a number of seeds for a difference that matters, from simulated sweeps under the rule of the verdict:
numbers in and out."""

from functools import lru_cache

import numpy as np

from analysis.statistics import signs
from workbench.significance import LEVEL, fewest_seeds

POWER = 0.8
MOST_SEEDS = 64
SWEEPS = 300
FLIPS = 1024


@lru_cache(maxsize=1024)
def power(effect: float, seeds: int, contrasts: int) -> float:
    """Returns how often an arm whose differences have a mean of `effect` standard deviations is called different, among
    `contrasts` arms of which the others equal the baseline. Assumes normal values and a shared baseline. Accurate to
    about .03, since the simulated sweeps are few. Uses only the first step of the step-down test, since the other arms
    are rarely rejected.
    """
    if seeds < fewest_seeds():
        return 0.0
    differences, others, flips = _simulated(seeds, contrasts)
    moved = differences + np.float32(effect)
    scores = np.abs(flips @ moved) / np.sqrt((moved**2).sum(axis=0))
    p = (np.maximum(scores, others) >= scores[0] - 1e-5).mean(axis=0)
    return float(np.mean(p <= LEVEL))


@lru_cache(maxsize=32)
def _simulated(seeds: int, contrasts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the differences of the arm in question without its effect [seeds, sweeps], the highest score of all
    others under each flip [flips, sweeps], and the flips [flips, seeds]."""
    rng = np.random.default_rng(0)
    differences = (rng.normal(size=(SWEEPS, seeds, contrasts)) - rng.normal(size=(SWEEPS, seeds, 1))) / np.sqrt(2)
    differences, flips = differences.astype(np.float32), signs(seeds, FLIPS).astype(np.float32)
    highest = np.zeros((len(flips), SWEEPS), dtype=np.float32)
    for column in range(1, contrasts):
        other = differences[:, :, column].T
        highest = np.maximum(highest, np.abs(flips @ other) / np.sqrt((other**2).sum(axis=0)))
    return differences[:, :, 0].T, highest, flips


def seeds_needed(effect: float, contrasts: int, wanted: float = POWER) -> int | None:
    """Returns the smallest number of seeds with which such a difference is found with the wanted power; None where it
    exceeds `MOST_SEEDS`."""
    low, high = fewest_seeds(), MOST_SEEDS
    if not effect > 0 or power(effect, high, contrasts) < wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, contrasts) >= wanted else (middle + 1, high)
    return low
