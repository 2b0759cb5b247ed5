"""Content words and function words: which words describe an image, and which only structure the sentence."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from workbench.data.lexicon import COLOURS, KINDS, RELATIONS, SIZES, TEXTURES
from workbench.data.masking import word_begins
from workbench.data.text import Tokeniser, Vocabulary
from workbench.data.word_lists import word_list

FUNCTION_WORDS: Final = frozenset(word_list("function_words"))  # as in ARO's shuffles (`evaluation/word_order.py`)
MORE_FUNCTION_WORDS: Final = frozenset(word_list("more_function_words"))
NUMBERS: Final = frozenset(["two", "three"])  # content words, since an image shows them
# Share of the captions. In English captions only function words reach it, and words of a common opening phrase.
FREQUENT = 0.2
READ = 100_000  # at most this many captions are counted


def closed_class(captions: pl.Series) -> frozenset[str]:
    """The words of closed classes, in lower case: English function words, and every word that at least a fifth of the
    captions contain, such as `image` where many begin with `a picture of`. Words of the scenes' lexicon are exempt."""
    words = captions.head(READ).str.to_lowercase().str.extract_all(r"\w+").list.unique().explode().drop_nulls()
    counts = words.value_counts()
    frequent = counts.filter(counts["count"] >= FREQUENT * min(READ, len(captions)))[words.name].to_list()
    return (FUNCTION_WORDS - NUMBERS) | MORE_FUNCTION_WORDS | (frozenset(frequent) - _named())


def _named() -> frozenset[str]:
    """The words of the scenes' lexicon."""
    groups: list[Iterable[str]] = [names for _, names in KINDS.values()]
    groups += [names for _, names in COLOURS.values()]
    groups += [*SIZES.values(), *TEXTURES.values(), *RELATIONS.values()]
    return frozenset(word for names in groups for name in names for word in name.split())


@dataclass(frozen=True)
class ContentWords:
    """Which tokens of a caption belong to content words. `open_token` bool [V]: content words that are a single token;
    `closed_pieces`: function words that are several tokens; `letters` bool [V]: tokens with a letter or digit."""

    open_token: np.ndarray
    closed_pieces: frozenset[tuple[int, ...]]
    vocabulary: Vocabulary
    letters: np.ndarray

    @classmethod
    def of(cls, tokeniser: Tokeniser, closed: Iterable[str]) -> "ContentWords":
        names, vocabulary = sorted(closed), tokeniser.vocabulary
        # Byte-level BPE uses other tokens after a space, and for capitals.
        forms = [form for name in names for form in (name, name.capitalize(), f" {name}", f" {name.capitalize()}")]
        pieces = [tuple(row[vocabulary.ordinary[row]].tolist()) for row in tokeniser.encode(forms)]
        texts = [tokeniser.decode([token]) for token in range(vocabulary.size)]
        letters = np.array([any(map(str.isalnum, text)) for text in texts])
        open_token = letters & vocabulary.ordinary
        open_token[[ids[0] for ids in pieces if len(ids) == 1]] = False
        return cls(open_token, frozenset(ids for ids in pieces if len(ids) > 1), vocabulary, letters)

    def of_captions(self, token_ids: np.ndarray) -> np.ndarray:
        """bool [B, L]: marks the tokens of content words. Either all pieces of a word are marked or none, except
        punctuation that is attached to it."""
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
