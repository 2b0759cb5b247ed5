"""Caption perturbations by level, following MM_Robustness (Qiu et al. 2022): six of characters, five of words, and two
of whole sentences by rules. Keyed by (kind, level, caption), so that every model reads the same perturbed captions.

Rewriting by a language model, and a filter of meaning, need a model supplied by the user (`sentences.py`).
Back-translation is not implemented.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from workbench.data.lexicon import OPPOSITE, RELATIONS, synonym_sets
from workbench.randomness import generator

VERSION: Final = 1  # increment whenever a change alters the perturbed captions
LEVELS: Final = (1, 2, 3, 4, 5)
ALL_LEVELS: Final = (1, 2, 3, 4, 5, 6, 7)
STEP: Final = 0.10  # MM_Robustness has 0.05 per level; captions here have a third of the words of COCO's
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
    """The perturbed captions.

    With a filter of meaning, `accept(captions, perturbed)`, rejected captions are drawn again, at most `tries` times in
    all (MM_Robustness's filter). A caption of which no perturbation is accepted stays unchanged.
    """
    change = PERTURBATIONS[kind]

    def drawn(caption: str, *attempt: int) -> str:
        return change(caption, STEP * level, generator("perturbation", kind, level, caption, *attempt))

    perturbed = [drawn(caption) for caption in captions]
    if accept is None:
        return perturbed
    rejected = list(range(len(captions)))
    for attempt in range(1, tries + 1):
        verdicts = accept([captions[at] for at in rejected], [perturbed[at] for at in rejected])
        rejected = [at for at, kept in zip(rejected, verdicts, strict=True) if not kept]
        if not rejected:
            break
        for at in rejected:
            perturbed[at] = drawn(captions[at], attempt) if attempt < tries else captions[at]
    return perturbed


def _in_words(change: Callable[[str, Rng], str]) -> Change:
    """A perturbation that applies `change` to each chosen word of at least two letters."""

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
# Letters that optical character recognition confuses.
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
    """The word with one character inserted, replaced, swapped or deleted."""
    forms = (_insert, _substitute, _swap, _delete)
    return forms[int(rng.integers(len(forms)))](word, rng)


def _word_dropping(caption: str, rate: float, rng: Rng) -> str:
    words = caption.split()
    kept = [word for word in words if rng.random() >= rate]
    return " ".join(kept or words[:1])


def _count(words: Sequence[str], rate: float) -> int:
    return max(1, int(rate * len(words)))


def _synonyms(caption: str, rate: float, rng: Rng) -> str:
    """Replaces each chosen word that has a synonym; `rate` is doubled, since many words have none."""
    table = synonyms()
    return " ".join(
        str(rng.choice(table[word])) if word in table and rng.random() < 2 * rate else word
        for word in caption.lower().split()
    )


def _insertion(caption: str, rate: float, rng: Rng) -> str:
    """Inserts synonyms of the caption's words at random positions."""
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
    """A perturbation that applies the first matching rules; the number of rules grows with the rate."""

    def apply(caption: str, rate: float, rng: Rng) -> str:
        text, remaining = f" {caption.lower()} ", max(1, round(rate / STEP / 2))
        for old, new in rules:
            if remaining and f" {old} " in text:
                text, remaining = text.replace(f" {old} ", f" {new} ", 1), remaining - 1
        return text.strip()

    return apply


def _converse(caption: str, rate: float, rng: Rng) -> str:
    """Rewrites `A is above B` as `B is below A`, the counterpart of active and passive in the scenes' grammar.

    A caption without exactly one such relation, or with three objects, stays unchanged.
    """
    lowered = caption.lower()
    matches = [
        (concept, form)
        for concept, forms in RELATIONS.items()
        for form in sorted(forms, key=len, reverse=True)
        if f" {form} " in lowered
    ]
    if not matches or " and " in lowered or " near " in lowered or " with " in lowered:
        return caption
    concept, form = matches[0]
    before, _, after = lowered.partition(f" {form} ")
    before = before.removesuffix(" is")
    for start in ("there is ", "a picture of "):
        before = before.removeprefix(start)
    return f"{after} is {_pick(RELATIONS[OPPOSITE[concept]], rng)} {before}"


WORDNETS: Final = ("/usr/share/wordnet", "/usr/share/wordnet-3.0/dict")


@lru_cache(maxsize=1)
def synonyms() -> Mapping[str, list[str]]:
    """word -> its synonyms, from the scenes' lexicon; for all other words, from the first sense in WordNet.

    WordNet is Debian's `wordnet-base`, or the folder that WNSEARCHDIR names.
    """
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
    """A cheap identifier of the installed WordNet, or of its absence; perturbed captions depend on it."""
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
