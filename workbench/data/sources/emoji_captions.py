"""Captions for the emoji of the npm packages `emoji-datasource-*`.

A caption has a slot for each fact in which other emoji differ (`{gender} firefighter with {tone} skin`). A foil changes
one fact, so it is the caption of another emoji, and is false of the image according to the package itself.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.data.word_lists import word_table
from workbench.randomness import key

# Unicode's light, medium-light, medium, medium-dark and dark, each as a single word.
TONES = {"1F3FB": "pale", "1F3FC": "light", "1F3FD": "tan", "1F3FE": "brown", "1F3FF": "dark"}
UNTONED = "yellow"
COUPLES = {  # short name -> person on the left, person on the right, what they do
    "people_holding_hands": ("person", "person", "holding hands"),
    "two_women_holding_hands": ("woman", "woman", "holding hands"),
    "man_and_woman_holding_hands": ("woman", "man", "holding hands"),
    "two_men_holding_hands": ("man", "man", "holding hands"),
    "couplekiss": ("person", "person", "kissing"),
    "woman-kiss-man": ("woman", "man", "kissing"),
    "man-kiss-man": ("man", "man", "kissing"),
    "woman-kiss-woman": ("woman", "woman", "kissing"),
    "couple_with_heart": ("person", "person", "under a heart"),
    "woman-heart-man": ("woman", "man", "under a heart"),
    "man-heart-man": ("man", "man", "under a heart"),
    "woman-heart-woman": ("woman", "woman", "under a heart"),
    "handshake": ("hand", "hand", "in a handshake"),
}
COUPLE = "{person1} with {tone1} skin left of {person2} with {tone2} skin, "
# Short name -> name, where Unicode's name mentions what is not in the drawing, or two emoji share it.
RENAMED = {short: str(name) for short, name in word_table("emoji_names").items()}
REWORDED = (  # patterns of lower-case names -> English
    (r"\b(wo)?mans\b", r"\1man's"),
    (r"\boclock\b", "o'clock"),
    (r"\b(hands?|thumbs \w+) sign$", r"\1"),
    (r"^clock face (\w+)[ -](.+)", r"clock face showing \1 \2"),
    (r"^(man|woman|person): bald$", r"\1 with no hair"),
    (r"^(man|woman|person): ", r"\1 with "),
    (r"^family: (.+), (\w+)$", r"family of \1 and \2"),
    (r"^(left|right|up|down) pointing (.+)", r"\2 pointing \1"),
    (r"^(left|right|up|down)wards arrow$", r"arrow pointing \1"),
    (r"^(?:large|medium) (\w+ circle)$", r"\1"),
    (r"^(black|white) (large|medium|small)\b", r"\2 \1"),
    (r": ", ", "),
)
# Slot -> sets of words. Two words of a slot exclude each other if they share a set.
SLOTS = {
    # Hair that a style draws as curly may also be red or blond.
    "hair": ["red hair, white hair, blond hair, no hair", "curly hair, no hair"],
    "gender": [
        "man, woman",
        "men, women",
        "boy, girl",
        "male, female",
        "merman, mermaid",
        "prince, princess",
        "father, mother",
    ],
    "colour": ["light blue, red, orange, yellow, green, blue, purple, brown, black, white, pink, grey"],
    "shape": ["heart, circle, square, diamond, book, apple"],
    "direction": [
        "left, right, up, down",
        "leftwards, rightwards, upwards, downwards",
        "north, south",
        "clockwise, anticlockwise",
    ],
    "side": ["east, west"],
    "number": [
        "one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve",
        "0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "first, second, third",
    ],
    "minutes": ["o'clock, thirty"],
    "state": ["open, closed", "raised, lowered", "waxing, waning", "new, full", "low, high"],
}
FLAGS = ("country-flag", "subdivision-flag")
PEOPLE = ("person-role", "person-gesture", "person-activity", "person-sport", "person-fantasy")
# Roles that may be true together with another of their subcategory: who plays water polo also swims.
SHARED_ROLES = {"standing", "with white cane", "playing water polo", "bouncing ball", "biking", "mountain biking"}
KINDS = dict(zip(SLOTS, SLOTS, strict=True)) | {"shape": "object", "side": "direction", "minutes": "number"}
KINDS |= {"role": "role", "tone": "skin_tone", "tone1": "skin_tone", "tone2": "skin_tone"}
KINDS |= {"person1": "gender", "person2": "gender"}
SETS = {slot: [words.split(", ") for words in sets] for slot, sets in SLOTS.items()}
SETS |= {slot: [[UNTONED, *TONES.values()]] for slot in ("tone", "tone1", "tone2")}
SETS |= {slot: [["man", "woman"]] for slot in ("person1", "person2")}

Entry = Mapping[str, Any]  # of emoji.json


@dataclass(frozen=True)
class Caption:
    """A caption: `form` has a placeholder for each fact (slot, value); captions of another `kin` are not compared."""

    form: str
    facts: tuple[tuple[str, str], ...]
    kin: str = ""

    def __str__(self) -> str:
        return self.form.format(**dict(self.facts))

    def with_fact(self, **changes: str) -> "Caption":
        return Caption(self.form, tuple((slot, changes.get(slot, value)) for slot, value in self.facts), self.kin)

    @property
    def tones(self) -> tuple[str, ...]:
        """The skin tones, sorted, regardless of who has them."""
        return tuple(sorted(value for slot, value in self.facts if slot.startswith("tone")))


@dataclass(frozen=True)
class CaptionedEmoji:
    """An image file and its caption, or the reason `why` it has none."""

    image: str
    caption: Caption | None
    why: str = ""


def tell(entries: Sequence[Entry]) -> Iterator[CaptionedEmoji]:
    """Yields each emoji of emoji.json and each of its skin variations."""
    names = {entry["name"] for entry in entries}
    for entry in entries:
        why = _unusable(entry)
        caption = None if why else _caption(entry, names)
        for tone, drawn in [("", entry), *entry.get("skin_variations", {}).items()]:
            yield CaptionedEmoji(drawn["image"], None if caption is None else _toned(caption, tone), why)


def _unusable(entry: Entry) -> str:
    if "obsoleted_by" in entry:
        return "another emoji has taken its place"
    if entry["subcategory"] == "skin-tone":
        return "it is a part of other emoji"
    return "its name is a code" if re.search(r"IDEOGRAPH-\w+$", entry["name"]) else ""


def _caption(entry: Entry, names: set[str]) -> Caption:
    """The caption of an emoji; if it has skin variations, that of the yellow one."""
    short, toned = entry["short_name"], "skin_variations" in entry
    if short in COUPLES:
        left, right, doing = COUPLES[short]
        facts = (("person1", left), ("tone1", UNTONED), ("person2", right), ("tone2", UNTONED))
        return Caption(COUPLE + doing, facts)
    name = entry["name"]
    facing = "left" if f"{name} FACING RIGHT" in names else "right" if name.endswith(" FACING RIGHT") else ""
    form, slots = _slotted(_worded(entry).removesuffix(" facing right"))
    kin = entry["subcategory"] if entry["subcategory"] in PEOPLE else ""
    if kin:
        gendered = re.fullmatch(r"(\{gender\}|person) (.+)", form)
        if gendered and "{" not in gendered[2]:
            form, slots = f"{gendered[1]} {{role}}", slots | {"role": gendered[2]}
        elif f"MAN {name}" in names:
            form, slots = "{role}", {"role": form}
    if toned:
        form += f" {'and' if ' with ' in form.format(**slots) else 'with'} {{tone}} skin"
        slots |= {"tone": UNTONED}
    if facing:
        form, slots = f"{form}, facing {{direction}}", slots | {"direction": facing}
    return Caption(form, tuple(slots.items()), kin)


def _worded(entry: Entry) -> str:
    """Unicode's name in lower-case English. `BLACK` and `WHITE` may mean filled and hollow, as the short name shows."""
    short = entry["short_name"]
    if short in RENAMED:
        return RENAMED[short]
    words: str = entry["name"].lower().replace("’", "'")
    for shade in ("black", "white"):
        if shade not in short and "cane" not in short:
            words = re.sub(rf"\b{shade} ", "", words)
    for pattern, english in REWORDED:
        words = re.sub(pattern, english, words)
    return f"flag of {words.removesuffix(' flag')}" if entry["subcategory"] in FLAGS else words


def _slotted(words: str) -> tuple[str, dict[str, str]]:
    """The words with a slot for each fact that occurs once, and the facts."""
    form, facts = words, {}
    for slot in SLOTS:
        values = dict.fromkeys(word for words_of_set in SETS[slot] for word in words_of_set)
        matches = re.findall(rf"(?<![\w{{'-])(?:{'|'.join(values)})(?![\w}}'-])", form)
        if len(matches) == 1:
            form, facts[slot] = re.sub(rf"(?<![\w{{'-]){matches[0]}(?![\w}}'-])", f"{{{slot}}}", form), matches[0]
    return form, facts


def _toned(caption: Caption, variation: str) -> Caption:
    """The caption of a skin variation: `1F3FB`, or `1F3FB-1F3FF` for a couple; empty for the emoji itself."""
    if not variation:
        return caption
    tones = [TONES[code] for code in variation.split("-")]
    return caption.with_fact(tone=tones[0], tone1=tones[0], tone2=tones[-1])


class Corpus:
    """All captions: which of them are held out, and the foils of each."""

    def __init__(self, captions: Iterable[Caption]) -> None:
        self.captions = {str(caption): caption for caption in captions}
        self.values: dict[tuple[str, str, tuple[tuple[str, str], ...], str], list[str]] = {}
        for caption in self.captions.values():
            for slot, value in caption.facts:
                self.values.setdefault(_place(caption, slot), []).append(value)
        self.split_of = self._split()

    def foils(self, caption: Caption) -> dict[str, str]:
        """Kind -> a false caption of that kind, of the same split if possible, so that no foil is recognisable as
        unseen."""
        split = self.split_of[str(caption)]
        choices: dict[str, list[str]] = {}
        for slot, _ in caption.facts:
            for value in self._others(caption, slot):
                choices.setdefault(KINDS[slot], []).append(str(caption.with_fact(**{slot: value})))
        if len({*caption.tones}) == 2:
            facts = dict(caption.facts)
            choices["swap"] = [str(caption.with_fact(tone1=facts["tone2"], tone2=facts["tone1"]))]
        return {
            kind: min(texts, key=lambda text: (self.split_of.get(text) != split, key("emoji foil", str(caption), text)))
            for kind, texts in choices.items()
        }

    def _others(self, caption: Caption, slot: str) -> list[str]:
        """The values of other emoji in this slot, all else being equal, that this emoji cannot have as well."""
        value = dict(caption.facts)[slot]
        others = {*self.values[_place(caption, slot)]} - {value}
        if slot == "role":
            return [] if value in SHARED_ROLES else sorted(others - SHARED_ROLES)
        return sorted(other for other in others if any({value, other} <= {*words} for words in SETS[slot]))

    def _split(self) -> dict[str, str]:
        """Caption -> split. Held out are combinations whose words training knows from other captions: skin tones of one
        thing, whoever has them; a colour of a shape; an hour."""
        families: dict[tuple[str, str], dict[str, list[str]]] = {}
        for text, caption in self.captions.items():
            if caption.tones or sum(bool(self._others(caption, slot)) for slot, _ in caption.facts) > 1:
                # A unit contains man, woman and person, left and right, both orders of a couple: foils of each other.
                unit = " ".join(caption.tones) or text
                families.setdefault((caption.kin, _thing(caption)), {}).setdefault(unit, []).append(text)
        split_of = dict.fromkeys(self.captions, "train")
        order = sorted(families, key=lambda family: (family[0], key("emoji family", *family)))
        for place, (kin, thing) in enumerate(order):
            units = families[kin, thing]
            # Captions of the same kin hold out the same tones, so that one role is the foil of another.
            drawn = sorted(units, key=lambda unit: key("emoji unit", kin or thing, unit))
            for split, held in _held_out(drawn, place).items():
                split_of |= {text: split for unit in held for text in units[unit]}
        known = {word for text, split in split_of.items() if split == "train" for word in _words(text)}
        return {text: split if known.issuperset(_words(text)) else "train" for text, split in split_of.items()}


def _held_out(units: Sequence[str], place: int) -> dict[str, Sequence[str]]:
    """Split -> its units. Of many units, a quarter for each held-out split. Of the six skin tones of one thing, two for
    one held-out split or none, in turns."""
    quarter = len(units) // 4
    if len(units) > 6:
        return {"val": units[:quarter], "test": units[quarter : 2 * quarter]}
    return {("val", "test", "train")[place % 3]: units[:2]} if len(units) == 6 else {}


def _thing(caption: Caption) -> str:
    """The subject of a caption, without the facts in which it differs from similar captions."""
    return re.sub(r"^person |\{\w+\} ?", "", caption.form.replace("{role}", dict(caption.facts).get("role", "")))


def _place(caption: Caption, slot: str) -> tuple[str, str, tuple[tuple[str, str], ...], str]:
    return caption.form, slot, tuple(fact for fact in caption.facts if fact[0] != slot), caption.kin


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text)
