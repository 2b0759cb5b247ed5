"""Caption noise as the web has it: words that are missing, and words that are wrong."""

from dataclasses import dataclass

import numpy as np

from workbench.data.masking import word_begins
from workbench.data.text import Vocabulary
from workbench.data.word_classes import ContentWords
from workbench.randomness import RowRandom

READ = 100_000  # captions that are read for wrong words at most
MISSING = 0.5  # share of the disturbed words that are dropped; the others become another word


@dataclass(frozen=True)
class CaptionNoise:
    """Each word is, with probability `rate`, dropped or replaced by one of `words` (token ids of content words that are
    one token each, int64 [K]). `what` tells noise of one purpose from that of another."""

    rate: float
    words: np.ndarray
    vocabulary: Vocabulary
    what: str

    @classmethod
    def of(cls, rate: float, content: ContentWords, captions: np.ndarray, what: str) -> "CaptionNoise":
        """Wrong words are drawn from the content words of `captions` int64 [N, L], each as often as any other."""
        captions = captions[:READ]
        vocabulary = content.vocabulary
        begins = word_begins(captions, vocabulary)
        goes_on = np.pad(vocabulary.ordinary[captions] & ~begins, ((0, 0), (0, 1)))[:, 1:]
        known = np.unique(captions[begins & ~goes_on])
        # A first word without a space before it, as byte-level BPE has it, would not begin a word elsewhere.
        words = known[content.open_token[known] & vocabulary.word_starts[known]]
        return cls(rate, words.astype(np.int64), vocabulary, what)

    def disturb(self, token_ids: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Captions int64 [B, L] with their noise, which belongs to each caption's number int64 [B] and never changes,
        and which of the tokens are wrong, bool [B, L]. A caption keeps one word at least."""
        rng = RowRandom(numbers, "caption noise", self.what)
        begins = word_begins(token_ids, self.vocabulary)
        ordinary = self.vocabulary.ordinary[token_ids]
        word = (begins.cumsum(axis=1) - 1).clip(min=0)  # the words' numbers draw, so that padding changes nothing

        def of_word(drawn: np.ndarray) -> np.ndarray:
            return np.take_along_axis(drawn, word, axis=1)

        fate, choice = (of_word(rng.random(token_ids.shape)) for _ in range(2))
        hit = ordinary & (fate < self.rate)
        wrong = hit & (fate >= self.rate * MISSING) & (len(self.words) > 0)
        gone = hit & ~wrong
        # Of a wrong word's pieces the first one becomes the other word.
        gone |= wrong & ~begins
        wrong &= begins
        emptied = (ordinary & ~gone).sum(axis=1) == 0
        gone[emptied], wrong[emptied] = False, False
        changed = token_ids.copy()
        if len(self.words):
            changed = np.where(wrong, self.words[(choice * len(self.words)).astype(np.int64)], changed)
        order = np.argsort(gone, axis=1, kind="stable")  # what is left moves up
        changed, wrong = (np.take_along_axis(made, order, axis=1) for made in (changed, wrong))
        left = token_ids.shape[1] - gone.sum(axis=1)
        changed[np.arange(token_ids.shape[1]) >= left[:, None]] = self.vocabulary.pad
        return changed, wrong
