"""Caption perturbations by level, in the manner of MM_Robustness (Qiu et al. 2022): six of characters, five of words,
and two of whole sentences by rules. Keyed by (kind, level, caption), so every model reads the same ones.

Rewriting by a language model, and a filter of meaning, take a model of the user's own (`sentences.py`). Not there:
back-translation.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from workbench.data.lexicon import OPPOSITE, RELATIONS, synonym_sets
from workbench.randomness import generator

VERSION: Final = 1  # raise it whenever a change alters the perturbed captions
LEVELS: Final = (1, 2, 3, 4, 5)
ALL_LEVELS: Final = (1, 2, 3, 4, 5, 6, 7)
STEP: Final = 0.10  # captions here have a third of the words of COCO's: a level changes 10 % where the source has 5 %
ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"
Rng = np.random.Generator
Change = Callable[[str, float, Rng], str]


def perturb(
    captions: Sequence[str],
    kind: str,
    level: int,
    accept: Callable[[Sequence[str], Sequence[str]], list[bool]] | None = None,
    tries: int = 8,
) -> list[str]:
    """The captions, disturbed. With a judge of meaning, `accept(captions, disturbed)`, those that it refuses are drawn
    anew, at most `tries` times (MM_Robustness's filter); what is never accepted stays as it is."""
    change = PERTURBATIONS[kind]

    def drawn(caption: str, *again: int) -> str:
        return change(caption, STEP * level, generator("perturbation", kind, level, caption, *again))

    made = [drawn(caption) for caption in captions]
    if accept is None:
        return made
    open_ = list(range(len(captions)))
    for again in range(1, tries + 1):
        verdicts = accept([captions[at] for at in open_], [made[at] for at in open_])
        open_ = [at for at, kept in zip(open_, verdicts, strict=True) if not kept]
        if not open_:
            break
        for at in open_:
            made[at] = drawn(captions[at], again) if again < tries else captions[at]
    return made


def _in_words(change: Callable[[str, Rng], str]) -> Change:
    """`change` in each chosen word of at least two letters."""

    def apply(caption: str, rate: float, rng: Rng) -> str:
        words = caption.split()
        return " ".join(change(word, rng) if rng.random() < rate and len(word) > 1 else word for word in words)

    return apply


def _pick(choices: Sequence[str], rng: Rng) -> str:
    return choices[int(rng.integers(len(choices)))]


ROWS: Final = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS: Final[dict[str, str]] = {
    letter: "".join(
        other
        for line in (row - 1, row, row + 1)
        if 0 <= line < 3
        for at, other in enumerate(ROWS[line])
        if other != letter and abs(at - place) <= 1
    )
    for row, letters in enumerate(ROWS)
    for place, letter in enumerate(letters)
}
# Letters that optical recognition takes for each other.
CONFUSIONS: Final[dict[str, tuple[str, ...]]] = {
    "o": ("0",), "0": ("o",), "l": ("1", "i"), "i": ("1", "l"), "1": ("l",), "s": ("5",), "b": ("8", "6"),
    "g": ("9", "q"), "q": ("9", "g"), "z": ("2",), "e": ("c",), "c": ("e",), "u": ("v",), "v": ("u",), "n": ("h",),
    "h": ("n", "b"), "m": ("rn",), "d": ("cl",), "w": ("vv",), "t": ("f",), "f": ("t",), "a": ("o",),
}  # fmt: skip


def _keyboard(word: str, rng: Rng) -> str:
    place = int(rng.integers(len(word)))
    near = NEIGHBOURS.get(word[place].lower())
    return word[:place] + _pick(near, rng) + word[place + 1 :] if near else word


def _ocr(word: str, rng: Rng) -> str:
    places = [place for place, letter in enumerate(word) if letter.lower() in CONFUSIONS]
    if not places:
        return word
    place = places[int(rng.integers(len(places)))]
    return word[:place] + _pick(CONFUSIONS[word[place].lower()], rng) + word[place + 1 :]


def _insert(word: str, rng: Rng) -> str:
    place = int(rng.integers(len(word) + 1))
    return word[:place] + _pick(ALPHABET, rng) + word[place:]


def _substitute(word: str, rng: Rng) -> str:
    place = int(rng.integers(len(word)))
    return word[:place] + _pick(ALPHABET.replace(word[place].lower(), ""), rng) + word[place + 1 :]


def _swap(word: str, rng: Rng) -> str:
    place = int(rng.integers(len(word) - 1))
    return word[:place] + word[place + 1] + word[place] + word[place + 2 :]


def _delete(word: str, rng: Rng) -> str:
    place = int(rng.integers(len(word)))
    return word[:place] + word[place + 1 :]


def _misspelt(word: str, rng: Rng) -> str:
    """One inserted, replaced, swapped or deleted character."""
    forms = (_insert, _substitute, _swap, _delete)
    return forms[int(rng.integers(len(forms)))](word, rng)


def _word_dropping(caption: str, rate: float, rng: Rng) -> str:
    words = caption.split()
    kept = [word for word in words if rng.random() >= rate]
    return " ".join(kept or words[:1])


def _count(words: Sequence[str], rate: float) -> int:
    return max(1, int(rate * len(words)))


def _synonyms(caption: str, rate: float, rng: Rng) -> str:
    """Each chosen word that has a synonym takes one; `rate` is doubled, since many words have none."""
    table = synonyms()
    return " ".join(
        str(rng.choice(table[word])) if word in table and rng.random() < 2 * rate else word
        for word in caption.lower().split()
    )


def _insertion(caption: str, rate: float, rng: Rng) -> str:
    """Synonyms of words of the caption, put anywhere."""
    table, words = synonyms(), caption.lower().split()
    known = [word for word in words if word in table]
    for _ in range(_count(words, rate) if known else 0):
        new = _pick(table[_pick(known, rng)], rng)
        words.insert(int(rng.integers(len(words) + 1)), new)
    return " ".join(words)


def _word_swap(caption: str, rate: float, rng: Rng) -> str:
    words = caption.split()
    for _ in range(_count(words, rate) if len(words) > 1 else 0):
        one, two = rng.choice(len(words), size=2, replace=False)
        words[one], words[two] = words[two], words[one]
    return " ".join(words)


def _punctuation(caption: str, rate: float, rng: Rng) -> str:
    words = caption.split()
    for _ in range(_count(words, rate)):
        words.insert(int(rng.integers(len(words) + 1)), _pick(".,!?;:", rng))
    return " ".join(words)


FORMAL: Final = (
    ("there's", "there is"),
    ("pic of", "picture of"),
    ("isn't", "is not"),
    ("near", "in the vicinity of"),
    ("a bit", "slightly"),
)
CASUAL: Final = (
    ("there is", "there's"),
    ("there are", "there're"),
    ("a picture of", "pic of"),
    ("large", "biggish"),
    ("and", "n"),
)


def _by_rules(rules: Sequence[tuple[str, str]]) -> Change:
    """The first rules that apply, more of them at a higher rate; the whole caption where the rate is highest."""

    def apply(caption: str, rate: float, rng: Rng) -> str:
        made, left = f" {caption.lower()} ", max(1, round(rate / STEP / 2))
        for old, new in rules:
            if left and f" {old} " in made:
                made, left = made.replace(f" {old} ", f" {new} ", 1), left - 1
        return made.strip()

    return apply


def _converse(caption: str, rate: float, rng: Rng) -> str:
    """`A is above B` as `B is below A` (the counterpart of active and passive in the scenes' grammar); a caption
    without one such relation, or with three things, stays as it is."""
    lowered = caption.lower()
    found = [
        (concept, form)
        for concept, forms in RELATIONS.items()
        for form in sorted(forms, key=len, reverse=True)
        if f" {form} " in lowered
    ]
    if not found or " and " in lowered or " near " in lowered or " with " in lowered:
        return caption
    concept, form = found[0]
    before, _, after = lowered.partition(f" {form} ")
    before = before.removesuffix(" is")
    for start in ("there is ", "a picture of "):
        before = before.removeprefix(start)
    return f"{after} is {_pick(RELATIONS[OPPOSITE[concept]], rng)} {before}"


WORDNETS: Final = ("/usr/share/wordnet", "/usr/share/wordnet-3.0/dict")


@lru_cache(maxsize=1)
def synonyms() -> Mapping[str, list[str]]:
    """word -> words that mean the same: the scenes' lexicon, and of WordNet (Debian's `wordnet-base`, or the folder
    that WNSEARCHDIR names) the first sense of every other word."""
    table = {word: [other for other in names if other != word] for names in synonym_sets() for word in names}
    home = _wordnet()
    for part in ("noun", "verb", "adj") if home else ():
        assert home is not None
        for line in (home / f"data.{part}").read_text(encoding="latin-1").splitlines():
            if line.startswith(" "):
                continue
            fields = line.split(" ")
            count = int(fields[3], 16)
            words = [fields[4 + 2 * k].partition("(")[0].lower() for k in range(count)]
            plain = [word for word in words if word.isalpha()]
            for word in plain:
                others = [other for other in plain if other != word]
                if others and word not in table:
                    table[word] = others
    return table


def _wordnet() -> Path | None:
    folders = [Path(folder) for folder in (os.environ.get("WNSEARCHDIR"), *WORDNETS) if folder]
    return next((folder for folder in folders if (folder / "data.noun").is_file()), None)


def wordnet_version() -> str:
    """Tells one WordNet from another, and from none, without reading it: perturbed captions depend on it."""
    home = _wordnet()
    return repr([(home / f"data.{part}").stat().st_size for part in ("noun", "verb", "adj")] if home else None)


CORE: Final = ("character_noise", "word_dropping", "synonym_replacement")  # measured at the end of every trial
PERTURBATIONS: Final[dict[str, Change]] = {
    "keyboard": _in_words(_keyboard),
    "ocr": _in_words(_ocr),
    "character_insertion": _in_words(_insert),
    "character_substitution": _in_words(_substitute),
    "character_swap": _in_words(_swap),
    "character_deletion": _in_words(_delete),
    "synonym_replacement": _synonyms,
    "word_insertion": _insertion,
    "word_swap": _word_swap,
    "word_dropping": _word_dropping,
    "punctuation": _punctuation,
    "converse": _converse,
    "formal": _by_rules(FORMAL),
    "casual": _by_rules(CASUAL),
    "character_noise": _in_words(_misspelt),  # ours: one of the four kinds at random
}
