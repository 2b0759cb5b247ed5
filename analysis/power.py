"""What so many seeds can show of a difference that matters, by simulated sweeps under the very rule of the verdict: numbers in and out."""

from functools import lru_cache

import numpy as np

from analysis.families import scores, step_down
from analysis.statistics import LEVEL, fewest_seeds, signs

POWER = 0.8
MOST_SEEDS = 64
SWEEPS = 300
FLIPS = 1024


@lru_cache(maxsize=512)
def power(effect: float, seeds: int, contrasts: int) -> float:
    """How often an arm whose differences have a mean of `effect` standard deviations is called different, among `contrasts` arms of
    which the others equal the baseline. Normal values, a baseline that all arms share. Good to about .03, as the sweeps are few."""
    if seeds < fewest_seeds():
        return 0.0
    rng = np.random.default_rng(0)
    made = (rng.normal(size=(SWEEPS, seeds, contrasts)) - rng.normal(size=(SWEEPS, seeds, 1))) / np.sqrt(2)
    made[:, :, 0] += effect
    flips = signs(seeds, FLIPS)
    return float(np.mean([step_down(scores(sweep, flips))[0] <= LEVEL for sweep in made]))


def seeds_needed(effect: float, contrasts: int, wanted: float = POWER) -> int | None:
    """The fewest seeds with which such a difference is found with the wanted power; None where more than `MOST_SEEDS`."""
    low, high = fewest_seeds(), MOST_SEEDS
    if not effect > 0 or power(effect, high, contrasts) < wanted:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if power(effect, middle, contrasts) >= wanted else (middle + 1, high)
    return low
