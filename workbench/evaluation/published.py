"""Readers of the compositional benchmarks' files as they are published: SugarCrepe, ARO, VALSE, VL-CheckList, Winoground.

Every reader gives `Example`s: a picture and captions of which the first is true of it. Formats: the benchmarks' own repositories.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

from workbench.data.pictures import Box
from workbench.data.word_classes import FUNCTION_WORDS
from workbench.errors import UserError, first_line
from workbench.randomness import generator


@dataclass(frozen=True)
class Example:
    """`picture` with `captions`, the true one first; `group` is what a macro mean runs over (ARO), or the pair of a Winoground
    example."""

    id: str
    kind: str
    picture: Path
    captions: tuple[str, ...]
    box: Box | None = None
    group: str = ""


def read_suite(suite: str, annotations: Path, images: Path) -> list[Example]:
    """The examples of a suite. Raises UserError where a folder is missing, or no file of the suite is in it."""
    for option, folder in (("--annotations", annotations), ("--images", images)):
        if not folder.is_dir():
            raise UserError(f"{option}: there is no folder {folder}.")
    reader, wanted = READERS[suite]
    examples: list[Example] = []
    try:
        examples.extend(reader(annotations, images))
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise UserError(f"{annotations}: a file is not {suite}'s as published ({first_line(error)}).") from error
    if not examples:
        raise UserError(f"--annotations {annotations}: holds no file of {suite}; it should hold {wanted}.")
    return examples


def _load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


SUGARCREPE: Final = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


def _sugarcrepe(annotations: Path, images: Path) -> Iterator[Example]:
    for kind in SUGARCREPE:
        file = annotations / f"{kind}.json"
        for id, item in (_load(file) if file.is_file() else {}).items():
            captions = (item["caption"], item["negative_caption"])
            yield Example(f"{kind}/{id}", kind, images / item["filename"], captions)


def _aro(annotations: Path, images: Path) -> Iterator[Example]:
    # Relations whose two captions may both be true; ARO leaves them out.
    listed = resources.files("workbench.evaluation") / "aro_symmetric_relations.txt"
    symmetric = set(listed.read_text(encoding="utf-8").splitlines())
    for kind, name in (("relation", "visual_genome_relation"), ("attribution", "visual_genome_attribution")):
        file = annotations / f"{name}.json"
        for place, item in enumerate(_load(file) if file.is_file() else []):
            group = item["relation_name"] if kind == "relation" else "_".join(item["attributes"])
            if kind == "relation" and group in symmetric:
                continue
            box = (int(item["bbox_x"]), int(item["bbox_y"]), int(item["bbox_w"]), int(item["bbox_h"]))
            captions = (item["true_caption"], item["false_caption"])
            yield Example(f"{kind}/{place}", kind, images / item["image_path"], captions, box, group)
    for kind, names in (
        ("coco_order", ("coco_karpathy_test.json", "coco_order.json")),
        ("flickr30k_order", ("flickr30k_test.json", "flickr30k_order.json")),
    ):
        file = next((annotations / name for name in names if (annotations / name).is_file()), annotations / names[0])
        for place, item in enumerate(_load(file) if file.is_file() else []):
            for which, caption in enumerate(item["caption"][:5]):
                plain = _plain(caption)
                yield Example(f"{kind}/{place}/{which}", kind, images / item["image"], (plain, *shuffles(plain)))


def _plain(caption: str) -> str:
    """ARO's `pre_caption`: lower case, without some signs, at most 30 words."""
    cleaned = re.sub(r"([.!\"()*#:;~])", " ", caption.lower())
    return " ".join(cleaned.split()[:30])


def shuffles(caption: str) -> tuple[str, str, str, str]:
    """ARO's four: nouns and adjectives among themselves; all but these; within trigrams; the trigrams. Keyed by the caption.

    ARO finds nouns and adjectives with spaCy's tagger; here they are the words that are neither of the closed classes nor end
    like verbs and adverbs (`ing`, `ly`).
    """
    words = caption.split()
    content = [word not in FUNCTION_WORDS and not word.endswith(("ing", "ly")) for word in words]

    def among(chosen: list[bool], name: str) -> str:
        places = [place for place, take in enumerate(chosen) if take]
        made = list(words)
        order = generator("aro", name, caption).permutation(len(places))
        for place, source in zip(places, order, strict=True):
            made[place] = words[places[source]]
        return " ".join(made)

    trigrams = [words[start : start + 3] for start in range(0, len(words), 3)]
    rng = generator("aro", "trigrams", caption)
    within = [[part[k] for k in rng.permutation(len(part))] for part in trigrams]
    order = generator("aro", "trigram order", caption).permutation(len(trigrams))
    return (
        among(content, "content"),
        among([not take for take in content], "others"),
        " ".join(word for part in within for word in part),
        " ".join(word for k in order for word in trigrams[k]),
    )


def _valse(annotations: Path, images: Path) -> Iterator[Example]:
    for file in sorted(annotations.glob("*.json")):
        content = _load(file)
        if not isinstance(content, dict) or not all(isinstance(v, dict) and "foil" in v for v in content.values()):
            continue
        for id, item in content.items():
            # Two of three annotators must have found that the caption alone is true.
            if item["mturk"]["caption"] < 2:
                continue
            nested = images / item["dataset"] / item["image_file"]
            picture = nested if nested.exists() else images / item["image_file"]
            yield Example(f"{file.stem}/{id}", file.stem, picture, (item["caption"], item["foil"]))


def _vl_checklist(annotations: Path, images: Path) -> Iterator[Example]:
    for file in sorted(annotations.rglob("*.json")):
        content = _load(file)
        if not isinstance(content, list) or not content or not isinstance(content[0], list):
            continue
        kind = str(file.relative_to(annotations).with_suffix(""))
        for place, (picture, texts) in enumerate(content):
            yield Example(f"{kind}/{place}", kind, images / picture, (texts["POS"][0], texts["NEG"][0]))


def _winoground(annotations: Path, images: Path) -> Iterator[Example]:
    file = annotations / "examples.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for item in map(json.loads, filter(str.strip, lines)):
        captions = (item["caption_0"], item["caption_1"])
        for which in (0, 1):
            stem = item[f"image_{which}"]
            picture = images / (stem if Path(stem).suffix else f"{stem}.png")
            own = captions if which == 0 else captions[::-1]
            yield Example(f"{item['id']}/{which}", "winoground", picture, own, group=str(item["id"]))


READERS: Final[dict[str, tuple[Callable[[Path, Path], Iterator[Example]], str]]] = {
    "sugarcrepe": (_sugarcrepe, "add_att.json, ..., swap_obj.json"),
    "aro": (
        _aro,
        "visual_genome_relation.json, visual_genome_attribution.json, coco_karpathy_test.json or flickr30k_test.json",
    ),
    "valse": (_valse, "existence.json, ..., foil-it.json"),
    "vl_checklist": (_vl_checklist, "lists of [picture, {POS, NEG}]"),
    "winoground": (_winoground, "examples.jsonl"),
}


def limited(examples: list[Example], limit: int) -> list[Example]:
    """The first `limit` examples of each kind; of Winoground's both of a pair."""
    taken: dict[str, list[Example]] = {}
    for example in examples:
        taken.setdefault(example.kind, []).append(example)
    return [e for kind, found in taken.items() for e in found[: limit * (2 if kind == "winoground" else 1)]]
