"""Which tokens are masked, and what stands in their place."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.data.text import MASK, SPECIAL
from workbench.randomness import Random


@dataclass(frozen=True)
class Masked:
    """`token_ids` int64 [B, L] with replacements; `positions` bool [B, L] marks what is to be predicted."""

    token_ids: Tensor
    positions: Tensor


def choose_positions(
    token_ids: np.ndarray, ratio: float, rng: Random, word_starts: np.ndarray | None = None
) -> np.ndarray:
    """bool [B, L]: `ratio` of each caption's ordinary tokens, at least one where there is any.

    With `word_starts` (bool [V]: tokens that begin a word) it is `ratio` of the words, each with all of its tokens.
    """
    ordinary = token_ids >= len(SPECIAL)
    if word_starts is not None:
        return _choose_words(token_ids, ordinary, ratio, rng, word_starts)
    count = np.maximum(1, np.round(ratio * ordinary.sum(axis=1))).astype(int)
    ranks = np.where(ordinary, rng.random(token_ids.shape), 2.0).argsort(axis=1).argsort(axis=1)
    chosen: np.ndarray = (ranks < count[:, None]) & ordinary
    return chosen


def _choose_words(
    token_ids: np.ndarray, ordinary: np.ndarray, ratio: float, rng: Random, word_starts: np.ndarray
) -> np.ndarray:
    # A caption's first token begins a word even where the tokeniser marks only words after a space (RoBERTa's BPE).
    after_special = np.pad(~ordinary, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
    begins = ordinary & (word_starts[token_ids] | after_special)
    word = begins.cumsum(axis=1) - 1
    count = np.maximum(1, np.round(ratio * begins.sum(axis=1))).astype(int)
    places = np.arange(token_ids.shape[1])
    ranks = np.where(places < begins.sum(axis=1)[:, None], rng.random(token_ids.shape), 2.0).argsort(1).argsort(1)
    chosen_words = ranks < count[:, None]
    chosen: np.ndarray = np.take_along_axis(chosen_words, word.clip(min=0), axis=1) & ordinary
    return chosen


def mask_tokens(
    token_ids: np.ndarray,
    ratio: float,
    vocabulary: int,
    rng: Random,
    word_starts: np.ndarray | None = None,
) -> Masked:
    """BERT's masking: of the chosen tokens 80 % become <mask>, 10 % a random token, 10 % stay."""
    positions = choose_positions(token_ids, ratio, rng, word_starts)
    fate = rng.random(token_ids.shape)
    random_ids = rng.integers(len(SPECIAL), vocabulary, size=token_ids.shape)
    replaced = np.where(positions & (fate < 0.8), MASK, token_ids)
    replaced = np.where(positions & (fate >= 0.9), random_ids, replaced)
    return Masked(torch.from_numpy(replaced), torch.from_numpy(positions))


def hide_tokens(token_ids: np.ndarray, ratio: float, rng: Random, word_starts: np.ndarray | None = None) -> Masked:
    """Every chosen token becomes <mask>: the form that evaluation and synthesis use."""
    positions = choose_positions(token_ids, ratio, rng, word_starts)
    return Masked(torch.from_numpy(np.where(positions, MASK, token_ids)), torch.from_numpy(positions))
