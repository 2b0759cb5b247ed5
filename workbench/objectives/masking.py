"""Which tokens are masked, and what stands in their place."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.data.text import MASK, SPECIAL


@dataclass(frozen=True)
class Masked:
    """`token_ids` int64 [B, L] with replacements; `positions` bool [B, L] marks what is to be predicted."""

    token_ids: Tensor
    positions: Tensor


def choose_positions(token_ids: np.ndarray, ratio: float, rng: np.random.Generator) -> np.ndarray:
    """bool [B, L]: `ratio` of each caption's ordinary tokens, at least one where there is any."""
    ordinary = token_ids >= len(SPECIAL)
    count = np.maximum(1, np.round(ratio * ordinary.sum(axis=1))).astype(int)
    ranks = np.where(ordinary, rng.random(token_ids.shape), 2.0).argsort(axis=1).argsort(axis=1)
    chosen: np.ndarray = (ranks < count[:, None]) & ordinary
    return chosen


def mask_tokens(token_ids: np.ndarray, ratio: float, vocabulary: int, rng: np.random.Generator) -> Masked:
    """BERT's masking: of the chosen tokens 80 % become <mask>, 10 % a random token, 10 % stay."""
    positions = choose_positions(token_ids, ratio, rng)
    fate = rng.random(token_ids.shape)
    random_ids = rng.integers(len(SPECIAL), vocabulary, size=token_ids.shape)
    replaced = np.where(positions & (fate < 0.8), MASK, token_ids)
    replaced = np.where(positions & (fate >= 0.9), random_ids, replaced)
    return Masked(torch.from_numpy(replaced), torch.from_numpy(positions))


def hide_tokens(token_ids: np.ndarray, ratio: float, rng: np.random.Generator) -> Masked:
    """Every chosen token becomes <mask>: the form that evaluation and synthesis use."""
    positions = choose_positions(token_ids, ratio, rng)
    return Masked(torch.from_numpy(np.where(positions, MASK, token_ids)), torch.from_numpy(positions))
