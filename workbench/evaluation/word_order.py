"""ARO's false captions: the words of a true caption in another order (Yuksekgonul et al. 2023).

ARO's original code may draw the true caption itself. Here an order is drawn again until the text differs, and a caption
for which some shuffle cannot differ has no false captions.
"""

from collections.abc import Callable, Sequence

import numpy as np

from workbench.data.taggers import TAGGERS, Tagger
from workbench.randomness import generator

Order = Callable[[np.random.Generator], list[int]]  # draws a permutation of word positions


def shuffles(caption: str, tagger: Tagger = "words") -> tuple[str, ...] | None:
    """Four shuffled captions: of nouns and adjectives, of all other words, of words within trigrams, and of trigrams.

    Keyed by the caption. None if one of the shuffles can only yield the caption itself.

    The tagger `spacy` finds nouns and adjectives as ARO does, and each class is shuffled separately. `words` treats
    both as one class: the words that are not in the closed classes and do not end like verbs and adverbs (`ing`,
    `ly`). Raises UserError if spaCy or its model is missing.
    """
    words = caption.split()
    classes = TAGGERS[tagger](words)
    named = [[place for place, of in enumerate(classes) if of == kind] for kind in ("noun", "adjective")]
    others = [place for place, of in enumerate(classes) if not of]
    parts = [list(range(start, min(start + 3, len(words)))) for start in range(0, len(words), 3)]
    orders: dict[str, Order] = {
        "content": lambda rng: _among(len(words), named, rng),
        "others": lambda rng: _among(len(words), [others], rng),
        "trigrams": lambda rng: _among(len(words), parts, rng),
        "trigram order": lambda rng: [place for part in rng.permutation(len(parts)) for place in parts[part]],
    }
    can_differ = (
        any(len({words[place] for place in group}) > 1 for group in named),
        len({words[place] for place in others}) > 1,
        any(len({words[place] for place in part}) > 1 for part in parts),
        _differs_in_some_order(words, parts),
    )
    if not all(can_differ):
        return None
    return tuple(_drawn(words, caption, name, order) for name, order in orders.items())


def _drawn(words: list[str], caption: str, name: str, order: Order) -> str:
    """The first drawn order that changes the text; the caller ensures that one exists."""
    rng = generator("aro", name, caption)
    while (shuffled := [words[place] for place in order(rng)]) == words:
        pass
    return " ".join(shuffled)


def _among(count: int, groups: Sequence[Sequence[int]], rng: np.random.Generator) -> list[int]:
    """The positions of `count` words, with those of each group shuffled among themselves."""
    places = list(range(count))
    for group in groups:
        for place, source in zip(group, rng.permutation(len(group)), strict=True):
            places[place] = group[source]
    return places


def _differs_in_some_order(words: list[str], parts: Sequence[Sequence[int]]) -> bool:
    """Whether exchanging two trigrams changes the text; any permutation is a product of such exchanges."""
    texts = [[words[place] for place in part] for part in parts]
    return any(one + other != other + one for k, one in enumerate(texts) for other in texts[k + 1 :])
