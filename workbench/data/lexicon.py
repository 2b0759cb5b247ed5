"""The vocabulary of the rendered scenes: what can be drawn, its names, and which words mean the same."""

from typing import Final

# kind -> (glyph of DejaVu Sans, or None for a drawn shape; its names in captions)
KINDS: Final[dict[str, tuple[str | None, tuple[str, ...]]]] = {
    "circle": (None, ("circle", "disc")),
    "square": (None, ("square", "box")),
    "triangle": (None, ("triangle",)),
    "diamond": (None, ("diamond", "rhombus")),
    "pentagon": (None, ("pentagon",)),
    "ring": (None, ("ring", "hoop")),
    "plus": (None, ("plus", "cross")),
    "arrow": ("\u2794", ("arrow", "pointer")),
    "anchor": ("\u2693", ("anchor",)),
    "umbrella": ("\u2602", ("umbrella", "parasol")),
    "scissors": ("\u2702", ("scissors", "shears")),
    "aeroplane": ("\u2708", ("aeroplane", "plane", "aircraft")),
    "telephone": ("\u260e", ("telephone", "phone")),
    "envelope": ("\u2709", ("envelope", "letter")),
    "sun": ("\u2600", ("sun",)),
    "cloud": ("\u2601", ("cloud",)),
    "star": ("\u2605", ("star",)),
    "moon": ("\u263e", ("moon", "crescent")),
    "heart": ("\u2665", ("heart",)),
    "lightning": ("\u26a1", ("lightning", "bolt")),
    "snowman": ("\u2603", ("snowman",)),
    "skull": ("\u2620", ("skull",)),
    "gear": ("\u2699", ("gear", "cog", "cogwheel")),
    "scales": ("\u2696", ("scales", "balance")),
    "crown": ("\u265b", ("crown", "diadem")),
    "horse": ("\u265e", ("horse", "stallion")),
    "tower": ("\u265c", ("tower", "castle", "fortress")),
    "pawn": ("\u265f", ("pawn",)),
    "flag": ("\u2691", ("flag", "banner")),
    "flower": ("\u273f", ("flower", "blossom")),
    "snowflake": ("\u2744", ("snowflake",)),
    "cup": ("\u2615", ("cup", "mug")),
    "music": ("\u266b", ("music", "melody")),
    "house": ("\u2302", ("house", "home")),
    "pencil": ("\u270e", ("pencil", "crayon")),
    "clover": ("\u2618", ("clover", "shamrock")),
    "swords": ("\u2694", ("swords", "blades")),
    "hand": ("\u261e", ("hand",)),
    "wheelchair": ("\u267f", ("wheelchair",)),
    "smiley": ("\u263a", ("smiley", "smile")),
    "vase": ("\u26b1", ("vase", "urn")),
    "flask": ("\u2697", ("flask", "retort")),
    "hammers": ("\u2692", ("hammers", "mallets")),
    "wheel": ("\u2638", ("wheel", "helm")),
    "keyboard": ("\u2328", ("keyboard",)),
    "key": ("\u26b7", ("key",)),
    "mouse": ("\U0001f42d", ("mouse", "rodent")),
    "cow": ("\U0001f42e", ("cow", "ox")),
    "cat": ("\U0001f431", ("cat", "kitten")),
    "monkey": ("\U0001f435", ("monkey", "ape")),
}

# colour -> (RGB, its names)
COLOURS: Final[dict[str, tuple[tuple[int, int, int], tuple[str, ...]]]] = {
    "red": ((214, 39, 40), ("red", "crimson", "scarlet")),
    "orange": ((245, 140, 20), ("orange", "tangerine")),
    "yellow": ((235, 215, 30), ("yellow", "golden")),
    "green": ((40, 150, 50), ("green", "emerald")),
    "blue": ((35, 90, 210), ("blue", "azure")),
    "purple": ((130, 50, 160), ("purple", "violet")),
    "pink": ((245, 130, 190), ("pink", "rosy")),
    "black": ((25, 25, 25), ("black", "dark")),
    "brown": ((125, 80, 45), ("brown", "chestnut")),
    "grey": ((125, 125, 130), ("grey", "ashen")),
    "turquoise": ((45, 180, 175), ("turquoise", "teal")),
    "navy": ((25, 35, 115), ("navy", "indigo")),
    "lime": ((155, 210, 50), ("lime", "chartreuse")),
    "maroon": ((125, 25, 50), ("maroon", "burgundy")),
    "olive": ((120, 120, 35), ("olive", "khaki")),
    "magenta": ((215, 40, 150), ("magenta", "fuchsia")),
}

SIZES: Final[dict[str, tuple[str, ...]]] = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}

# People rarely mention that a thing is solid.
TEXTURES: Final[dict[str, tuple[str, ...]]] = {
    "solid": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
}

RELATIONS: Final[dict[str, tuple[str, ...]]] = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over", "atop"),
    "below": ("below", "under", "beneath"),
}
RELATION_WORDS: Final = ("left", "right", *RELATIONS["above"], *RELATIONS["below"])
OPPOSITE: Final = {"left": "right", "right": "left", "above": "below", "below": "above"}
ARTICLES: Final = ("a", "the", "one")


def synonym_sets() -> list[tuple[str, ...]]:
    """Single words that mean the same in a caption; sets of one word are left out."""
    sets: list[tuple[str, ...]] = [names for _, names in KINDS.values()]
    sets += [names for _, names in COLOURS.values()]
    sets += [*SIZES.values(), *TEXTURES.values(), RELATIONS["above"], RELATIONS["below"], ARTICLES]
    return [names for names in sets if len(names) > 1]
