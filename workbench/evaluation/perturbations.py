"""Caption perturbations at five levels, in the manner of MM_Robustness (Qiu et al. 2022): 5 % of the words a level."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from workbench.data.lexicon import synonym_sets
from workbench.randomness import generator

LEVELS: Final = (1, 2, 3, 4, 5)
STEP: Final = 0.10  # captions here have a third of the words of COCO's: a level changes 10 % where the source has 5 %
ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz"


def perturb(captions: Sequence[str], kind: str, level: int) -> list[str]:
    """The captions, disturbed; keyed by (kind, level, caption), so every model reads the same ones."""
    change = PERTURBATIONS[kind]
    return [change(caption, STEP * level, generator("perturbation", kind, level, caption)) for caption in captions]


def _character_noise(caption: str, rate: float, rng: np.random.Generator) -> str:
    """One inserted, replaced, swapped or deleted character in each chosen word."""
    words = caption.split()
    return " ".join(_misspelt(word, rng) if rng.random() < rate and len(word) > 1 else word for word in words)


def _misspelt(word: str, rng: np.random.Generator) -> str:
    place = int(rng.integers(len(word) - 1))
    letter = ALPHABET[int(rng.integers(len(ALPHABET)))]
    forms = (
        word[:place] + letter + word[place:],
        word[:place] + letter + word[place + 1 :],
        word[:place] + word[place + 1] + word[place] + word[place + 2 :],
        word[:place] + word[place + 1 :],
    )
    return forms[int(rng.integers(len(forms)))]


def _word_dropping(caption: str, rate: float, rng: np.random.Generator) -> str:
    words = caption.split()
    kept = [word for word in words if rng.random() >= rate]
    return " ".join(kept or words[:1])


def _synonyms(caption: str, rate: float, rng: np.random.Generator) -> str:
    """Each chosen word that has a synonym takes one; `rate` is doubled, since many words have none."""
    return " ".join(
        str(rng.choice(SYNONYMS[word])) if word in SYNONYMS and rng.random() < 2 * rate else word
        for word in caption.lower().split()
    )


def _synonym_table() -> Mapping[str, list[str]]:
    return {word: [other for other in names if other != word] for names in synonym_sets() for word in names}


SYNONYMS: Final = _synonym_table()
PERTURBATIONS: Final[dict[str, Callable[[str, float, np.random.Generator], str]]] = {
    "character_noise": _character_noise,
    "word_dropping": _word_dropping,
    "synonym_replacement": _synonyms,
}
