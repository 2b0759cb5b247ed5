"""How likely a caption is as a text, by counts of others: its words in order, which go together, how common each is."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise

import numpy as np

from workbench.data.nouns import tokens

DISCOUNT = 0.75  # absolute discounting (Ney et al. 1994)
START, END = "<s>", "</s>"
Step = tuple[tuple[str, ...], str]  # the words before one, and it


class TextCounts:
    """Counts of a corpus of captions: trigrams that back off to pairs and single words, and words that stand in one
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
        """float [N, 3]: log-likelihood by trigrams (nats); mean pointwise mutual information of two words of a caption;
        log-likelihood by single words (nats), since trigrams hide how rare a word is among other rare words."""
        words = [[token.word for token in tokens(caption)] for caption in captions]
        made = [(self._likelihood(each), self._information(each), self._commonness(each)) for each in words]
        return np.array(made).reshape(len(words), 3)

    def _likelihood(self, words: Sequence[str]) -> float:
        return sum(math.log(self._chance(before, word)) for before, word in _steps(words))

    def _chance(self, history: tuple[str, ...], word: str) -> float:
        shorter = self._chance(history[1:], word) if history else 1 / (self.different[()] + 1)
        if not self.total[history]:
            return shorter
        left = DISCOUNT * self.different[history] * shorter
        return (max(self.seen[*history, word] - DISCOUNT, 0) + left) / self.total[history]

    def _information(self, words: Sequence[str]) -> float:
        told = [
            math.log((self.together[one, two] + 0.1) * self.count / ((self.within[one] + 1) * (self.within[two] + 1)))
            for one, two in combinations(sorted(set(words)), 2)
        ]
        return math.fsum(told) / len(told) if told else 0.0

    def _commonness(self, words: Sequence[str]) -> float:
        """The same for the same words in any order, to the last bit."""
        return math.fsum(math.log(self._chance((), word)) for word in words)


def _steps(words: Sequence[str]) -> Iterator[Step]:
    padded = [START, START, *words, END]
    return zip(pairwise(padded), padded[2:], strict=False)
