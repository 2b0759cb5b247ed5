"""Which words say what an image shows, and which hold the sentence together: open and closed classes of words."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from workbench.data.lexicon import COLOURS, KINDS, RELATIONS, SIZES, TEXTURES
from workbench.data.masking import word_begins
from workbench.data.text import Tokeniser, Vocabulary

_FUNCTION = """
a an the this that these those some any each every no one two three of in on at by for with from to into onto over
under above below near behind beside between across through around along against up down out off and or but nor so
while as than then there here is are was were be been being am has have had do does did can could will would may might
must shall should it its he she they them his her their him we our you your i my me who which what where when how not
very too also just only
"""
_MORE = """
about after all although alongside amid among another atop because before beneath besides beyond both during either
else few if inside itself himself herself themselves yourself like many more most much neither now other others
outside own per same several since such though till together toward towards underneath unless until upon us whether
whom whose why within without yet s t ve re ll d m
"""
FUNCTION_WORDS: Final = frozenset(_FUNCTION.split())  # as ARO's shuffles take them (`evaluation/published.py`)
MORE_FUNCTION_WORDS: Final = frozenset(_MORE.split())
NUMBERS: Final = frozenset(["two", "three"])  # an image shows them
# Share of the captions. In English ones function words alone are in so many, and what most captions begin with.
FREQUENT = 0.2
READ = 100_000  # captions that are counted at most


def closed_class(captions: pl.Series) -> frozenset[str]:
    """The words of closed classes, in lower case: English ones, and whatever is in a fifth of the captions or more,
    such as `image` where many begin with `a picture of`, unless the scenes' lexicon names something by it."""
    words = captions.head(READ).str.to_lowercase().str.extract_all(r"\w+").list.unique().explode().drop_nulls()
    counts = words.value_counts()
    often = counts.filter(counts["count"] >= FREQUENT * min(READ, len(captions)))[words.name].to_list()
    return (FUNCTION_WORDS - NUMBERS) | MORE_FUNCTION_WORDS | (frozenset(often) - _named())


def _named() -> frozenset[str]:
    """What the scenes' lexicon has words for."""
    groups: list[Iterable[str]] = [names for _, names in KINDS.values()]
    groups += [names for _, names in COLOURS.values()]
    groups += [*SIZES.values(), *TEXTURES.values(), *RELATIONS.values()]
    return frozenset(word for names in groups for name in names for word in name.split())


@dataclass(frozen=True)
class ContentWords:
    """Which tokens of a caption belong to words of open classes. `open_token` bool [V]: of words that are one token;
    `closed_pieces`: closed words that are several; `letters` bool [V]: tokens that are no mere punctuation."""

    open_token: np.ndarray
    closed_pieces: frozenset[tuple[int, ...]]
    vocabulary: Vocabulary
    letters: np.ndarray

    @classmethod
    def of(cls, tokeniser: Tokeniser, closed: Iterable[str]) -> "ContentWords":
        names, vocabulary = sorted(closed), tokeniser.vocabulary
        # Byte-level BPE has other tokens after a space, and for capitals.
        forms = [form for name in names for form in (name, name.capitalize(), f" {name}", f" {name.capitalize()}")]
        pieces = [tuple(row[vocabulary.ordinary[row]].tolist()) for row in tokeniser.encode(forms)]
        texts = [tokeniser.decode([token]) for token in range(vocabulary.size)]
        letters = np.array([any(map(str.isalnum, text)) for text in texts])
        open_token = letters & vocabulary.ordinary
        open_token[[ids[0] for ids in pieces if len(ids) == 1]] = False
        return cls(open_token, frozenset(ids for ids in pieces if len(ids) > 1), vocabulary, letters)

    def of_captions(self, token_ids: np.ndarray) -> np.ndarray:
        """bool [B, L]: the tokens of content words; a word's pieces all are or none, but for punctuation that is
        written to it."""
        begins = word_begins(token_ids, self.vocabulary)
        inside = self.vocabulary.ordinary[token_ids] & ~begins
        chosen: np.ndarray = self.open_token[token_ids]
        for row in np.flatnonzero(inside.any(axis=1)):
            ids = token_ids[row]
            starts = np.flatnonzero(begins[row])
            for first in starts[inside[row][np.minimum(starts + 1, len(ids) - 1)]]:
                last = first + 1
                while last < len(ids) and inside[row, last]:
                    last += 1
                word = tuple(token for token in ids[first:last].tolist() if self.letters[token])
                is_open = word not in self.closed_pieces and (len(word) != 1 or bool(self.open_token[word[0]]))
                chosen[row, first:last] = is_open & self.letters[ids[first:last]]
        return chosen
