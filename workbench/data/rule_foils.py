"""Captions that are false in one fact, made from true ones by rules for English: two words are swapped, or one is
replaced.

The kinds are those of SugarCrepe (Hsieh et al. 2023, arXiv 2306.14610) that rules can produce. A candidate is likely
to be false, but not known to be. No replacement occurs in any caption of the image, and none may describe the same
thing as the word that it replaces, as far as the lists (`caption_words.py`) and the corpus (`nouns.py`) show.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from workbench.data.caption_words import (
    ADJECTIVES,
    DETERMINERS,
    NUMBERS,
    PEOPLE,
    POSTURES,
    PREPOSITIONS,
    ROOMS,
    SHADES,
    SYMMETRIC,
    kind_of_adjective,
    may_be_one_thing,
)
from workbench.data.nouns import CLOSED, Nouns, Token, as_noun, is_plural, stem, tokens
from workbench.data.taggers import TAGGERS, Tagger

MOST_WORDS = 6  # at most this many replacements per word, the likeliest first
IDIOMS: Final = frozenset(
    [("hot", "dog"), ("hot", "dogs"), ("high", "chair"), ("little", "bit"), ("snowy", "trees"), ("snowy", "day")]
)
INSIDE: Final = ("inside", "on top of", "under", "underneath", "beneath")
NOT_PLACES: Final = frozenset(
    [
        "black",
        "white",
        "color",
        "colour",
        "motion",
        "action",
        "flight",
        "half",
        "line",
        "order",
        "love",
        "use",
        "pieces",
        "slices",
        "sky",
        "skies",
    ]
)


@dataclass(frozen=True)
class Captioned:
    """A caption, and all captions of its image."""

    text: str
    every: Sequence[str]
    tagger: Tagger = "words"

    @cached_property
    def words(self) -> list[Token]:
        return tokens(self.text)

    @cached_property
    def classes(self) -> list[str] | None:
        """The class of each word, if a tagger that reads words in context is used."""
        return None if self.tagger == "words" else TAGGERS[self.tagger]([token.word for token in self.words])

    @cached_property
    def said(self) -> frozenset[str]:
        """The words of all captions of the image."""
        return frozenset(token.word for caption in (self.text, *self.every) for token in tokens(caption))


def candidates(captioned: Captioned, nouns: Nouns) -> dict[str, list[str]]:
    """Kind -> the false captions that the rules produce, without repetitions; kinds in the order of `RULES`."""
    by_kind = {}
    for kind, rule in RULES.items():
        texts = dict.fromkeys(_written(captioned, changes, nouns) for changes in rule(captioned, nouns))
        texts.pop(captioned.text, None)
        by_kind[kind] = list(texts)
    return by_kind


Changes = Mapping[tuple[int, int], str]  # words [first, last) -> their replacement


def _written(captioned: Captioned, changes: Changes, nouns: Nouns) -> str:
    """The caption with changed words; capitals keep their positions, and `a` and `an` match the word after them."""
    words, text = captioned.words, captioned.text
    edits = {}
    for (first, last), new in changes.items():
        start, end = words[first].start, words[last - 1].end
        edits[start, end] = new[:1].upper() + new[1:] if start == words[0].start and text[start].isupper() else new
        if first and words[first - 1].word in ("a", "an"):
            article, before = nouns.article(new.split()[0]), words[first - 1]
            edits[before.start, before.end] = article.capitalize() if text[before.start].isupper() else article
    for (start, end), new in sorted(edits.items(), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _nouns_of(captioned: Captioned, nouns: Nouns) -> list[int]:
    words, classes = captioned.words, captioned.classes
    places = [place for place, token in enumerate(words) if token.word in nouns.places and as_noun(words, place)]
    return [place for place in places if classes is None or classes[place] == "noun"]


def _adjectives_of(captioned: Captioned, nouns: Nouns) -> Iterator[tuple[int, str]]:
    """Yields (place, noun) of each adjective before its noun: `red` in `a red sports car with`."""
    words = captioned.words
    for place, token in enumerate(words):
        if captioned.classes is not None and not captioned.classes[place]:  # `orange` may be tagged as a noun
            continue
        if token.word not in ADJECTIVES or token.closes or (place and words[place - 1].word in SHADES):
            continue
        if token.word in SHADES and "colour" in kind_of_adjective(words[place + 1].word):
            continue
        # `black and white` counts as one property.
        if place > 1 and words[place - 1].word in ("and", "or") and words[place - 2].word in ADJECTIVES:
            continue
        noun = _head(words, place)
        if noun is None or noun not in nouns.places or (token.word, noun) in IDIOMS:
            continue
        if noun not in PEOPLE or "large" not in (token.word, *ADJECTIVES[token.word]):
            yield place, noun


def _head(words: Sequence[Token], place: int) -> str | None:
    """The last content word of the phrase after an adjective, at most three words on."""
    head = None
    for token in words[place + 1 : place + 4]:
        if token.word in CLOSED or token.word.endswith("ing"):
            return head
        head = token.word
        if token.closes:
            return head
    return head


def _swap_nouns(captioned: Captioned, nouns: Nouns) -> Iterator[Changes]:
    words, places = captioned.words, _nouns_of(captioned, nouns)
    for k, one in enumerate(places):
        for two in places[k + 1 :]:
            first, second = words[one].word, words[two].word
            if (
                _same_either_way(words, one, two, nouns)
                or is_plural(first) != is_plural(second)
                or may_be_one_thing(first, second)
            ):
                continue
            if stem(first) == stem(second) or words[one].closes or not _fits(words, one, second, nouns):
                continue
            if _fits(words, two, first, nouns):
                yield {(one, one + 1): second, (two, two + 1): first}


def _same_either_way(words: Sequence[Token], one: int, two: int, nouns: Nouns) -> bool:
    """Whether swapping two nouns changes nothing, because they are said to be together, or in one relation to a third
    thing: `a cat next to a dog`, `on a ledge on a board`."""
    between = {
        token.word
        for before, token in zip(words[one:two], words[one + 1 : two], strict=False)
        if token.word not in nouns.places and token.word not in ADJECTIVES and before.word not in DETERMINERS
    }
    return between <= SYMMETRIC | POSTURES or _leading(words, one) == _leading(words, two)


def _leading(words: Sequence[Token], place: int) -> str:
    """The word before a noun's determiners and adjectives."""
    place -= 1
    while place >= 0 and (words[place].word in DETERMINERS or words[place].word in ADJECTIVES):
        place -= 1
    return words[place].word if place >= 0 else ""


def _fits(words: Sequence[Token], place: int, noun: str, nouns: Nouns) -> bool:
    """Whether a noun fits the article before a place, or the lack of one."""
    before, known = words[place - 1].word, nouns.places[noun]
    if before in ("a", "an"):
        return bool(nouns.articled[known] >= 0.2)
    return is_plural(noun) or before not in CLOSED or before in ("the", "his", "her") or bool(nouns.bare[known] >= 0.25)


def _swap_adjectives(captioned: Captioned, nouns: Nouns) -> Iterator[Changes]:
    words, adjectives = captioned.words, list(_adjectives_of(captioned, nouns))
    for k, (one, noun) in enumerate(adjectives):
        for two, other in adjectives[k + 1 :]:
            first, second = words[one].word, words[two].word
            kinds = kind_of_adjective(first) | kind_of_adjective(second)
            distinct = "colour" in kinds or second in ADJECTIVES[first]
            if distinct and first != second and stem(noun) != stem(other) and not may_be_one_thing(noun, other):
                yield {(one, one + 1): second, (two, two + 1): first}


def _replace_noun(captioned: Captioned, nouns: Nouns) -> Iterator[Changes]:
    words = captioned.words
    for place in _nouns_of(captioned, nouns):
        replacements = nouns.replacements(words[place].word, words[place - 1].word, captioned.said)
        for new in replacements[:MOST_WORDS]:
            yield {(place, place + 1): new}


def _replace_adjective(captioned: Captioned, nouns: Nouns) -> Iterator[Changes]:
    for place, _ in _adjectives_of(captioned, nouns):
        for new in ADJECTIVES[captioned.words[place].word]:
            if new not in captioned.said:
                yield {(place, place + 1): new}


def _replace_number(captioned: Captioned, nouns: Nouns) -> Iterator[Changes]:
    """Replaces a number before a plural noun, unless another caption has another number."""
    words = captioned.words
    if len(captioned.said & frozenset(NUMBERS)) != 1:
        return
    for place, token in enumerate(words):
        head = _head(words, place)
        if token.word not in NUMBERS or token.closes or head is None or not is_plural(head):
            continue
        at = NUMBERS.index(token.word)
        for new in NUMBERS[max(0, at - 3) : at + 4]:
            if new != token.word:
                yield {(place, place + 1): new}


def _replace_preposition(captioned: Captioned, nouns: Nouns) -> Iterator[Changes]:
    words = captioned.words
    taken = -1
    for place in range(1, len(words) - 1):
        if place <= taken or (words[place - 1].word in ("to", "is", "are") and words[place].word in ("in", "on")):
            continue
        for length in (4, 3, 2, 1):
            last = place + length
            phrase = " ".join(token.word for token in words[place:last])
            if phrase not in PREPOSITIONS or any(token.closes for token in words[place:last]):
                continue
            taken = last - 1
            head = _object(words, place, last, phrase, nouns)
            if head is not None:
                for new in PREPOSITIONS[phrase]:
                    if new.split()[0] not in captioned.said and _goes_with(phrase, new, head):
                        yield {(place, last): new}
            break


def _goes_with(old: str, new: str, head: str) -> bool:
    if head in PEOPLE:
        return new not in INSIDE
    return old != "in" or (new == "outside") == (head in ROOMS)


def _object(words: Sequence[Token], first: int, last: int, phrase: str, nouns: Nouns) -> str | None:
    """The noun that follows a preposition; None if it is not a noun of the corpus, or if the preposition is part of a
    longer phrase."""
    place = last
    while place < len(words) and words[place].word in ("a", "an", "the", "his", "her", "their", "its"):
        place += 1
    head, before = _head(words, place - 1), words[first - 1]
    if head is None or head not in nouns.places or head in NOT_PLACES or before.closes:
        return None
    if phrase in ("with", "without"):  # `topped with` and `playing with` belong together
        return head if before.word in nouns.places else None
    return head if phrase != "in" or place > last else None


RULES: Final[dict[str, Callable[[Captioned, Nouns], Iterator[Changes]]]] = {
    "swap_nouns": _swap_nouns,
    "swap_adjectives": _swap_adjectives,
    "replace_noun": _replace_noun,
    "replace_adjective": _replace_adjective,
    "replace_number": _replace_number,
    "replace_preposition": _replace_preposition,
}
