"""Which kinds and colours are confused with each other: what a foil substitutes for a true word."""

from dataclasses import dataclass
from functools import cache

import numpy as np

from workbench.data.lexicon import COLOURS, KINDS
from workbench.data.scenes import outline

SIDE = 24  # pixels at which outlines are compared
ALTERNATIVES = 4.0  # how many others a concept is replaced by, as the exponential of the entropy


@dataclass(frozen=True)
class LookAlikes:
    """`chances` [K, K]: for each concept, the probability of each other one to replace it. The matrix is symmetric, and
    its rows and columns sum to 1: every concept is as common in foils as in true captions, so that words alone do not
    reveal a foil."""

    names: tuple[str, ...]
    chances: np.ndarray

    def draw(self, rng: np.random.Generator, name: str, without: set[str]) -> str:
        """Draws another concept than `name` that is not among `without`."""
        chances = self.chances[self.names.index(name)] * [other not in without for other in self.names]
        return str(rng.choice(self.names, p=chances / chances.sum()))


@cache
def look_alikes() -> LookAlikes:
    """Kinds by the overlap of their outlines (intersection over union)."""
    drawn = np.stack([outline(kind, SIDE, 0) for kind in KINDS])
    both = np.minimum(drawn[:, None], drawn[None]).sum(axis=(2, 3))
    return LookAlikes(tuple(KINDS), _balanced(both / np.maximum(drawn[:, None], drawn[None]).sum(axis=(2, 3))))


@cache
def near_colours() -> LookAlikes:
    """Colours by their distance in RGB."""
    values = np.array([rgb for rgb, _ in COLOURS.values()], dtype=float)
    return LookAlikes(tuple(COLOURS), _balanced(-np.linalg.norm(values[:, None] - values[None], axis=-1)))


def _balanced(likeness: np.ndarray) -> np.ndarray:
    """A symmetric [K, K] with row sums of 1 that prefers similar concepts (Sinkhorn scaling of the exponential), as
    sharp as `ALTERNATIVES` requires."""
    others = ~np.eye(len(likeness), dtype=bool)
    below = likeness.astype(np.float64) - likeness[others].max()
    low, high = 0.0, 80.0 / -below[others].min()
    for _ in range(30):
        sharpness = (low + high) / 2
        chances = _scaled(np.where(others, np.exp(sharpness * below), 0.0))
        entropy = -(chances[others] * np.log(chances[others])).sum() / len(chances)
        low, high = (sharpness, high) if np.exp(entropy) > ALTERNATIVES else (low, sharpness)
    return chances


def _scaled(weights: np.ndarray) -> np.ndarray:
    for _ in range(300):
        by = 1 / np.sqrt(weights.sum(axis=1))
        weights = weights * by[:, None] * by[None]
    return weights
