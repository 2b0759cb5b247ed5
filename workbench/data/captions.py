"""Captioned pictures as they are published: COCO, Karpathy's splits, Visual Genome, ALBEF's lists, tables, folders.

Each reader gives a `Reading`: what it found, and what it could not use and why. No picture is opened here.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import polars as pl

from workbench.data.pictures import SUFFIXES, Box, Fit, decode
from workbench.errors import UserError, first_line

Regions = Literal["whole", "crop"]
SPLITS = {"train": "train", "restval": "train", "val": "val", "validation": "val", "test": "test"}
FILE_COLUMNS = ("file", "image", "path", "filename", "filepath", "file_name")
CAPTION_COLUMNS = ("caption", "text", "title")


@dataclass(frozen=True)
class Place:
    """A picture's bytes: a file, or `size` bytes of it from `offset` on (a member of a tar)."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)

    def picture(self, side: int, fit: Fit, box: Box | None) -> np.ndarray:
        """uint8 [3, side, side]; raises BrokenPicture."""
        return decode(self.path if self.size is None else self.read(), side, fit, box)


@dataclass(frozen=True)
class Found:
    """A picture with its captions; `box` where they are about that part alone."""

    id: str
    captions: tuple[str, ...]
    split: str
    place: Place
    box: Box | None = None


@dataclass
class Reading:
    """What a source holds. `broken`: (what, why it is left out)."""

    form: str
    found: list[Found] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    def add(self, id: str, captions: Iterable[Any], split: str, place: Place, box: Box | None = None) -> None:
        """Takes a picture with its captions, white space made single, empty and repeated ones left out."""
        texts = dict.fromkeys(" ".join(text.split()) for text in captions if isinstance(text, str))
        kept = tuple(text for text in texts if text)
        if kept:
            self.found.append(Found(id, kept, split, place, box))
        else:
            self.broken.append((id, "it has no caption"))

    def without_repeats(self) -> "Reading":
        """The first picture of each id, the others listed as broken."""
        seen: set[str] = set()
        first = Reading(self.form, broken=list(self.broken))
        for picture in self.found:
            if picture.id in seen:
                first.broken.append((picture.id, "its id occurs twice; the first one is kept"))
            else:
                seen.add(picture.id)
                first.found.append(picture)
        return first


def read_source(path: Path, images: Path | None = None, regions: Regions = "whole", option: str = "--from") -> Reading:
    """Whatever is published at `path`: a file or folder of any form that this module or `shards` knows.

    `images`: where the pictures lie, if not beside. `regions` (Visual Genome): captions of regions are taken for the whole
    picture, as METER does, or each region is cut out. Raises UserError, which names the `option` that gave `path`, where nothing
    can be made of it.
    """
    from workbench.data.shards import read_tars

    if not path.exists():
        raise UserError(f"{option}: there is no file or folder {path}.")
    if images is not None and not images.is_dir():
        raise UserError(f"--images {images}: there is no such folder.")
    tars = [path] if path.suffix == ".tar" else sorted(path.glob("*.tar")) if path.is_dir() else []
    if tars:
        return read_tars(tars).without_repeats()
    readings = [_read_annotations(file, images, regions) for file in _annotation_files(path)]
    if not readings and path.is_dir():
        readings = [_from_text_files(path)]
    made = Reading(readings[0].form if readings else "folder")
    for reading in readings:
        made.found += reading.found
        made.broken += reading.broken
    if not made.found:
        raise UserError(
            f"{option}: {path} holds no captioned pictures of a known form; give COCO's or Karpathy's JSON, Visual Genome's "
            "region_descriptions.json, a list of {image, caption}, a .csv / .jsonl / .parquet with the columns `file` and `caption`, "
            "a folder of tars, or a folder with a .txt beside each picture."
        )
    return made.without_repeats()


def _annotation_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    patterns = (
        "annotations/captions_*.json",
        "captions_*.json",
        "dataset_*.json",
        "region_descriptions.json",
        "captions.*",
        "*.parquet",
        "*.json",
    )
    for pattern in patterns:
        if found := sorted(file for file in path.glob(pattern) if file.suffix in READERS):
            return found
    return []


def _read_annotations(file: Path, images: Path | None, regions: Regions) -> Reading:
    return READERS.get(file.suffix, _unknown)(file, images, regions)


def _unknown(file: Path, images: Path | None, regions: Regions) -> Reading:
    raise UserError(f"{file}: a {file.suffix or 'nameless'} file is not a known form of captions.")


def _from_json(file: Path, images: Path | None, regions: Regions) -> Reading:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable as JSON ({first_line(error)}).") from error
    try:
        if isinstance(content, dict) and "annotations" in content:
            return _coco(content, file, images)
        if isinstance(content, dict) and "images" in content:
            return _karpathy(content, file, images)
        if isinstance(content, list) and content and "regions" in content[0]:
            return _visual_genome(content, file, images, regions)
        if isinstance(content, list) and content and "image" in content[0]:
            return _image_list(content, file, images)
    except (KeyError, TypeError) as error:
        raise UserError(f"{file}: an entry is not as published ({first_line(error)} is missing or wrong).") from error
    raise UserError(f"{file}: neither COCO's, Karpathy's, Visual Genome's nor a list of {{image, caption}}.")


def _coco(content: dict[str, Any], file: Path, images: Path | None) -> Reading:
    reading = Reading("coco")
    name = file.stem.removeprefix("captions_")  # train2014, val2017, ...
    split = next((SPLITS[word] for word in SPLITS if name.startswith(word)), "train")
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    above = file.parent.parent if file.parent.name == "annotations" else file.parent
    names = [image["file_name"] for image in content["images"]]
    root = _root(names, [*_under(images, name), above / name, above / "images" / name, above / "images", above])
    for image in content["images"]:
        reading.add(str(image["id"]), captions.pop(image["id"], []), split, Place(root / image["file_name"]))
    reading.broken += [(str(id), "its captions belong to no picture of the file") for id in captions]
    return reading


def _karpathy(content: dict[str, Any], file: Path, images: Path | None) -> Reading:
    reading = Reading("karpathy")
    entries = [(str(Path(image.get("filepath", "")) / image["filename"]), image) for image in content["images"]]
    root = _root([name for name, _ in entries], [*_under(images), file.parent, file.parent / "images"])
    flat = _root([image["filename"] for _, image in entries], [*_under(images), file.parent / "images", file.parent])
    nested = any((root / name).exists() for name, _ in entries[:100])
    for name, image in entries:
        split = SPLITS.get(image["split"])
        if split is None:
            reading.broken.append((name, f"its split `{image['split']}` is unknown"))
            continue
        place = Place(root / name if nested else flat / image["filename"])
        reading.add(
            str(image.get("cocoid", image.get("imgid", name))), [s["raw"] for s in image["sentences"]], split, place
        )
    return reading


def _visual_genome(content: list[Any], file: Path, images: Path | None, regions: Regions) -> Reading:
    reading = Reading("visual genome")
    roots = [root / name for root in (*_under(images), file.parent) for name in ("VG_100K", "VG_100K_2", ".")]
    for image in content:
        id = str(image["id"])
        name = f"{id}.jpg"
        place = Place(next((root / name for root in roots if (root / name).exists()), roots[0] / name))
        if regions == "whole":
            reading.add(id, [region["phrase"] for region in image["regions"]], "train", place)
            continue
        for region in image["regions"]:
            box = (region["x"], region["y"], region["width"], region["height"])
            reading.add(f"{id}-{region['region_id']}", [region["phrase"]], "train", place, box)
    return reading


def _image_list(content: list[Any], file: Path, images: Path | None) -> Reading:
    reading = Reading("image list")
    root = _root([entry["image"] for entry in content], [*_under(images), file.parent])
    # ALBEF writes a pair a line, so one picture may come several times.
    captions: dict[str, list[str]] = {}
    for entry in content:
        given = entry["caption"]
        captions.setdefault(entry["image"], []).extend([given] if isinstance(given, str) else given)
    split = next((SPLITS[word] for word in ("train", "val", "test") if word in file.stem), "train")
    for name, texts in captions.items():
        reading.add(name, texts, split, Place(root / name))
    return reading


def _from_table(file: Path, images: Path | None, regions: Regions) -> Reading:
    # Opened here, since Polars takes [ and * in a path for a pattern.
    readers: dict[str, Callable[[BinaryIO], pl.DataFrame]] = {
        ".csv": pl.read_csv,
        ".tsv": lambda opened: pl.read_csv(opened, separator="\t"),
        ".jsonl": pl.read_ndjson,
        ".parquet": pl.read_parquet,
    }
    try:
        with open(file, "rb") as opened:
            frame = readers[file.suffix](opened)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{file}: not a readable {file.suffix[1:]} file ({first_line(error)}).") from error
    file_column, caption_column = (
        _column(file, frame, meaning, names)
        for meaning, names in (("file", FILE_COLUMNS), ("caption", CAPTION_COLUMNS))
    )
    reading = Reading("table")
    # A picture may have several rows, and a row a list of captions.
    rows = frame.drop_nulls([file_column, caption_column]).group_by(file_column, maintain_order=True).all()
    names = rows[file_column].cast(pl.String).to_list()
    root = _root(names, [*_under(images), file.parent])
    splits = rows["split"].list.first().cast(pl.String).to_list() if "split" in rows.columns else ["train"] * len(names)
    for name, texts, split in zip(names, rows[caption_column].to_list(), splits, strict=True):
        flat = [text for part in texts for text in (part if isinstance(part, list) else [str(part)])]
        reading.add(name, flat, SPLITS.get(str(split), "train"), Place(root / name))
    return reading


def _column(file: Path, frame: pl.DataFrame, meaning: str, names: Iterable[str]) -> str:
    found = next((name for name in names if name in frame.columns), None)
    if found is None:
        raise UserError(f"{file}: the column `{meaning}` is missing; `file` and `caption` are needed.")
    return found


def _from_text_files(folder: Path) -> Reading:
    """A `.txt` beside each picture, whose first line is the caption."""
    reading = Reading("folder")
    for picture in sorted(folder.rglob("*")):
        beside = picture.with_suffix(".txt")
        if picture.suffix.lower() in SUFFIXES and beside.is_file():
            lines = beside.read_text(encoding="utf-8", errors="replace").splitlines()
            reading.add(str(picture.relative_to(folder)), lines[:1], "train", Place(picture))
    return reading


def _under(images: Path | None, name: str = "") -> list[Path]:
    return [] if images is None else [images / name, images] if name else [images]


def _root(names: list[str], candidates: list[Path]) -> Path:
    """The candidate folder below which most of the first pictures are; the first one where none has any."""
    some = names[:50]
    return max(candidates, key=lambda root: sum((root / name).exists() for name in some))


READERS: dict[str, Callable[[Path, Path | None, Regions], Reading]] = {
    ".json": _from_json,
    ".csv": _from_table,
    ".tsv": _from_table,
    ".jsonl": _from_table,
    ".parquet": _from_table,
}
