"""Joint tests of many contrasts, so that a page section without any effect claims one in at most 5 % of sweeps: arrays
in, numbers out.

The test is the step-down max-T of Westfall and Young (1993; Romano and Wolf 2005) with joint sign flips: the same seeds
change sign in all contrasts at once, which accounts for what the contrasts share, above all the baseline. Without an
effect the differences of a seed are symmetric around zero, and the test is exact for any number of seeds. The intervals
take their critical value from the same flips of the centred differences.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

from analysis.statistics import NAN, signs
from workbench.significance import LEVEL, smallest_p

REFERENCE_DRAWS = 20_000


@dataclass(frozen=True)
class Family:
    """One entry per contrast: paired `seeds` int [M]; exact `p` of the contrast alone; step-down `adjusted` p; ends of
    the simultaneous 95 % interval of the mean difference. `p` needs two seeds, and `adjusted` enough seeds to reach the
    level; else nan.

    An interval excludes zero if and only if `adjusted` is at most the level, where there is such a p. Where single-step
    intervals and the more powerful step-down test disagree, the test decides: an interval that would contain zero then
    ends there.
    """

    seeds: np.ndarray
    p: np.ndarray
    adjusted: np.ndarray
    low: np.ndarray
    high: np.ndarray


def judge(differences: np.ndarray, tested: np.ndarray | None = None) -> Family:
    """Tests contrasts, [seeds, M] with nan where a seed is not paired, as one family.

    `tested`: the values to test instead of the differences, of the same shape: in columns with diverged trials their
    `worst_ranks`. The intervals always use the differences; in such columns they may disagree with the test.
    """
    tested = differences if tested is None else tested
    count = differences.shape[1]
    seeds = (~np.isnan(tested)).sum(axis=0)
    flips = signs(len(differences)) if len(differences) else np.ones((1, 0))
    p, adjusted = np.full(count, NAN), np.full(count, NAN)
    able = _able(seeds)
    if (seeds > 1).any():
        some = seeds > 1
        alone = scores(tested[:, some], flips)
        p[some] = (alone >= alone[0] - 1e-9).mean(axis=0)
    if able.any():
        pivots = _comparable(scores(tested[:, able], flips), seeds[able])
        adjusted[able] = step_down(pivots)
    low, high = _simultaneous(differences, flips)
    low, high = _agreeing(differences, low, high, np.where(_same(differences, tested), adjusted, NAN))
    return Family(seeds, p, adjusted, low, high)


def worst_ranks(
    differences: np.ndarray, arm_diverged: np.ndarray, base_diverged: np.ndarray, lower: bool
) -> np.ndarray:
    """Returns signed ranks of paired differences; all arrays are [seeds]. A diverged trial ranks worse than every trial
    that did not diverge, and equal to other diverged ones (Lachin 1999, worst-rank analysis). It is nan where a trial
    is missing. `lower`: lower values are better."""
    worse, better = (np.inf, -np.inf) if lower else (-np.inf, np.inf)
    placed = np.where(arm_diverged, np.where(base_diverged, 0.0, worse), np.where(base_diverged, better, differences))
    known = ~np.isnan(placed)
    ranks = np.full(len(placed), NAN)
    size = np.abs(placed[known])
    ranks[known] = np.sign(placed[known]) * stats.rankdata(size) if known.any() else 0.0
    return ranks


def scores(columns: np.ndarray, flips: np.ndarray) -> np.ndarray:
    """Returns |sum of flipped differences| divided by the root of their sum of squares, [flips, M]. Within a column it
    increases with Student's |t|."""
    filled = np.nan_to_num(columns)
    size = np.sqrt((filled**2).sum(axis=0))
    return np.abs(flips @ filled) / np.where(size > 0, size, 1.0)


def _comparable(pivots: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Puts scores of columns with different numbers of seeds on one scale: -log p of Student's t with the column's
    degrees of freedom."""
    if len(set(seeds.tolist())) == 1:
        return pivots
    square = np.minimum(np.round(pivots, 10) ** 2, seeds - 1e-9)
    return np.asarray(-stats.t.logsf(np.sqrt(square * (seeds - 1) / (seeds - square)), seeds - 1))


def step_down(pivots: np.ndarray) -> np.ndarray:
    """Returns the adjusted p of each column of [flips, M]. The first flip is the observed sweep."""
    order = np.argsort(-pivots[0], kind="stable")
    highest = np.maximum.accumulate(pivots[:, order[::-1]], axis=1)[:, ::-1]  # over a column and all lower ones
    stepwise = (highest >= pivots[0, order] - 1e-9).mean(axis=0)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(stepwise)
    return adjusted


def _able(seeds: np.ndarray) -> np.ndarray:
    """Returns which contrasts have enough paired seeds for sign flips to reach the level."""
    return np.array([smallest_p(int(count)) <= LEVEL for count in seeds], dtype=bool)


def _simultaneous(differences: np.ndarray, flips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ends of the simultaneous intervals. Columns with too few seeds for flips use a simulated reference,
    and their share of the level."""
    count = differences.shape[1]
    low, high = np.full(count, NAN), np.full(count, NAN)
    seeds = (~np.isnan(differences)).sum(axis=0)
    some = seeds > 1
    if not some.any():
        return low, high
    able = some & _able(seeds)
    few = some & ~able
    mean = np.nanmean(differences[:, some], axis=0)
    error = np.nanstd(differences[:, some], axis=0, ddof=1) / np.sqrt(seeds[some])
    critical = np.full(count, NAN)
    total = int(some.sum())
    if able.any():
        critical[able] = _critical(differences[:, able], flips, seeds[able], LEVEL * int(able.sum()) / total)
    for column in np.flatnonzero(few):
        share = LEVEL * int(few.sum()) / total
        critical[column] = reference(int(seeds[column]), int(few.sum()), round(share, 6))
    # Never narrower than the interval of one contrast alone.
    critical[some] = np.maximum(critical[some], stats.t.ppf(1 - LEVEL / 2, seeds[some] - 1))
    # A few values that happen to be equal do not show their spread.
    half = np.where(few[some] & (error == 0), NAN, critical[some] * error)
    low[some], high[some] = mean - half, mean + half
    return low, high


def _critical(differences: np.ndarray, flips: np.ndarray, seeds: np.ndarray, level: float) -> np.ndarray:
    """Returns the critical value of |t| of each column, from joint flips of the centred differences."""
    centred = np.nan_to_num(differences - np.nanmean(differences, axis=0))
    means = flips @ centred / seeds
    spread = ((centred**2).sum(axis=0) / seeds - means**2) * seeds / (seeds - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.nan_to_num(np.abs(means) / np.sqrt(np.maximum(spread, 0.0) / seeds))
    equal = len(set(seeds.tolist())) == 1
    index = min(len(t) - 1, int(np.ceil((1 - level) * len(t) - 1e-9)) - 1)
    if equal:
        return np.full(len(seeds), np.sort(t.max(axis=1))[index])
    pivots = -stats.t.logsf(t, seeds - 1)
    return np.asarray(stats.t.isf(np.exp(-np.sort(pivots.max(axis=1))[index]), seeds - 1))


@lru_cache(maxsize=256)
def reference(seeds: int, contrasts: int, level: float = LEVEL) -> float:
    """Returns the critical value of |t| for `contrasts` normal contrasts of equal spread with one baseline (Dunnett's
    case with a variance per contrast), from simulated sweeps. For fewer seeds than sign flips need."""
    rng = np.random.default_rng(0)
    draws = max(1000, REFERENCE_DRAWS // max(1, contrasts // 8))
    simulated = rng.normal(size=(draws, seeds, contrasts)) - rng.normal(size=(draws, seeds, 1))
    t = np.abs(simulated.mean(axis=1)) / (simulated.std(axis=1, ddof=1) / np.sqrt(seeds))
    return float(np.quantile(t.max(axis=1), 1 - level))


def _agreeing(
    differences: np.ndarray, low: np.ndarray, high: np.ndarray, adjusted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Adjusts the intervals to contain zero exactly where the test does not reject it. An interval that should not
    contain zero ends there, and one that should is widened slightly past zero."""
    mean = np.nansum(differences, axis=0)
    rejected, kept = adjusted <= LEVEL, adjusted > LEVEL
    past = 0.05 * (high - low) / 2
    low = np.where(rejected & (mean > 0), np.maximum(low, 0.0), np.where(kept & (low >= 0), -past, low))
    high = np.where(rejected & (mean < 0), np.minimum(high, 0.0), np.where(kept & (high <= 0), past, high))
    return low, high


def _same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns which columns of two arrays are equal; nan counts as equal."""
    return np.asarray(((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=0))
