"""Deterministic, resumable batches: the pairs of a step depend on the seed and the step alone."""

import numpy as np

from workbench.randomness import generator


def batch_indices(pairs: int, batch_size: int, seed: int, step: int) -> np.ndarray:
    """Indices int64 [B] of the pairs that `step` (from 0) trains on: epochs of shuffled pairs, without remainder.

    Keyed by (seed, epoch), so every arm of an ablation sees the same pairs and a resumed run goes on exactly.
    """
    size = min(batch_size, pairs)
    per_epoch = pairs // size
    epoch, place = divmod(step, per_epoch)
    order = generator("epoch", seed, epoch).permutation(pairs)
    return order[place * size : (place + 1) * size]
