"""Learns the nouns of a corpus of captions: which there are, how they are used, and which can replace which.

Nouns are recognised by their position: after a determiner or a preposition and before a word of a closed class. Two
nouns are of the same kind if they occur among the same words (distributional similarity, Lin 1998).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from scipy import sparse

from workbench.data.caption_words import ADJECTIVES, DETERMINERS, GENERIC, NUMBERS, PREPOSITIONS, may_be_one_thing
from workbench.data.word_classes import FUNCTION_WORDS, MORE_FUNCTION_WORDS

CLOSED: Final = (FUNCTION_WORDS | MORE_FUNCTION_WORDS) - frozenset(["like"])
# Words after which a noun may stand without a determiner.
BEFORE_BARE: Final = frozenset(word for phrase in PREPOSITIONS for word in phrase.split()) - {"to", "top", "front"} | {
    *("of", "at", "by", "from", "through", "across", "along", "and"),
}
WORD: Final = re.compile(r"\w+(?:['’-]\w+)*")
LEAST, OFTEN = 8, 0.3  # a word is a noun from this many uses as one, and this share of all its uses
NOUNS, CONTEXTS = 3000, 4000  # only the most frequent ones are compared
KIN = 60  # similar nouns that are kept per noun
# Two nouns name different things if they co-occur at most this many times as often as by chance in an image's captions.
LIFT = 0.9
CLOSE = 6.0  # from this lift on, one noun is expected where the other occurs
IRREGULAR: Final = {
    **{"men": "man", "women": "woman", "people": "person", "children": "child", "feet": "foot", "teeth": "tooth"},
    **{"geese": "goose", "mice": "mouse", "knives": "knife", "leaves": "leaf", "shelves": "shelf", "sheep": "sheep"},
    **{"cattle": "cattle", "police": "police", "pants": "pants", "jeans": "jeans", "scissors": "scissors"},
}


@dataclass(frozen=True)
class Token:
    """A word of a caption in lower case, with its position. `closes`: punctuation or the end follows."""

    word: str
    start: int
    end: int
    closes: bool


def tokens(caption: str) -> list[Token]:
    """The words of a caption, in order."""
    matches = list(WORD.finditer(caption))
    words = []
    for place, match in enumerate(matches):
        last = place + 1 == len(matches)
        between = "." if last else caption[match.end() : matches[place + 1].start()]
        words.append(Token(match[0].lower(), match.start(), match.end(), bool(between.strip())))
    return words


def stem(word: str) -> str:
    """The singular, as far as rules can derive it. Words with the same stem are treated as one word."""
    word = IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "ches", "shes", "oes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def is_plural(word: str) -> bool:
    return word in IRREGULAR or (word.endswith("s") and stem(word) != word)


def as_noun(words: Sequence[Token], place: int) -> bool:
    """Whether a word is in the position of a noun that is not part of a compound: `a dog with`, `of people on`, `a red
    car parked`."""
    if place == 0:
        return False
    before, token = words[place - 1], words[place]
    opens = before.word in DETERMINERS or before.word in ADJECTIVES or before.word in BEFORE_BARE
    if before.closes or not opens:
        return False
    if token.closes:
        return True
    after = words[place + 1].word
    return after in CLOSED or after.endswith("ing")


@dataclass(frozen=True)
class Nouns:
    """The nouns of a corpus, most frequent first. `kin` int [N, K]: the nouns that occur among the same words, most
    similar first, padded with -1. `lift` float [N, N]: how much more often than by chance both occur in an image's
    captions. `articled` and `bare` float [N]: shares of their uses after `a` or `an`, and after a preposition. `an`:
    words that follow `an`."""

    words: tuple[str, ...]
    counts: np.ndarray
    kin: np.ndarray
    lift: np.ndarray
    articled: np.ndarray
    bare: np.ndarray
    an: frozenset[str]

    @cached_property
    def places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    def article(self, word: str) -> str:
        return "an" if word in self.an or (word not in self.places and word[:1] in "aeiou") else "a"

    def replacements(self, noun: str, before: str, said: frozenset[str]) -> list[str]:
        """Nouns that can replace `noun` after the word `before` and are likely to be false of an image whose captions
        contain the words `said`; most similar first."""
        place = self.places.get(noun)
        if place is None:
            return []
        known = [self.places[word] for word in said if word in self.places]
        stems = {stem(word) for word in said}
        kept = []
        for other in self.kin[place][self.kin[place] >= 0]:
            word = self.words[other]
            if is_plural(word) != is_plural(noun) or stem(word) in stems or self.lift[place, other] > LIFT:
                continue
            if before in ("a", "an") and self.articled[other] < 0.2:
                continue
            if before in BEFORE_BARE and not is_plural(noun) and self.bare[other] < 0.25:
                continue
            if any(self.lift[place_said, other] > CLOSE for place_said in known) or any(
                may_be_one_thing(word, word_said) for word_said in said
            ):
                continue
            kept.append(word)
        return kept


def learn_nouns(captions: Sequence[Sequence[str]]) -> Nouns:
    """Learns the nouns from the captions of each image."""
    read = [[tokens(caption) for caption in of_image] for of_image in captions]
    every = [caption for of_image in read for caption in of_image]
    total, named, articled, bare = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    after_article = {"a": Counter[str](), "an": Counter[str]()}
    for caption in every:
        for place, token in enumerate(caption):
            total[token.word] += 1
            before = caption[place - 1].word if place else ""
            if before in after_article:
                after_article[before][token.word] += 1
            if as_noun(caption, place):
                named[token.word] += 1
                articled[token.word] += before in ("a", "an")
                bare[token.word] += before in BEFORE_BARE
    words = tuple(
        word
        for word, count in sorted(named.items(), key=lambda entry: (-total[entry[0]], entry[0]))
        if count >= LEAST and count >= _needed(word) * total[word] and _may_be_noun(word)
    )[:NOUNS]
    uses = np.array([named[word] for word in words], dtype=float)
    an = frozenset(word for word, count in after_article["an"].items() if count > after_article["a"][word])
    return Nouns(
        words,
        np.array([total[word] for word in words]),
        _kin(every, words),
        _lift(read, words),
        np.array([articled[word] for word in words]) / np.maximum(uses, 1),
        np.array([bare[word] for word in words]) / np.maximum(uses, 1),
        an,
    )


def _needed(word: str) -> float:
    return 2 * OFTEN if word.endswith(("ing", "ed")) else OFTEN


def _may_be_noun(word: str) -> bool:
    closed = word in CLOSED or word in GENERIC or word in ADJECTIVES or word in NUMBERS
    return not closed and not word.endswith("ly") and word.isalpha() and len(word) > 2


def _kin(captions: Sequence[Sequence[Token]], words: tuple[str, ...]) -> np.ndarray:
    """int [N, K]: the similar nouns, by cosine of positive pointwise mutual information with the words around them."""
    places = {word: place for place, word in enumerate(words)}
    contexts: Counter[tuple[int, str]] = Counter()
    for caption in captions:
        for place, token in enumerate(caption):
            row = places.get(token.word)
            if row is None or not as_noun(caption, place):
                continue
            for step in (-2, -1, 1, 2):
                if 0 <= place + step < len(caption):
                    contexts[row, f"{step} {caption[place + step].word}"] += 1
    frequency = Counter[str]()
    for (_, context), count in contexts.items():
        frequency[context] += count
    columns = {context: place for place, (context, _) in enumerate(frequency.most_common(CONTEXTS))}
    kept = [(row, columns[context], count) for (row, context), count in contexts.items() if context in columns]
    if not kept:
        return np.full((len(words), KIN), -1)
    rows, cols, counts = (np.array(column) for column in zip(*kept, strict=True))
    shape = (len(words), len(columns))
    by_row, by_column = np.bincount(rows, counts, shape[0]), np.bincount(cols, counts, shape[1])
    information = np.log(counts * counts.sum() / (by_row[rows] * by_column[cols]))
    table = sparse.csr_matrix((np.maximum(information, 0), (rows, cols)), shape)
    norms = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
    table = sparse.diags(1 / np.maximum(norms, 1e-9)) @ table
    similarity = (table @ table.T).toarray().round(6)
    np.fill_diagonal(similarity, 0)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :KIN]
    near = np.where(np.take_along_axis(similarity, order, axis=1) > 0, order, -1)
    return np.pad(near, ((0, 0), (0, KIN - near.shape[1])), constant_values=-1)


def _lift(captions: Sequence[Sequence[Sequence[Token]]], words: tuple[str, ...]) -> np.ndarray:
    """The lift float32 [N, N], smoothed towards 1 by half an image; singular and plural count as one noun."""
    stems = {noun: place for place, noun in enumerate(dict.fromkeys(map(stem, words)))}
    of_word = np.array([stems[stem(word)] for word in words], dtype=int)
    places = [
        sorted({stems[noun] for caption in of_image for token in caption if (noun := stem(token.word)) in stems})
        for of_image in captions
    ]
    rows = np.repeat(np.arange(len(places)), [len(of_image) for of_image in places])
    cols = np.array([place for of_image in places for place in of_image], dtype=int)
    table = sparse.csr_matrix((np.ones(len(cols)), (rows, cols)), (len(places), len(stems)))
    together = (table.T @ table).toarray()
    counts = together.diagonal()
    expected = np.outer(counts, counts) / max(1, len(places))
    lift = ((together + 0.5) / (expected + 0.5)).astype(np.float32)
    return lift[np.ix_(of_word, of_word)]
