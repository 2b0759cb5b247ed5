"""Captions of a scene from a small grammar, and captions that are false of it in one stated way (foils)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from workbench.data.lexicon import ARTICLES, COLOURS, KINDS, OPPOSITE, RELATIONS, SIZES, TEXTURES
from workbench.data.scenes import Scene, Thing, held_out, relation
from workbench.randomness import generator

# {a}, {b}: the related things; {r}: the relation of a to b; {c}: "" or a further thing.
RELATED: Final = (
    "{a} {r} {b}{c}",
    "there is {a} {r} {b}{c}",
    "{a} is {r} {b}{c}",
    "a picture of {a} {r} {b}{c}",
)
UNRELATED: Final = ("{a} and {b}{c}", "{a} with {b}{c}", "there are {a} and {b}{c}", "a picture of {a} and {b}{c}")
FURTHER: Final = (" and {c}", " near {c}", " beside {c}")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase. Each word is a (concept, surface word) pair; None where it is omitted."""

    article: str
    kind: tuple[str, str]
    colour: tuple[str, str] | None = None
    size: tuple[str, str] | None = None
    texture: tuple[str, str] | None = None

    def __str__(self) -> str:
        adjectives = [word[1] for word in (self.size, self.texture, self.colour) if word]
        words = [*adjectives, self.kind[1]]
        return " ".join(["an" if self.article == "a" and words[0][0] in "aeiou" else self.article, *words])


@dataclass(frozen=True, slots=True)
class Description:
    """What a caption says, apart from its words: enough to falsify one part and say the rest alike."""

    template: str
    first: Phrase
    second: Phrase
    relation: tuple[str, str] | None
    third: Phrase | None
    joint: str

    def __str__(self) -> str:
        further = self.joint.format(c=self.third) if self.third else ""
        words = self.relation[1] if self.relation else ""
        return self.template.format(a=self.first, b=self.second, r=words, c=further)


def describe(scene: Scene) -> Description:
    """One true description of the scene, keyed by it: template, synonyms and omissions are drawn."""
    rng = generator("caption", scene.key)
    first, second = scene.things[0], scene.things[1]
    if rng.random() < 0.5:
        first, second = second, first
    place = relation(first, second) if rng.random() < 0.8 else None
    template = str(rng.choice(RELATED if place else UNRELATED))
    third = _phrase(rng, scene.things[2]) if len(scene.things) > 2 and rng.random() < 0.7 else None
    return Description(
        template=template,
        first=_phrase(rng, first),
        second=_phrase(rng, second),
        relation=(place, str(rng.choice(RELATIONS[place]))) if place else None,
        third=third,
        joint=str(rng.choice(FURTHER)),
    )


def foils(scene: Scene, description: Description) -> dict[str, str]:
    """A false caption of each kind that the description allows, each differing from it in that one respect."""
    made = {}
    for kind, make in FOILS.items():
        foil = make(generator("foil", kind, scene.key), scene, description)
        if foil is not None:
            made[kind] = str(foil)
    return made


def paraphrase(scene: Scene, description: Description) -> str:
    """The same description in other words: every word with a synonym takes another one. Still true."""
    rng = generator("paraphrase", scene.key)
    said = description.relation
    words = (said[0], _other(rng, RELATIONS[said[0]], said[1])) if said else None
    return str(
        replace(
            description,
            first=_reworded(rng, description.first),
            second=_reworded(rng, description.second),
            third=_reworded(rng, description.third) if description.third else None,
            relation=words,
        )
    )


def _phrase(rng: np.random.Generator, thing: Thing) -> Phrase:
    """Attributes are sometimes left out, as people do; a combination that is held out is always named in full."""
    colour = held_out(thing.kind, thing.colour) or rng.random() < 0.85
    return Phrase(
        article=str(rng.choice(ARTICLES, p=[0.7, 0.15, 0.15])),
        kind=(thing.kind, str(rng.choice(KINDS[thing.kind][1]))),
        colour=(thing.colour, str(rng.choice(COLOURS[thing.colour][1]))) if colour else None,
        size=(thing.size, str(rng.choice(SIZES[thing.size]))) if rng.random() < 0.45 else None,
        texture=(thing.texture, str(rng.choice(TEXTURES[thing.texture])))
        if rng.random() < (0.1 if thing.texture == "solid" else 0.6)
        else None,
    )


def _reworded(rng: np.random.Generator, phrase: Phrase) -> Phrase:
    def other(word: tuple[str, str] | None, names: Callable[[str], tuple[str, ...]]) -> tuple[str, str] | None:
        return (word[0], _other(rng, names(word[0]), word[1])) if word else None

    kind = other(phrase.kind, lambda concept: KINDS[concept][1])
    assert kind is not None
    return Phrase(
        article=_other(rng, ARTICLES, phrase.article),
        kind=kind,
        colour=other(phrase.colour, lambda concept: COLOURS[concept][1]),
        size=other(phrase.size, lambda concept: SIZES[concept]),
        texture=other(phrase.texture, lambda concept: TEXTURES[concept]),
    )


def _other(rng: np.random.Generator, names: tuple[str, ...], than: str) -> str:
    others = [name for name in names if name != than]
    return str(rng.choice(others)) if others else than


def _with_phrase(description: Description, place: str, phrase: Phrase) -> Description:
    return replace(description, first=phrase) if place == "first" else replace(description, second=phrase)


def _pick(
    rng: np.random.Generator, description: Description, attribute: str, present: bool
) -> tuple[str, Phrase] | None:
    """One of the two main phrases that has (or lacks) the attribute."""
    places = [
        (name, phrase)
        for name, phrase in (("first", description.first), ("second", description.second))
        if (getattr(phrase, attribute) is not None) == present
    ]
    return places[int(rng.integers(len(places)))] if places else None


def _replace_object(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    place, phrase = ("first", description.first) if rng.random() < 0.5 else ("second", description.second)
    absent = [kind for kind in KINDS if kind not in {thing.kind for thing in scene.things}]
    kind = str(rng.choice(absent))
    return _with_phrase(description, place, replace(phrase, kind=(kind, str(rng.choice(KINDS[kind][1])))))


def _replace_colour(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    picked = _pick(rng, description, "colour", present=True)
    if picked is None:
        return None
    absent = [colour for colour in COLOURS if colour not in {thing.colour for thing in scene.things}]
    colour = str(rng.choice(absent))
    return _with_phrase(
        description, picked[0], replace(picked[1], colour=(colour, str(rng.choice(COLOURS[colour][1]))))
    )


def _replace_size(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    picked = _pick(rng, description, "size", present=True)
    if picked is None or picked[1].size is None:
        return None
    size = "large" if picked[1].size[0] == "small" else "small"
    return _with_phrase(description, picked[0], replace(picked[1], size=(size, str(rng.choice(SIZES[size])))))


def _replace_relation(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    if description.relation is None:
        return None
    concept, words = description.relation
    opposite = OPPOSITE[concept]
    # The opposite in the same form of words, so that only the direction differs.
    form = min(RELATIONS[concept].index(words), len(RELATIONS[opposite]) - 1)
    return replace(description, relation=(opposite, RELATIONS[opposite][form]))


def _swap_objects(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    first, second = description.first, description.second
    # Without an attribute to tell them apart or a relation, the swapped sentence says the same.
    if (first.colour, first.size, first.texture) == (second.colour, second.size, second.texture):
        return None
    if first.colour is None or second.colour is None or first.colour[0] == second.colour[0]:
        return None
    return replace(description, first=replace(first, kind=second.kind), second=replace(second, kind=first.kind))


def _swap_colours(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    first, second = description.first, description.second
    if first.colour is None or second.colour is None or first.colour[0] == second.colour[0]:
        return None
    return replace(description, first=replace(first, colour=second.colour), second=replace(second, colour=first.colour))


def _swap_arguments(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    if description.relation is None:
        return None
    return replace(description, first=description.second, second=description.first)


def _add_attribute(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    picked = _pick(rng, description, "texture", present=False)
    if picked is None:
        return None
    place, phrase = picked
    true = next(thing.texture for thing in scene.things if thing.kind == phrase.kind[0])
    false = str(rng.choice([texture for texture in TEXTURES if texture not in (true, "solid")]))
    return _with_phrase(description, place, replace(phrase, texture=(false, str(rng.choice(TEXTURES[false])))))


FOILS: Final[dict[str, Callable[[np.random.Generator, Scene, Description], Description | None]]] = {
    "replace_object": _replace_object,
    "replace_colour": _replace_colour,
    "replace_size": _replace_size,
    "replace_relation": _replace_relation,
    "swap_objects": _swap_objects,
    "swap_colours": _swap_colours,
    "swap_arguments": _swap_arguments,
    "add_attribute": _add_attribute,
}
