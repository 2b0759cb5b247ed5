"""Which of many false captions are kept, so that text alone does not tell them from the true ones.

SugarCrepe's adversarial refinement (Hsieh et al. 2023, arXiv 2306.14610, section 4.3): of the pairs of a true and a false caption a part is
kept whose text-only score gap is symmetrical about 0.
"""

from collections.abc import Callable, Sequence

import numpy as np

Score = Callable[[Sequence[str]], np.ndarray]  # captions -> float [N], how likely each is as a text
WIDTH = 0.5  # of a bin of |gap|, in nats
FARTHEST = 8.0  # nats; no pair is kept whose captions differ more


def nearest(gaps: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [N]: of each pair's candidates, whose gaps (true less false) are float [K_i], the one that is as likely as the true caption;
    -1 where there is none."""
    return np.array([int(np.abs(gap).argmin()) if len(gap) else -1 for gap in gaps], dtype=np.int64)


def symmetrical(
    gaps: np.ndarray, rng: np.random.Generator, width: float = WIDTH, farthest: float = FARTHEST
) -> np.ndarray:
    """bool [N]: the pairs that are kept, so that within each bin of |gap| as many gaps float [N] are above 0 as below; drawn by `rng`.
    Pairs whose gap is 0 or not a number have no sign, and are dropped."""
    kept = np.zeros(len(gaps), dtype=bool)
    signed = np.flatnonzero(np.isfinite(gaps) & (gaps != 0) & (np.abs(gaps) < farthest))
    order = rng.permutation(signed)
    bins = (np.abs(gaps[order]) / width).astype(int)
    for place in np.unique(bins):
        inside = order[bins == place]
        above, below = inside[gaps[inside] > 0], inside[gaps[inside] < 0]
        count = min(len(above), len(below))
        kept[above[:count]] = kept[below[:count]] = True
    return kept
