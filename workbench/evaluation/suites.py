"""Readers of the compositional benchmarks' published files: SugarCrepe, ARO, VALSE, VL-CheckList, Winoground.

Every reader yields `Example`s: an image and captions, of which the first is true. The formats are those of the
benchmarks' repositories.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Final

from workbench.data.image_files import ImageFolders
from workbench.data.images import Box
from workbench.data.taggers import Tagger
from workbench.errors import UserError, first_line
from workbench.evaluation.word_order import shuffles
from workbench.metrics import SUITE_KINDS


@dataclass(frozen=True)
class Example:
    """An image with captions, the true one first.

    `group`: the group of a macro average (ARO), or the pair of a Winoground example.
    """

    id: str
    kind: str
    image: Path
    captions: tuple[str, ...]
    box: Box | None = None
    group: str = ""


@dataclass(frozen=True)
class Protocol:
    """The options of the suites' protocols.

    `tagger`: for ARO's word orders. `most_texts`: the limit per list of VL-CheckList, whose `MAX_NUM` counts true and
    false texts, so that 2,000 means 1,000 items; 0 means no limit. `limit`: the maximum number of items per kind.
    """

    tagger: Tagger = "words"
    most_texts: int = 2000
    limit: int | None = None


@dataclass(frozen=True)
class SuiteItems:
    """A suite as it was read.

    `identical`: the items whose captions no scorer can distinguish; they are not among `examples`. `absent`: missing
    files of the suite. `layout`: where the suite's images are expected.
    """

    suite: str
    examples: list[Example]
    identical: list[Example]
    absent: list[str]
    layout: str

    def without(self, identical: Sequence[Example]) -> "SuiteItems":
        """The items with some examples moved to `identical`; for Winoground, both examples of a pair are moved."""
        names = {self._item(e) for e in identical}
        kept = [e for e in self.examples if self._item(e) not in names]
        moved = [e for e in self.examples if self._item(e) in names]
        return replace(self, examples=kept, identical=[*self.identical, *moved])

    def _item(self, example: Example) -> str:
        return example.group if self.suite == "winoground" else example.id


def read_suite(suite: str, annotations: Path, images: ImageFolders, protocol: Protocol = Protocol()) -> SuiteItems:
    """The items of a suite. Raises UserError if the folder is missing or holds no file of the suite."""
    annotations = annotations.expanduser()
    if not annotations.is_dir():
        raise UserError(f"--annotations: there is no folder {annotations}.")
    form = SUITES[suite]
    examples: list[Example] = []
    try:
        examples.extend(form.read(annotations, images, protocol))
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise UserError(f"{annotations}: a file is not in {suite}'s published format ({first_line(error)}).") from error
    if not examples:
        raise UserError(f"--annotations {annotations}: holds no file of {suite}; it should hold {form.wanted}.")
    absent = [" or ".join(names) for names in form.files if not any((annotations / name).is_file() for name in names)]
    read = SuiteItems(suite, limited(examples, protocol.limit), [], absent, form.layout)
    return read.without([e for e in read.examples if e.captions[0] in e.captions[1:]])


def _load(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _sugarcrepe(annotations: Path, images: ImageFolders, protocol: Protocol) -> Iterator[Example]:
    for kind in SUITE_KINDS["sugarcrepe"]:
        file = annotations / f"{kind}.json"
        for id, item in (_load(file) if file.is_file() else {}).items():
            captions = (item["caption"], item["negative_caption"])
            name = item["filename"]
            image = images.find(f"val2017/{name}", f"images/val2017/{name}", name)
            yield Example(f"{kind}/{id}", kind, image, captions)


ORDER: Final = {
    "coco_order": ("coco_karpathy_test.json", "coco_order.json"),
    "flickr30k_order": ("flickr30k_test.json", "flickr30k_order.json"),
}


def _aro(annotations: Path, images: ImageFolders, protocol: Protocol) -> Iterator[Example]:
    # Relations whose two captions may both be true; ARO leaves them out.
    file_of_relations = resources.files("workbench.evaluation") / "aro_symmetric_relations.txt"
    symmetric = set(file_of_relations.read_text(encoding="utf-8").splitlines())
    for kind, name in (("relation", "visual_genome_relation"), ("attribution", "visual_genome_attribution")):
        file = annotations / f"{name}.json"
        for place, item in enumerate(_load(file) if file.is_file() else []):
            group = item["relation_name"] if kind == "relation" else "_".join(item["attributes"])
            if kind == "relation" and group in symmetric:
                continue
            box = (int(item["bbox_x"]), int(item["bbox_y"]), int(item["bbox_w"]), int(item["bbox_h"]))
            captions = (item["true_caption"], item["false_caption"])
            path = item["image_path"]
            image = images.find(f"images/{path}", path, f"VG_100K/{path}", f"VG_100K_2/{path}")
            yield Example(f"{kind}/{place}", kind, image, captions, box, group)
    for kind, names in ORDER.items():
        file = next((annotations / name for name in names if (annotations / name).is_file()), annotations / names[0])
        for place, item in enumerate(_load(file) if file.is_file() else []):
            image = images.find(item["image"], PurePosixPath(item["image"]).name)
            for which, caption in enumerate(item["caption"]):
                plain = _plain(caption)
                # Without a false caption the true one takes its place: `read_suite` counts such items as identical.
                false = shuffles(plain, protocol.tagger) or (plain,)
                yield Example(f"{kind}/{place}/{which}", kind, image, (plain, *false))


def _plain(caption: str) -> str:
    """A caption after ARO's `pre_caption`: lower case, without some punctuation, at most 30 words."""
    cleaned = re.sub(r"([.!\"()*#:;~])", " ", caption.lower())
    return " ".join(cleaned.split()[:30])


# VALSE names the datasets of its images; these are other folders in which users keep them.
VALSE_FOLDERS: Final = {
    "coco2017": ("val2017", "coco_2017", "coco"),
    "coco_2017": ("val2017", "coco2017", "coco"),
    "FOIL dataset": ("val2014", "foil", "coco"),
    "SWiG": ("images_512", "swig"),
    "visual7w": ("images", "visual7w_images"),
    "VisDial_v1.0": ("VisualDialog_val2018", "train2014", "visdial"),
}


def _valse(annotations: Path, images: ImageFolders, protocol: Protocol) -> Iterator[Example]:
    for file in sorted(annotations.glob("*.json")):
        content = _load(file)
        if not isinstance(content, dict) or not all(isinstance(v, dict) and "foil" in v for v in content.values()):
            continue
        for id, item in content.items():
            # At least two of three annotators must have accepted only the caption.
            if item["mturk"]["caption"] < 2:
                continue
            dataset, name = item["dataset"], item["image_file"]
            folders = (dataset, *VALSE_FOLDERS.get(dataset, ()))
            image = images.find(*(f"{folder}/{name}" for folder in folders), name)
            yield Example(f"{file.stem}/{id}", file.stem, image, (item["caption"], item["foil"]))


# The folder of a list's images, by a word of the list's path.
VL_ROOTS: Final = {"vg": "vg", "vaw": "vg", "swig": "swig", "hake": "hake"}


def _vl_checklist(annotations: Path, images: ImageFolders, protocol: Protocol) -> Iterator[Example]:
    for file in sorted(annotations.rglob("*.json")):
        content = _load(file)
        if not isinstance(content, list) or not content or not isinstance(content[0], list):
            continue
        kind = str(file.relative_to(annotations).with_suffix(""))
        root = next((VL_ROOTS[word] for word in re.split(r"[/_]", kind) if word in VL_ROOTS), None)
        for place, (path, texts) in enumerate(content[: protocol.most_texts // 2 or None]):
            image = images.find(*([f"{root}/{path}"] if root else []), path)
            yield Example(f"{kind}/{place}", kind, image, (texts["POS"][0], texts["NEG"][0]))


def _winoground(annotations: Path, images: ImageFolders, protocol: Protocol) -> Iterator[Example]:
    file = annotations / "examples.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    for item in map(json.loads, filter(str.strip, lines)):
        captions = (item["caption_0"], item["caption_1"])
        for which in (0, 1):
            stem = item[f"image_{which}"]
            name = stem if PurePosixPath(stem).suffix else f"{stem}.png"
            ordered = captions if which == 0 else captions[::-1]
            image = images.find(name, f"images/{name}")
            yield Example(f"{item['id']}/{which}", "winoground", image, ordered, group=str(item["id"]))


@dataclass(frozen=True)
class SuiteForm:
    """The form of a suite. `files`: its files, with alternative names of each. `wanted`, `layout`: for messages."""

    read: Callable[[Path, ImageFolders, Protocol], Iterator[Example]]
    files: tuple[tuple[str, ...], ...]
    wanted: str
    layout: str


def _json_files(names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((f"{name}.json",) for name in names)


SUITES: Final[dict[str, SuiteForm]] = {
    "sugarcrepe": SuiteForm(
        _sugarcrepe,
        _json_files(SUITE_KINDS["sugarcrepe"]),
        "add_att.json, ..., swap_obj.json",
        "COCO's val2017/<id>.jpg, or its images alone",
    ),
    "aro": SuiteForm(
        _aro,
        (*_json_files(("visual_genome_relation", "visual_genome_attribution")), *ORDER.values()),
        "visual_genome_relation.json, visual_genome_attribution.json, coco_karpathy_test.json or flickr30k_test.json",
        "images/<id>.jpg of Visual Genome, val2014/ and test2014/ of COCO, flickr30k-images/",
    ),
    "valse": SuiteForm(
        _valse,
        _json_files(SUITE_KINDS["valse"]),
        "existence.json, ..., foil-it.json",
        "a folder for each dataset (coco2017, SWiG, visual7w, VisDial_v1.0, FOIL dataset) or those of their archives "
        "(val2017, images_512, images, VisualDialog_val2018, train2014, val2014)",
    ),
    "vl_checklist": SuiteForm(
        _vl_checklist,
        (),
        "lists of [image, {POS, NEG}]",
        "vg/VG_100K/, vg/VG_100K_2/, swig/ and hake/ below one folder",
    ),
    "winoground": SuiteForm(
        _winoground, (("examples.jsonl",),), "examples.jsonl", "<image>.png, or images/<image>.png"
    ),
}


def limited(examples: list[Example], limit: int | None) -> list[Example]:
    """The first `limit` examples of each kind; for Winoground, the first `limit` pairs."""
    if not limit:
        return examples
    by_kind: dict[str, list[Example]] = {}
    for example in examples:
        by_kind.setdefault(example.kind, []).append(example)
    return [e for kind, members in by_kind.items() for e in members[: limit * (2 if kind == "winoground" else 1)]]
