"""ARO's false captions: the words of a true one in another order (Yuksekgonul et al. 2023).

ARO's own code may draw the caption itself; here an order is drawn until it reads differently, and a caption with a
shuffle that cannot differ has none.
"""

from collections.abc import Callable, Sequence

import numpy as np

from workbench.data.taggers import TAGGERS, Tagger
from workbench.randomness import generator

Order = Callable[[np.random.Generator], list[int]]  # draws the places of the words


def shuffles(caption: str, tagger: Tagger = "words") -> tuple[str, ...] | None:
    """Four captions: nouns and adjectives among themselves; all words but these; the words within trigrams; the
    trigrams. Keyed by the caption. None where one of them can only be the caption itself.

    `spacy` finds nouns and adjectives as ARO does, and shuffles each class by itself; `words` takes both together for
    the words that are neither of the closed classes nor end like verbs and adverbs (`ing`, `ly`). Raises UserError
    where spaCy or its model is missing.
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
    """The first order that reads differently; there is one."""
    rng = generator("aro", name, caption)
    while (made := [words[place] for place in order(rng)]) == words:
        pass
    return " ".join(made)


def _among(count: int, groups: Sequence[Sequence[int]], rng: np.random.Generator) -> list[int]:
    """The places of `count` words, those of each group in a drawn order."""
    places = list(range(count))
    for group in groups:
        for place, source in zip(group, rng.permutation(len(group)), strict=True):
            places[place] = group[source]
    return places


def _differs_in_some_order(words: list[str], parts: Sequence[Sequence[int]]) -> bool:
    """Whether exchanging two trigrams changes how the words read: any other order is made of such exchanges."""
    texts = [[words[place] for place in part] for part in parts]
    return any(one + other != other + one for k, one in enumerate(texts) for other in texts[k + 1 :])
