"""English words from which foils are made: which words exclude each other, and which may describe the same thing."""

from collections.abc import Iterable, Mapping
from typing import Final

from workbench.data.word_lists import word_list, word_table

NUMBERS: Final = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DETERMINERS_WORDS = """
a an the his her their its my your our some this that these those each another several many no few both
"""
DETERMINERS: Final = frozenset(_DETERMINERS_WORDS.split()) | frozenset(NUMBERS)


def _exclusive(groups: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Maps each word to the words of the other members of its group. A member is one word, or several with the same
    meaning: `grey/gray`."""
    excluded: dict[str, list[str]] = {}
    for group in groups:
        members = [member.split("/") for member in group.split()]
        for member in members:
            others = [word for other in members if other is not member for word in other]
            for word in member:
                excluded.setdefault(word, []).extend(others)
    return {word: tuple(dict.fromkeys(others)) for word, others in excluded.items()}


# Colours are compared pair by pair: what one viewer calls tan, another calls brown.
_COLOURS: Final = "red orange yellow green blue purple pink brown black white grey gray silver gold golden tan beige"
_NEAR_COLOURS: Final = (
    "red orange pink",
    "orange yellow gold golden brown",
    "yellow gold golden tan beige",
    "brown tan beige black",
    "white grey gray silver beige",
    "black grey gray silver",
    "blue purple green",
    "purple pink",
)


def _colours() -> dict[str, tuple[str, ...]]:
    near = [set(group.split()) for group in _NEAR_COLOURS]
    words = _COLOURS.split()
    return {
        word: tuple(other for other in words if other != word and not any({word, other} <= group for group in near))
        for word in words
    }


_PROPERTIES: Final = word_list("adjectives")
_BY_COLOUR: Final = _colours()
ADJECTIVES: Final[Mapping[str, tuple[str, ...]]] = _BY_COLOUR | _exclusive(_PROPERTIES)
# An adjective after one of these is not a property of its own: `dark blue`.
SHADES: Final = frozenset(["light", "dark", "bright", "pale", "deep"])


def kind_of_adjective(word: str) -> frozenset[str]:
    """The properties that an adjective is a value of. Two adjectives that share a property may be swapped."""
    if word in _BY_COLOUR:
        return frozenset(["colour"])
    return frozenset(group for group in _PROPERTIES if word in group.replace("/", " ").split())


# preposition -> prepositions that state a different relation between the same two things
PREPOSITIONS: Final[Mapping[str, tuple[str, ...]]] = {
    phrase: tuple(others) for phrase, others in word_table("prepositions").items()
}
# Between two things, these words mean the same in either order.
_SYMMETRIC_WORDS = """
and or with near beside next to by along alongside together between while are is
"""
SYMMETRIC: Final = DETERMINERS | frozenset(_SYMMETRIC_WORDS.split())

POSTURES: Final = frozenset(
    ["sitting", "standing", "laying", "lying", "seated", "parked", "resting", "walking", "posing", "sits", "stands"]
)

# Nouns that say little about what is visible, or that belong to a phrase: never replaced and never inserted.
GENERIC: Final = frozenset(word_list("generic_nouns"))
# Places that a thing is either inside or outside of.
_ROOMS_WORDS = """
room rooms kitchen bathroom bedroom restroom office house home building store shop restaurant church barn garage hotel
school
"""
ROOMS: Final = frozenset(_ROOMS_WORDS.split())
# Groups of nouns that may name one thing, or a thing and its part: no noun replaces another of its group.
_ALIKE: Final = word_list("alike_nouns")
_MALE_WORDS = """
man men boy boys guy guys gentleman gentlemen male males husband father dad groom son businessman he
"""
MALE: Final = frozenset(_MALE_WORDS.split())
_FEMALE_WORDS = """
woman women girl girls lady ladies female females wife mother mom bride daughter gal businesswoman she
"""
FEMALE: Final = frozenset(_FEMALE_WORDS.split())
_CHILDREN: Final = frozenset(["boy", "boys", "girl", "girls", "son", "daughter"])
_NEUTRAL: Final = frozenset(word_list("people"))
PEOPLE: Final = MALE | FEMALE | _NEUTRAL


def _lines() -> dict[str, frozenset[int]]:
    lines_of: dict[str, set[int]] = {}
    for number, line in enumerate(_ALIKE):
        for word in line.split():
            lines_of.setdefault(word, set()).add(number)
    return {word: frozenset(numbers) for word, numbers in lines_of.items()}


_LINES: Final = _lines()


def may_be_one_thing(one: str, other: str) -> bool:
    """Whether both nouns may describe the same thing, as far as the lists know. Of two people, only a man and a woman,
    or a boy and a girl, exclude each other."""
    if one in PEOPLE and other in PEOPLE:
        crossed = (one in MALE and other in FEMALE) or (one in FEMALE and other in MALE)
        return not crossed or (one in _CHILDREN) != (other in _CHILDREN)
    return bool(_LINES.get(one, frozenset()) & _LINES.get(other, frozenset()))
