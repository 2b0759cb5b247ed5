"""Checks whether a caption in the vocabulary of the rendered scenes is true of a scene whose facts are known."""

from dataclasses import dataclass, field
from itertools import permutations
from typing import Final

from workbench.data.lexicon import COLOURS, KINDS, RELATIONS, SIZES, TEXTURES
from workbench.data.scenes import Scene, Thing, relation

# word -> (attribute, concept)
MEANING: Final[dict[str, tuple[str, str]]] = {
    **{name: ("kind", kind) for kind, (_, names) in KINDS.items() for name in names},
    **{name: ("colour", colour) for colour, (_, names) in COLOURS.items() for name in names},
    **{name: ("size", size) for size, names in SIZES.items() for name in names},
    **{name: ("texture", texture) for texture, names in TEXTURES.items() for name in names},
    **{
        word: ("relation", concept)
        for concept, forms in RELATIONS.items()
        for form in forms
        for word in form.split()
        if word not in ("of", "to", "the")
    },
}
SAYS_NOTHING: Final = frozenset(
    ["a", "an", "the", "one", "there", "is", "are", "picture", "of", "to", "and", "with", "near", "beside"]
)


@dataclass
class Claim:
    """What a noun phrase states about one thing, as (attribute, concept) pairs."""

    attributes: list[tuple[str, str]] = field(default_factory=list)

    def holds(self, thing: Thing) -> bool:
        return all(getattr(thing, attribute) == concept for attribute, concept in self.attributes)


def says_nothing_false(caption: str, scene: Scene) -> bool:
    """Whether the noun phrases can be assigned to different things of the scene so that every attribute and relation
    holds.

    A caption that does not parse into noun phrases (an adjective without its noun, a relation without its arguments, a
    word outside of the vocabulary) describes nothing and counts as false.
    """
    parsed = _parse(caption)
    if parsed is None:
        return False
    claims, relations = parsed
    return any(
        all(claim.holds(thing) for claim, thing in zip(claims, things, strict=True))
        and all(relation(things[place], things[place + 1]) == concept for place, concept in relations)
        for things in permutations(scene.things, len(claims))
    )


def _parse(caption: str) -> tuple[list[Claim], list[tuple[int, str]]] | None:
    """The noun phrases, and the relations as (index of the phrase before, concept); None if it does not parse."""
    claims: list[Claim] = []
    relations: list[tuple[int, str]] = []
    adjectives: list[tuple[str, str]] = []
    for word in caption.lower().split():
        role, concept = MEANING.get(word, ("", ""))
        if not role and word not in SAYS_NOTHING:
            return None
        if role == "kind":
            claims.append(Claim([*adjectives, (role, concept)]))
            adjectives = []
        elif role in ("colour", "size", "texture"):
            adjectives.append((role, concept))
        elif adjectives:
            return None
        elif role == "relation":
            if not claims or (relations and relations[-1][0] == len(claims) - 1):
                return None
            relations.append((len(claims) - 1, concept))
    if adjectives or not claims or (relations and relations[-1][0] == len(claims) - 1):
        return None
    return claims, relations
