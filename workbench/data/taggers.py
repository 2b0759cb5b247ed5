"""Taggers that find the nouns and adjectives of a caption: by lists of function words, or with spaCy."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, Literal

import numpy as np

from workbench.data.word_classes import FUNCTION_WORDS
from workbench.errors import UserError

Tagger = Literal["words", "spacy"]
SPACY_MODEL: Final = "en_core_web_sm"  # ARO's


def _by_words(words: Sequence[str]) -> list[str]:
    content = (word not in FUNCTION_WORDS and not word.endswith(("ing", "ly")) for word in words)
    return ["noun" if is_content else "" for is_content in content]


def _by_spacy(words: Sequence[str]) -> list[str]:
    """The class of each word: that of the first of its tokens that has one."""
    caption = " ".join(words)
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])
    classes = [""] * len(words)
    for token in _spacy()(caption):
        place = int(np.searchsorted(starts, token.idx, side="right")) - 1
        kind = "noun" if token.tag_.startswith("NN") else "adjective" if token.tag_.startswith("JJ") else ""
        classes[place] = classes[place] or kind
    return classes


@cache
def _spacy() -> Callable:  # type: ignore[type-arg]
    try:
        import spacy
    except ImportError as error:
        raise UserError(
            "the tagger `spacy`: spaCy is not installed; `pip install -e '.[aro]'` in the clone."
        ) from error
    try:
        loaded: Callable = spacy.load(SPACY_MODEL, disable=["parser", "ner", "lemmatizer"])  # type: ignore[type-arg]
    except OSError as error:
        raise UserError(
            f"the tagger `spacy`: its model {SPACY_MODEL} is not installed; `python -m spacy download {SPACY_MODEL}`."
        ) from error
    return loaded


TAGGERS: Final[dict[Tagger, Callable[[Sequence[str]], list[str]]]] = {"words": _by_words, "spacy": _by_spacy}
