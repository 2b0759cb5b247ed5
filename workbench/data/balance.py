"""Selects false captions so that text alone cannot distinguish them from the true ones.

SugarCrepe's adversarial refinement (Hsieh et al. 2023, arXiv 2306.14610, section 4.3): of all pairs of a true and a
false caption, a subset is kept whose gaps in text-only scores are symmetrical about 0, in all scores jointly. A gap is
the true caption's score minus the false caption's.
"""

from collections.abc import Callable, Sequence

import numpy as np

Score = Callable[[Sequence[str]], np.ndarray]  # captions [N] -> float [N, S]: S scores of how likely each is as a text
# Width of a grid cell, in typical gaps. With half of it a third fewer pairs remain, and a character-level model
# recognises about as large a share of the foils.
WIDTH = 1.0
FARTHEST = 6.0  # typical gaps; pairs whose captions differ more are dropped


def typical(gaps: np.ndarray) -> np.ndarray:
    """float [S]: the median absolute gap of each score, from gaps float [N, S]; 1 where it is 0. Dividing by it makes
    the scores comparable."""
    size = np.median(np.abs(gaps), axis=0)
    return np.where(size > 0, size, 1.0)


def likeliest(gaps: np.ndarray) -> int:
    """The index of a caption's likeliest candidate as a text; gaps float [K, S] in units of the typical gap."""
    return int(gaps.sum(axis=1).argmin())


def symmetrical(
    gaps: np.ndarray, rng: np.random.Generator, width: float = WIDTH, farthest: float = FARTHEST
) -> np.ndarray:
    """bool [N]: the pairs that are kept, drawn by `rng`. Of the gaps float [N, S], each cell of a grid keeps as many as
    the cell opposite to it about 0. Pairs that no score separates are dropped."""
    near = (np.abs(gaps) < farthest).all(axis=1)
    cells = (np.sign(gaps) * np.ceil(np.where(near[:, None], np.abs(gaps), 0) / width)).astype(int)
    members: dict[tuple[int, ...], list[int]] = {}
    for row in rng.permutation(len(gaps)):
        if cells[row].any():
            members.setdefault(tuple(cells[row].tolist()), []).append(int(row))
    kept = np.zeros(len(gaps), dtype=bool)
    for cell, rows in members.items():
        opposite = members.get(tuple(-place for place in cell), [])
        kept[rows[: len(opposite)]] = True
    return kept
