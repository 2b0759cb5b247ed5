"""What a corpus of captions tells of its nouns: which there are, how they are used, and which take the place of which.

Nouns are found by their place: after a determiner or a preposition and before a word of a closed class. Two are of one
kind where they stand among the same words (distributional similarity, Lin 1998).
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
# Words that a noun may follow without a determiner.
BEFORE_BARE: Final = frozenset(word for phrase in PREPOSITIONS for word in phrase.split()) - {"to", "top", "front"} | {
    *("of", "at", "by", "from", "through", "across", "along", "and"),
}
WORD: Final = re.compile(r"\w+(?:['’-]\w+)*")
LEAST, OFTEN = 8, 0.3  # how many uses as a noun, and which share of all uses, make a word one
NOUNS, CONTEXTS = 3000, 4000  # the most frequent ones are compared
KIN = 60  # of each noun
# How much more often than by chance two nouns may be said of one image, to be taken for different things.
LIFT = 0.9
CLOSE = 6.0  # and from which lift on the one is expected where the other is said
IRREGULAR: Final = {
    **{"men": "man", "women": "woman", "people": "person", "children": "child", "feet": "foot", "teeth": "tooth"},
    **{"geese": "goose", "mice": "mouse", "knives": "knife", "leaves": "leaf", "shelves": "shelf", "sheep": "sheep"},
    **{"cattle": "cattle", "police": "police", "pants": "pants", "jeans": "jeans", "scissors": "scissors"},
}


@dataclass(frozen=True)
class Token:
    """A word of a caption in lower case, and where it stands. `closes`: punctuation follows, or the end."""

    word: str
    start: int
    end: int
    closes: bool


def tokens(caption: str) -> list[Token]:
    found = list(WORD.finditer(caption))
    made = []
    for place, match in enumerate(found):
        last = place + 1 == len(found)
        between = "." if last else caption[match.end() : found[place + 1].start()]
        made.append(Token(match[0].lower(), match.start(), match.end(), bool(between.strip())))
    return made


def stem(word: str) -> str:
    """The singular, as far as rules tell, and without the endings of verbs and agents: words with one stem are taken
    for one."""
    word = IRREGULAR.get(word, word)
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("ses", "xes", "ches", "shes", "oes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3 else word


def is_plural(word: str) -> bool:
    return word in IRREGULAR or (word.endswith("s") and stem(word) != word)


def as_noun(words: Sequence[Token], place: int) -> bool:
    """Whether a word stands where a noun does that is not part of a compound: `a dog with`, `of people on`, `a red car
    parked`."""
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
    """The nouns of a corpus, most frequent first. `kin` int [N, K]: those that stand among the same words, likest
    first, -1 where there are no more; `lift` float [N, N]: how much more often than by chance both are said of one
    image; `articled` and `bare` float [N]: shares of their uses after `a` or `an`, and after a preposition; `an`: words
    that follow `an`."""

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
        """Nouns that may stand after the word `before` in the place of `noun` and are likely to be false of an image of
        which the words `said` are true; likest first."""
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
            if any(self.lift[each, other] > CLOSE for each in known) or any(
                may_be_one_thing(word, each) for each in said
            ):
                continue
            kept.append(word)
        return kept


def learn_nouns(captions: Sequence[Sequence[str]]) -> Nouns:
    """Reads the captions of each image."""
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
        for word, count in sorted(named.items(), key=lambda each: (-total[each[0]], each[0]))
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
    """int [N, K]: by the cosine of positive pointwise mutual information with the words before and after."""
    places = {word: place for place, word in enumerate(words)}
    found: Counter[tuple[int, str]] = Counter()
    for caption in captions:
        for place, token in enumerate(caption):
            row = places.get(token.word)
            if row is None or not as_noun(caption, place):
                continue
            for step in (-2, -1, 1, 2):
                if 0 <= place + step < len(caption):
                    found[row, f"{step} {caption[place + step].word}"] += 1
    often = Counter[str]()
    for (_, context), count in found.items():
        often[context] += count
    columns = {context: place for place, (context, _) in enumerate(often.most_common(CONTEXTS))}
    kept = [(row, columns[context], count) for (row, context), count in found.items() if context in columns]
    if not kept:
        return np.full((len(words), KIN), -1)
    rows, cols, counts = (np.array(each) for each in zip(*kept, strict=True))
    shape = (len(words), len(columns))
    by_row, by_column = np.bincount(rows, counts, shape[0]), np.bincount(cols, counts, shape[1])
    information = np.log(counts * counts.sum() / (by_row[rows] * by_column[cols]))
    table = sparse.csr_matrix((np.maximum(information, 0), (rows, cols)), shape)
    norms = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel())
    table = sparse.diags(1 / np.maximum(norms, 1e-9)) @ table
    alike = (table @ table.T).toarray().round(6)
    np.fill_diagonal(alike, 0)
    order = np.argsort(-alike, axis=1, kind="stable")[:, :KIN]
    near = np.where(np.take_along_axis(alike, order, axis=1) > 0, order, -1)
    return np.pad(near, ((0, 0), (0, KIN - near.shape[1])), constant_values=-1)


def _lift(captions: Sequence[Sequence[Sequence[Token]]], words: tuple[str, ...]) -> np.ndarray:
    """float32 [N, N], smoothed towards 1 by half an image; singular and plural count as one."""
    stems = {each: place for place, each in enumerate(dict.fromkeys(map(stem, words)))}
    of_word = np.array([stems[stem(word)] for word in words], dtype=int)
    said = [
        sorted({stems[each] for caption in of_image for token in caption if (each := stem(token.word)) in stems})
        for of_image in captions
    ]
    rows = np.repeat(np.arange(len(said)), [len(each) for each in said])
    cols = np.array([each for of_image in said for each in of_image], dtype=int)
    table = sparse.csr_matrix((np.ones(len(cols)), (rows, cols)), (len(said), len(stems)))
    together = (table.T @ table).toarray()
    often = together.diagonal()
    expected = np.outer(often, often) / max(1, len(said))
    lift = ((together + 0.5) / (expected + 0.5)).astype(np.float32)
    return lift[np.ix_(of_word, of_word)]
