"""Which of many false captions are kept, so that text alone does not tell them from the true ones.

SugarCrepe's adversarial refinement (Hsieh et al. 2023, arXiv 2306.14610, section 4.3): of the pairs of a true and a
false caption a part is kept whose gaps by text-only scores are symmetrical about 0, in all scores at once. A gap is the
true caption's score less the false one's.
"""

from collections.abc import Callable, Sequence

import numpy as np

Score = Callable[[Sequence[str]], np.ndarray]  # captions [N] -> float [N, S], how likely each is as a text, by S scores
# Of a cell, in typical gaps. Half of it leaves a third fewer pairs, of which a model of letters tells about as many.
WIDTH = 1.0
FARTHEST = 6.0  # typical gaps; no pair is kept whose captions differ more


def typical(gaps: np.ndarray) -> np.ndarray:
    """float [S]: the median size of the gaps float [N, S] by each score, which makes scores comparable; 1 where it is
    0."""
    size = np.median(np.abs(gaps), axis=0)
    return np.where(size > 0, size, 1.0)


def likeliest(gaps: np.ndarray) -> int:
    """Of a caption's candidates, with gaps float [K, S] in typical ones, the one that is likeliest as a text."""
    return int(gaps.sum(axis=1).argmin())


def symmetrical(
    gaps: np.ndarray, rng: np.random.Generator, width: float = WIDTH, farthest: float = FARTHEST
) -> np.ndarray:
    """bool [N]: the pairs that are kept, drawn by `rng`, so that of the gaps float [N, S] each cell of a grid holds as
    many as the cell opposite to it with regard to 0. Pairs between which no score tells are dropped."""
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
