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
