"""Keyed randomness: a draw depends on (seed, purpose, step, ...), never on the number of earlier draws.

Two arms of an ablation therefore see the same pairs, masks and dropout, and a resumed run repeats the same numbers.
"""

import hashlib

import numpy as np

Key = int | str


def key(*parts: Key) -> int:
    """Returns a 63-bit integer that identifies `parts`. Equal parts have the same key on every machine."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: Key) -> np.random.Generator:
    """Returns a separate NumPy generator for `parts`."""
    return np.random.Generator(np.random.PCG64(key(*parts)))


class RowRandom:
    """Random numbers for the rows of a batch. Each depends only on the index of its row and on the key.

    A pair therefore gets the same numbers in any batch and next to any other pairs. Has the methods of NumPy's
    generator that masking needs. `rows` int64 [B] are the indices of the pairs.
    """

    def __init__(self, rows: np.ndarray, *parts: Key) -> None:
        self.rows, self.parts, self.drawn = rows.astype(np.uint64), parts, 0

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        """Returns float64 [B, ...] in [0, 1). The first axis is the batch."""
        columns = np.arange(int(np.prod(shape[1:])), dtype=np.uint64)
        # Each call has its own key, so that a wider batch does not shift later draws.
        base = np.uint64(key(*self.parts, self.drawn))
        self.drawn += 1
        mixed = _scramble(_scramble(self.rows + base)[:, None] + columns)
        return ((mixed >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> np.ndarray:
        """Returns int64 from `low` (inclusive) to `high` (exclusive)."""
        return (low + self.random(size) * (high - low)).astype(np.int64)


def _scramble(x: np.ndarray) -> np.ndarray:
    """Applies the output function of SplitMix64 (Steele et al. 2014), which decorrelates neighbouring numbers."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


Random = np.random.Generator | RowRandom
