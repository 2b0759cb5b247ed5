"""Chooses the tokens that are masked, and what replaces them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.data.text import Vocabulary
from workbench.randomness import Random

Places = tuple[Tensor, Tensor]  # rows and columns int64 [M] of a batch of captions


@dataclass(frozen=True)
class Masked:
    """`token_ids` int64 [B, L] with replacements; `positions` bool [B, L] marks the tokens to be predicted. Both are on
    the host."""

    token_ids: Tensor
    positions: Tensor

    def places(self, device: torch.device) -> Places:
        return places_of(self.positions, device)


def places_of(positions: Tensor, device: torch.device) -> Places:
    """The M rows and columns int64 that `positions` bool [B, L] marks, in order, on the device.

    They are computed on the host, which would otherwise have to wait for the GPU to learn their number.
    """
    rows, columns = positions.nonzero(as_tuple=True)
    return rows.to(device, non_blocking=True), columns.to(device, non_blocking=True)


def choose_positions(
    token_ids: np.ndarray,
    ratio: float,
    rng: Random,
    vocabulary: Vocabulary,
    whole_words: bool = False,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """bool [B, L]: marks `ratio` of each caption's ordinary tokens, at least one if there is any.

    With `whole_words`, `ratio` of the words are chosen, each with all of its tokens. With `weights` (float [B, L]) only
    tokens with a weight above 0 are counted and chosen, one after another, with probability proportional to the weight.
    A caption without such tokens is treated as without weights.
    """
    ordinary = vocabulary.ordinary[token_ids]
    if weights is not None:
        weights = np.where(ordinary, weights, 0.0)
        weights = np.where(weights.any(axis=1, keepdims=True), weights, ordinary)
    if whole_words:
        return _choose_words(token_ids, ordinary, ratio, rng, vocabulary, weights)
    return _choose(ordinary.astype(float) if weights is None else weights, ratio, rng)


def _choose(weights: np.ndarray, ratio: float, rng: Random) -> np.ndarray:
    """bool [B, N]: marks `ratio` of the places whose weight is above 0.

    Exponential waiting times with these rates: the first place is drawn in proportion to the weights, and so is each
    next one among the rest (Efraimidis and Spirakis 2006). With equal weights the smallest draws are taken.
    """
    eligible = weights > 0
    count = np.maximum(1, np.round(ratio * eligible.sum(axis=1))).astype(int)
    waits = np.where(eligible, -np.log1p(-rng.random(weights.shape)) / np.where(eligible, weights, 1.0), np.inf)
    ranks = waits.argsort(axis=1).argsort(axis=1)
    chosen: np.ndarray = (ranks < count[:, None]) & eligible
    return chosen


def word_begins(token_ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """bool [B, L]: marks the tokens that begin a word."""
    ordinary = vocabulary.ordinary[token_ids]
    # A caption's first token begins a word even where the tokeniser marks only words after a space (RoBERTa's BPE).
    after_special = np.pad(~ordinary, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
    begins: np.ndarray = ordinary & (vocabulary.word_starts[token_ids] | after_special)
    return begins


def _choose_words(
    token_ids: np.ndarray,
    ordinary: np.ndarray,
    ratio: float,
    rng: Random,
    vocabulary: Vocabulary,
    weights: np.ndarray | None,
) -> np.ndarray:
    begins = word_begins(token_ids, vocabulary)
    word = (begins.cumsum(axis=1) - 1).clip(min=0)
    if weights is None:
        of_words = (np.arange(token_ids.shape[1]) < begins.sum(axis=1)[:, None]).astype(float)
    else:  # a word weighs as much as its heaviest token
        of_words = np.zeros(token_ids.shape)
        np.maximum.at(of_words, (np.arange(len(token_ids))[:, None], word), np.where(ordinary, weights, 0.0))
    chosen: np.ndarray = np.take_along_axis(_choose(of_words, ratio, rng), word, axis=1) & ordinary
    return chosen


def mask_tokens(
    token_ids: np.ndarray,
    ratio: float,
    rng: Random,
    vocabulary: Vocabulary,
    whole_words: bool = False,
    weights: np.ndarray | None = None,
) -> Masked:
    """BERT's masking: of the chosen tokens, 80 % become <mask>, 10 % a random token, and 10 % stay."""
    positions = choose_positions(token_ids, ratio, rng, vocabulary, whole_words, weights)
    fate = rng.random(token_ids.shape)
    specials = vocabulary.size - len(vocabulary.ordinary_ids)
    random_ids = vocabulary.ordinary_ids[rng.integers(specials, vocabulary.size, size=token_ids.shape) - specials]
    replaced = np.where(positions & (fate < 0.8), vocabulary.mask, token_ids)
    replaced = np.where(positions & (fate >= 0.9), random_ids, replaced)
    return Masked(torch.from_numpy(replaced), torch.from_numpy(positions))


def hide_tokens(
    token_ids: np.ndarray,
    ratio: float,
    rng: Random,
    vocabulary: Vocabulary,
    whole_words: bool = False,
    weights: np.ndarray | None = None,
) -> Masked:
    """Every chosen token becomes <mask>: the form that evaluation and synthesis use."""
    positions = choose_positions(token_ids, ratio, rng, vocabulary, whole_words, weights)
    return Masked(torch.from_numpy(np.where(positions, vocabulary.mask, token_ids)), torch.from_numpy(positions))
