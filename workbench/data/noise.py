"""Caption noise as in web data: missing words and wrong words."""

from dataclasses import dataclass

import numpy as np

from workbench.data.masking import word_begins
from workbench.data.text import Vocabulary
from workbench.data.word_classes import ContentWords
from workbench.randomness import RowRandom

READ = 100_000  # at most this many captions are read to collect wrong words
MISSING = 0.5  # share of the disturbed words that are dropped; the others become another word


@dataclass(frozen=True)
class CaptionNoise:
    """Drops each word with probability `rate`, or replaces it by one of `words` (int64 [K]: token ids of content words
    that are a single token). `what` keys the noise by its purpose."""

    rate: float
    words: np.ndarray
    vocabulary: Vocabulary
    what: str

    @classmethod
    def of(cls, rate: float, content: ContentWords, captions: np.ndarray, what: str) -> "CaptionNoise":
        """Noise whose wrong words are drawn uniformly from the content words of `captions` int64 [N, L]."""
        captions = captions[:READ]
        vocabulary = content.vocabulary
        begins = word_begins(captions, vocabulary)
        continues = np.pad(vocabulary.ordinary[captions] & ~begins, ((0, 0), (0, 1)))[:, 1:]
        known = np.unique(captions[begins & ~continues])
        # In byte-level BPE, the token of a first word without a space before it would not begin a word elsewhere.
        words = known[content.open_token[known] & vocabulary.word_starts[known]]
        return cls(rate, words.astype(np.int64), vocabulary, what)

    def disturb(self, token_ids: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns captions int64 [B, L] with their noise, and bool [B, L] marking wrong tokens. The noise is keyed by
        each caption's number int64 [B] and never changes. A caption keeps at least one word."""
        rng = RowRandom(numbers, "caption noise", self.what)
        begins = word_begins(token_ids, self.vocabulary)
        ordinary = self.vocabulary.ordinary[token_ids]
        word = (begins.cumsum(axis=1) - 1).clip(min=0)  # draws are keyed by word, so that padding changes nothing

        def of_word(drawn: np.ndarray) -> np.ndarray:
            return np.take_along_axis(drawn, word, axis=1)

        fate, choice = (of_word(rng.random(token_ids.shape)) for _ in range(2))
        hit = ordinary & (fate < self.rate)
        wrong = hit & (fate >= self.rate * MISSING) & (len(self.words) > 0)
        dropped = hit & ~wrong
        # The first piece of a wrong word becomes the other word; its other pieces are dropped.
        dropped |= wrong & ~begins
        wrong &= begins
        emptied = (ordinary & ~dropped).sum(axis=1) == 0
        dropped[emptied], wrong[emptied] = False, False
        changed = token_ids.copy()
        if len(self.words):
            changed = np.where(wrong, self.words[(choice * len(self.words)).astype(np.int64)], changed)
        order = np.argsort(dropped, axis=1, kind="stable")  # the remaining tokens move up
        changed, wrong = (np.take_along_axis(tokens, order, axis=1) for tokens in (changed, wrong))
        kept = token_ids.shape[1] - dropped.sum(axis=1)
        changed[np.arange(token_ids.shape[1]) >= kept[:, None]] = self.vocabulary.pad
        return changed, wrong
