"""Keyed randomness: a draw depends on (seed, purpose, step, ...), never on how many draws came before it.

Two arms of an ablation therefore see the same pairs, masks and dropout, and a resumed run repeats the same numbers.
"""

import hashlib

import numpy as np

Key = int | str


def key(*parts: Key) -> int:
    """A 63-bit integer that names `parts`; equal parts give the equal key on every machine."""
    digest = hashlib.blake2b("\x1f".join(str(part) for part in parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: Key) -> np.random.Generator:
    """A NumPy generator of its own for `parts`."""
    return np.random.Generator(np.random.PCG64(key(*parts)))


class RowRandom:
    """Random numbers for the rows of a batch, each of which depends on its row's own number and on the key alone.

    What a pair is given is then the same in whatever batch, and beside whichever other pairs, it is trained. Has the
    methods of NumPy's generator that masking needs; `rows` int64 [B] are the pairs.
    """

    def __init__(self, rows: np.ndarray, *parts: Key) -> None:
        self.rows, self.parts, self.drawn = rows.astype(np.uint64), parts, 0

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        """float64 [B, ...] in [0, 1); the first axis is the batch."""
        columns = np.arange(int(np.prod(shape[1:])), dtype=np.uint64)
        # Each call has a key of its own, so that a wider batch does not shift what comes after.
        base = np.uint64(key(*self.parts, self.drawn))
        self.drawn += 1
        mixed = _scramble(_scramble(self.rows + base)[:, None] + columns)
        return ((mixed >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def integers(self, low: int, high: int, size: tuple[int, ...]) -> np.ndarray:
        """int64 from `low` to below `high`."""
        return (low + self.random(size) * (high - low)).astype(np.int64)


def _scramble(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele et al. 2014): neighbouring numbers come out unrelated."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


Random = np.random.Generator | RowRandom
