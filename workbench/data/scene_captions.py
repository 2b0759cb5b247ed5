"""Captions of a scene from a small grammar, and foils: captions that are false of it in one known way."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from workbench.data.lexicon import ARTICLES, COLOURS, KINDS, OPPOSITE, RELATIONS, SIZES, TEXTURES
from workbench.data.look_alikes import look_alikes, near_colours
from workbench.data.scene_truth import says_nothing_false
from workbench.data.scenes import Scene, Thing, held_out, relation
from workbench.randomness import generator

# {a}, {b}: the related things; {r}: the relation of a to b; {c}: "" or one more thing.
RELATED: Final = (
    "{a} {r} {b}{c}",
    "there is {a} {r} {b}{c}",
    "{a} is {r} {b}{c}",
    "a picture of {a} {r} {b}{c}",
)
UNRELATED: Final = ("{a} and {b}{c}", "{a} with {b}{c}", "there are {a} and {b}{c}", "a picture of {a} and {b}{c}")
FURTHER: Final = (" and {c}", " near {c}", " beside {c}")
ATTRIBUTES: Final = ("colour", "size", "texture")


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase. Each word is a (concept, surface word) pair, or None if it is omitted."""

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
    """The structure of a caption: enough to falsify one part and keep the wording of the rest."""

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
    """Draws a true description of the scene, keyed by it: template, synonyms and omissions."""
    rng = generator("caption", scene.key)
    first, second = scene.things[0], scene.things[1]
    if rng.random() < 0.5:
        first, second = second, first
    place = relation(first, second) if rng.random() < 0.9 else None
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
    """Kind -> a false caption, for each kind that the description allows; each differs from it only in that respect."""
    by_kind = {}
    for kind, make in FOILS.items():
        foil = make(generator("foil", kind, scene.key), scene, description)
        if foil is not None and not says_nothing_false(str(foil), scene):
            by_kind[kind] = str(foil)
    return by_kind


def paraphrase(scene: Scene, description: Description) -> str:
    """The description in other words, still true: every word that has a synonym is replaced by one."""
    rng = generator("paraphrase", scene.key)
    stated = description.relation
    words = (stated[0], _other(rng, RELATIONS[stated[0]], stated[1])) if stated else None
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
    """Draws a phrase. Attributes are sometimes omitted, as people do; held-out combinations always name the colour."""
    colour = held_out(thing.kind, thing.colour) or rng.random() < 0.85
    return Phrase(
        article=str(rng.choice(ARTICLES, p=[0.7, 0.15, 0.15])),
        kind=(thing.kind, str(rng.choice(KINDS[thing.kind][1]))),
        colour=(thing.colour, str(rng.choice(COLOURS[thing.colour][1]))) if colour else None,
        size=(thing.size, str(rng.choice(SIZES[thing.size]))) if rng.random() < 0.6 else None,
        texture=(thing.texture, str(rng.choice(TEXTURES[thing.texture])))
        if rng.random() < (0.1 if thing.texture == "solid" else 0.75)
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
    """Draws one of the two main phrases that has (or lacks) the attribute."""
    places = [
        (name, phrase)
        for name, phrase in (("first", description.first), ("second", description.second))
        if (getattr(phrase, attribute) is not None) == present
    ]
    return places[int(rng.integers(len(places)))] if places else None


def _replace_object(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    place, phrase = ("first", description.first) if rng.random() < 0.5 else ("second", description.second)
    kind = look_alikes().draw(rng, phrase.kind[0], {thing.kind for thing in scene.things})
    return _with_phrase(description, place, replace(phrase, kind=(kind, str(rng.choice(KINDS[kind][1])))))


def _replace_colour(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    picked = _pick(rng, description, "colour", present=True)
    if picked is None or picked[1].colour is None:
        return None
    colour = near_colours().draw(rng, picked[1].colour[0], {thing.colour for thing in scene.things})
    return _with_phrase(
        description, picked[0], replace(picked[1], colour=(colour, str(rng.choice(COLOURS[colour][1]))))
    )


def _replace_size(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    picked = _pick(rng, description, "size", present=True)
    if picked is None or picked[1].size is None:
        return None
    size = "large" if picked[1].size[0] == "small" else "small"
    return _with_phrase(description, picked[0], replace(picked[1], size=(size, str(rng.choice(SIZES[size])))))


def _replace_texture(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    picked = _pick(rng, description, "texture", present=True)
    if picked is None or picked[1].texture is None or picked[1].texture[0] == "solid":
        return None  # people rarely mention that a thing is solid
    texture = str(rng.choice([name for name in TEXTURES if name not in (picked[1].texture[0], "solid")]))
    return _with_phrase(
        description, picked[0], replace(picked[1], texture=(texture, str(rng.choice(TEXTURES[texture]))))
    )


def _replace_relation(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    if description.relation is None:
        return None
    concept, words = description.relation
    opposite = OPPOSITE[concept]
    # The opposite in the same wording, so that only the direction differs.
    form = min(RELATIONS[concept].index(words), len(RELATIONS[opposite]) - 1)
    return replace(description, relation=(opposite, RELATIONS[opposite][form]))


def _swap_objects(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    first, second = description.first, description.second
    if all(getattr(first, name) == getattr(second, name) for name in ATTRIBUTES):
        return None  # they would differ in position only, which is what `swap_arguments` covers
    return replace(description, first=replace(first, kind=second.kind), second=replace(second, kind=first.kind))


def _swapped(description: Description, attribute: str) -> Description | None:
    first, second = description.first, description.second
    one, other = getattr(first, attribute), getattr(second, attribute)
    if one is None or other is None or one[0] == other[0]:
        return None
    return replace(
        description,
        first=replace(first, **{attribute: other}),
        second=replace(second, **{attribute: one}),
    )


def _swap_colours(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    return _swapped(description, "colour")


def _swap_sizes(rng: np.random.Generator, scene: Scene, description: Description) -> Description | None:
    return _swapped(description, "size")


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


# Kinds that random negatives teach as well as true foils do (docs/testbed.md): they leave no headroom, and the mean
# excludes them.
SOLVED: Final = ("replace_object", "swap_colours")
FOILS: Final[dict[str, Callable[[np.random.Generator, Scene, Description], Description | None]]] = {
    "replace_object": _replace_object,
    "replace_colour": _replace_colour,
    "replace_size": _replace_size,
    "replace_texture": _replace_texture,
    "replace_relation": _replace_relation,
    "swap_objects": _swap_objects,
    "swap_colours": _swap_colours,
    "swap_sizes": _swap_sizes,
    "swap_arguments": _swap_arguments,
    "add_attribute": _add_attribute,
}
