"""Scores how likely a caption is as a text, from counts of other captions: word order, co-occurrence, frequency."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np

from workbench.data.nouns import tokens

DISCOUNT = 0.75  # absolute discounting (Ney et al. 1994)
START, END = "<s>", "</s>"
Step = tuple[tuple[str, ...], str]  # (the words before a word, the word)


class TextCounts:
    """Counts of a corpus of captions: trigrams that back off to bigrams and unigrams, and words that occur in the same
    caption."""

    def __init__(self, captions: Sequence[str]) -> None:
        self.seen: Counter[tuple[str, ...]] = Counter()
        self.total: Counter[tuple[str, ...]] = Counter()
        self.different: Counter[tuple[str, ...]] = Counter()
        self.within: Counter[str] = Counter()
        self.together: Counter[tuple[str, ...]] = Counter()
        self.count = len(captions)
        for caption in captions:
            words = [token.word for token in tokens(caption)]
            for before, word in _steps(words):
                for length in range(3):
                    history = before[len(before) - length :]
                    self.different[history] += (*history, word) not in self.seen
                    self.seen[*history, word] += 1
                    self.total[history] += 1
            distinct = sorted(set(words))
            self.within.update(distinct)
            self.together.update(combinations(distinct, 2))

    def __call__(self, captions: Sequence[str]) -> np.ndarray:
        """float [N, 3]: log-likelihood by trigrams (nats); mean pointwise mutual information of the word pairs;
        log-likelihood by unigrams (nats), since trigrams hide how rare a word is among other rare words."""
        words = [[token.word for token in tokens(caption)] for caption in captions]
        scores = [(self._likelihood(text), self._information(text), self._commonness(text)) for text in words]
        return np.array(scores).reshape(len(words), 3)

    def _likelihood(self, words: Sequence[str]) -> float:
        return sum(math.log(self._chance(before, word)) for before, word in _steps(words))

    def _chance(self, history: tuple[str, ...], word: str) -> float:
        shorter = self._chance(history[1:], word) if history else 1 / (self.different[()] + 1)
        if not self.total[history]:
            return shorter
        backed_off = DISCOUNT * self.different[history] * shorter
        return (max(self.seen[*history, word] - DISCOUNT, 0) + backed_off) / self.total[history]

    def _information(self, words: Sequence[str]) -> float:
        information = [
            math.log((self.together[one, two] + 0.1) * self.count / ((self.within[one] + 1) * (self.within[two] + 1)))
            for one, two in combinations(sorted(set(words)), 2)
        ]
        return math.fsum(information) / len(information) if information else 0.0

    def _commonness(self, words: Sequence[str]) -> float:
        """The log-likelihood by unigrams; bit-identical for the same words in any order."""
        return math.fsum(math.log(self._chance((), word)) for word in words)


def _steps(words: Sequence[str]) -> Iterator[Step]:
    padded = [START, START, *words, END]
    return zip(pairwise(padded), padded[2:], strict=False)
