"""Captioned pictures as they are published: COCO, Karpathy's splits, Visual Genome, ALBEF's lists, tables, folders.

Each reader gives a `Reading`: what it found, and what it could not use and why. No picture is opened here.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import polars as pl

from workbench.data.image_files import files_below
from workbench.data.pictures import SUFFIXES
from workbench.data.reading import Place, Reading, is_leftover
from workbench.data.shards import read_tars
from workbench.errors import UserError, first_line
from workbench.files import decoded, encoding_of

Regions = Literal["whole", "crop"]
SPLITS = {"train": "train", "restval": "train", "val": "val", "validation": "val", "test": "test"}
FILE_COLUMNS = ("file", "image", "path", "filename", "filepath", "file_name")
CAPTION_COLUMNS = ("caption", "text", "title")
SEPARATORS = (",", ";", "\t", "|")  # of a .csv; Excel writes semicolons where a comma is the decimal point


def read_source(path: Path, images: Path | None = None, regions: Regions = "whole", option: str = "--from") -> Reading:
    """Whatever is published at `path`: a file or folder of any form that this module or `shards` knows.

    `images`: where the pictures lie, if not beside. `regions` (Visual Genome): captions of regions are taken for the whole
    picture, as METER does, or each region is cut out. Raises UserError, which names the `option` that gave `path`, where nothing
    can be made of it.
    """
    path, images = path.expanduser(), images and images.expanduser()
    if not path.exists():
        raise UserError(f"{option}: there is no file or folder {path}.")
    if images is not None and not images.is_dir():
        raise UserError(f"--images {images}: there is no such folder.")
    tars = [path] if path.suffix == ".tar" else sorted(_beside(path, "*.tar")) if path.is_dir() else []
    if tars:
        return read_tars(tars).without_repeats()
    readings = [_within(path, file, _read_annotations(file, images, regions)) for file in _annotation_files(path)]
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
            f"a folder of tars, or a folder with a .txt beside each picture{_such_as(made)}."
        )
    return made.without_repeats()


def _such_as(reading: Reading) -> str:
    return f" ({reading.broken[0][0]}: {reading.broken[0][1]})" if reading.broken else ""


def _beside(path: Path, pattern: str) -> Iterator[Path]:
    return (file for file in path.glob(pattern) if not is_leftover(file.name))


def _annotation_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    patterns = (
        "annotations/captions_*.json",
        "captions_*.json",
        "dataset_*.json",
        "region_descriptions.json",
        "captions.*",
        "metadata.*",  # Hugging Face's image folder, ...
        "*/metadata.*",  # ... with a folder for each split
        "*.parquet",
        "*.json",
    )
    for pattern in patterns:
        if found := sorted(file for file in _beside(path, pattern) if file.suffix in READERS):
            return found
    return []


def _within(path: Path, file: Path, reading: Reading) -> Reading:
    """Of a folder for each split (`train/metadata.csv`), what is named after it belongs to it; file names repeat from
    one to the next."""
    if path.is_file() or file.stem != "metadata" or file.parent == path:
        return reading
    split = SPLITS.get(file.parent.name, "train")
    reading.found = [replace(each, id=f"{file.parent.name}/{each.id}", split=split) for each in reading.found]
    return reading


def _read_annotations(file: Path, images: Path | None, regions: Regions) -> Reading:
    return READERS.get(file.suffix, _unknown)(file, images, regions)


def _unknown(file: Path, images: Path | None, regions: Regions) -> Reading:
    raise UserError(f"{file}: a {file.suffix or 'nameless'} file is not a known form of captions.")


def _from_json(file: Path, images: Path | None, regions: Regions) -> Reading:
    try:
        content = json.loads(decoded(file.read_bytes(), file))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({first_line(error)}).") from error
    try:
        if isinstance(content, dict) and "annotations" in content:
            return _coco(content, file, images)
        if isinstance(content, dict) and "images" in content:
            return _karpathy(content, file, images)
        if isinstance(content, list) and content and isinstance(content[0], dict) and "regions" in content[0]:
            return _visual_genome(content, file, images, regions)
        if isinstance(content, list) and content and isinstance(content[0], dict) and "image" in content[0]:
            return _image_list(content, file, images)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
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
    nested = any(os.path.exists(root / name) for name, _ in entries[:100])
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
        place = Place(next((root / name for root in roots if os.path.exists(root / name)), roots[0] / name))
        if regions == "whole":
            reading.add(id, [region["phrase"] for region in image["regions"]], "train", place)
            continue
        for region in image["regions"]:
            x, y, width, height = (round(region[side]) for side in ("x", "y", "width", "height"))
            box = (x, y, width, height)
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
    reading = Reading("table")
    captions: dict[str, list[Any]] = {}
    splits: dict[str, str] = {}
    # A picture may have several rows, and a row a list of captions.
    for name, given, split in ROWS[file.suffix](file, reading):
        if not name:
            reading.broken.append((f"{file.name}: {str(given)[:60]}", "it names no file"))
            continue
        captions.setdefault(name, []).extend(given if isinstance(given, list) else [given])
        if given is not None:
            splits.setdefault(name, split)
    root = _root(list(captions), [*_under(images), file.parent])
    for name, texts in captions.items():
        told = (text if isinstance(text, str) else str(text) for text in texts if text is not None)
        reading.add(name, told, SPLITS.get(splits.get(name, ""), "train"), Place(root / name))
    return reading


Row = tuple[str, Any, str]  # file, caption or captions, split


def _csv_rows(file: Path, reading: Reading) -> Iterator[Row]:
    text = decoded(file.read_bytes(), file)
    # The separator is the one with which the first line holds the columns that are needed.
    first, _, rest = text.lstrip("\r\n").partition("\n")
    told = first.strip()[4:] if first.lower().startswith("sep=") else ""  # Excel's own note
    if told:
        first, text = rest.partition("\n")[0], rest
    names = {one: [_plain(name) for name in next(csv.reader([first], delimiter=one), [])] for one in SEPARATORS}
    known = [one for one in SEPARATORS if {*names[one]} & {*FILE_COLUMNS} and {*names[one]} & {*CAPTION_COLUMNS}]
    separator = "\t" if file.suffix == ".tsv" and not known else (known or [told or ","])[0]
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        header = [_plain(name) for name in next((row for row in lines if row), [])]
        places = _columns(file, header)
        for row in lines:
            if len(row) == len(header):
                yield _row([row[place].strip() or None if place is not None else None for place in places])
            elif row:
                reading.broken.append(
                    (
                        f"{file.name}, line {lines.line_num}",
                        f"it has {len(row)} columns instead of {len(header)}; put captions with separators in quotes",
                    )
                )
    except csv.Error as error:
        raise UserError(
            f"{file}:{lines.line_num}: not a readable {file.suffix[1:]} file ({first_line(error)}); a quote may lack "
            "its end."
        ) from error


def _json_rows(file: Path, reading: Reading) -> Iterator[Row]:
    """Its rows need not have the same keys."""
    keys: dict[str, None] = {}
    for number, line in enumerate(io.StringIO(decoded(file.read_bytes(), file)), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict):
                raise ValueError("no mapping")
        except (ValueError, RecursionError) as error:
            reading.broken.append((f"{file.name}, line {number}", f"it is not as JSON has it ({first_line(error)})"))
            continue
        keys |= dict.fromkeys(entry)
        file_key, caption_key = (
            next((name for name in names if entry.get(name) is not None), "")
            for names in (FILE_COLUMNS, CAPTION_COLUMNS)
        )
        yield _row([entry.get(file_key), entry.get(caption_key), entry.get("split")])
    if keys:
        _columns(file, list(keys))
    elif reading.broken:
        raise UserError(f"{file}: not a readable jsonl file ({reading.broken[0][0]}: {reading.broken[0][1]}).")


def _parquet_rows(file: Path, reading: Reading) -> Iterator[Row]:
    try:
        frame = pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{file}: not a readable parquet file ({first_line(error)}).") from error
    places = _columns(file, frame.columns)
    for place in places[:2]:
        if place is not None and isinstance(frame.dtypes[place], pl.Struct | pl.Binary):
            raise UserError(
                f"{file}: the column `{frame.columns[place]}` holds data and no text; unpack the pictures, and name "
                "their files."
            )
    for row in frame.iter_rows():
        yield _row([row[place] if place is not None else None for place in places])


def _row(values: list[Any]) -> Row:
    name, caption, split = values
    return "" if name is None else str(name), caption, str(split)


def _plain(name: str) -> str:
    return name.strip().lower()


def _columns(file: Path, header: list[str]) -> list[int | None]:
    """The places of file, caption and split among the columns."""
    found: list[int | None] = []
    for meaning, names in (("file", FILE_COLUMNS), ("caption", CAPTION_COLUMNS)):
        place = next((header.index(name) for name in names if name in header), None)
        if place is None:
            raise UserError(
                f"{file}: the column `{meaning}` is missing; `file` and `caption` are needed"
                + (f", and there is {', '.join(map(repr, header[:8]))}." if header else ".")
            )
        found.append(place)
    return [*found, header.index("split") if "split" in header else None]


def _from_text_files(folder: Path) -> Reading:
    """A `.txt` beside each picture, whose first line is the caption."""
    reading = Reading("folder")
    files = sorted(files_below(folder, lambda below, why: reading.broken.append((str(below), why))))
    beside = {*files}
    for picture in files:
        text = picture.with_suffix(".txt")
        if picture.suffix.lower() in SUFFIXES and text in beside:
            try:
                data = text.read_bytes()
            except OSError as error:
                reading.broken.append(
                    (str(picture.relative_to(folder)), f"its caption cannot be read ({error.strerror})")
                )
                continue
            lines = data.decode(encoding_of(data), errors="replace").splitlines()
            reading.add(str(picture.relative_to(folder)), lines[:1], "train", Place(picture))
    return reading


def _under(images: Path | None, name: str = "") -> list[Path]:
    return [] if images is None else [images / name, images] if name else [images]


def _root(names: list[str], candidates: list[Path]) -> Path:
    """The candidate folder below which most of the first pictures are; the first one where none has any."""
    some = names[:50]
    # Where columns are swapped a caption is asked for, which is longer than a name may be.
    return max(candidates, key=lambda root: sum(os.path.exists(root / name) for name in some))


ROWS: dict[str, Callable[[Path, Reading], Iterator[Row]]] = {
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".jsonl": _json_rows,
    ".parquet": _parquet_rows,
}


READERS: dict[str, Callable[[Path, Path | None, Regions], Reading]] = {
    ".json": _from_json,
    ".csv": _from_table,
    ".tsv": _from_table,
    ".jsonl": _from_table,
    ".parquet": _from_table,
}
