"""Detects the form of published captioned images at a path, and reads them (readers: `sources`, `shards`).

Each reader returns a `Reading`: what it found, what it could not use, and why. No image is opened here.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.data.archives import is_tar
from workbench.data.image_files import ImageFolders, files_below
from workbench.data.reading import SPLITS, Reading, Regions, UnknownForm, is_leftover, text_of
from workbench.data.shards import read_tars
from workbench.data.sources.coco import read_coco, read_karpathy
from workbench.data.sources.emoji import emoji_packages, read_emoji
from workbench.data.sources.flickr import read_flickr
from workbench.data.sources.image_lists import read_image_list
from workbench.data.sources.tables import read_table
from workbench.data.sources.text_files import read_text_files
from workbench.data.sources.visual_genome import read_visual_genome
from workbench.errors import UserError, first_line

SUFFIXES = (".json", ".csv", ".tsv", ".jsonl", ".parquet")
# Names that only annotations have: such a file must be readable.
MEANT = (
    "annotations/captions_*.json",
    "captions_*.json",
    "dataset_*.json",
    "region_descriptions.json",
    "captions.*",
    "metadata.*",  # Hugging Face's image folder, ...
    "*/metadata.*",  # ... with a folder for each split
)
# Names that may occur next to images for another reason.
POSSIBLE = (
    "*.parquet",
    "*.json",
    "annotations/region_descriptions.json",  # METER's and ViLT's layouts
    "karpathy/dataset_*.json",
    "*.token",
    "*.token.txt",
    "captions.txt",
    "results.csv",
    "*/*.token",
    "*/*.token.txt",
    "*/results.csv",
)


def read_source(path: Path, images: Sequence[Path] = (), regions: Regions = "whole", option: str = "--from") -> Reading:
    """Reads what is published at `path`: a file or folder of any form that `sources` or `shards` knows.

    `images`: the folders of the images, if not next to the captions. `regions` (Visual Genome): captions of regions are
    used for the whole image, as METER does, or each region is cropped. Raises UserError, which names the `option` that
    `path` comes from, if nothing there can be read.
    """
    path = path.expanduser()
    if not path.exists():
        raise UserError(f"{option}: there is no file or folder {path}.")
    folders = ImageFolders.of(images)
    if packages := emoji_packages(path):
        reading = read_emoji(packages)
    elif path.is_dir():
        reading = _read_folder(path, folders, regions)
    else:
        reading = read_tars([path], path.parent) if is_tar(path) else _read_annotations(path, folders, regions)
    if not reading.found:
        raise UserError(
            f"{option}: {path} holds no captioned images of a known form; expected: COCO's or Karpathy's JSON, Visual"
            " Genome's region_descriptions.json, a list of {image, caption}, Flickr's .token, a .csv / .jsonl /"
            " .parquet with the columns `file` and `caption`, a folder of tars, packages emoji-datasource-*, or a"
            f" folder with a .txt next to each image{_such_as(reading)}."
        )
    return reading.without_repeats()


def _such_as(reading: Reading) -> str:
    return f" ({reading.broken[0][0]}: {reading.broken[0][1]})" if reading.broken else ""


def _read_folder(path: Path, images: ImageFolders, regions: Regions) -> Reading:
    """Reads tars, else annotations, else a .txt next to each image, else tars that are compressed or in subfolders."""
    if _matches(path, "*.tar"):
        return read_tars(list(filter(is_tar, sorted(files_below(path)))), path)
    readings, strange = _read_all_annotations(path, images, regions)
    if readings:
        return _joined(readings)
    refused: list[tuple[str, str]] = []
    files = sorted(files_below(path, lambda below, why: refused.append((str(below), why))))
    reading = read_text_files(path, files)
    if not reading.found and (tars := list(filter(is_tar, files))):
        reading = read_tars(tars, path)
    reading.broken = refused + reading.broken
    if not reading.found and strange:
        raise strange[0][1]
    reading.broken += [_aside(file, error) for file, error in strange if not isinstance(error, UnknownForm)]
    return reading


def _aside(file: Path, error: UserError) -> tuple[str, str]:
    return file.name, f"it is ignored, since no captions can be read from it ({str(error).rstrip('.')})"


def _read_all_annotations(
    path: Path, images: ImageFolders, regions: Regions
) -> tuple[list[Reading], list[tuple[Path, UserError]]]:
    """The readings of the annotation files with the most specific name; else the candidates and why they are not used.

    Raises UserError if a file cannot be read that was evidently meant.
    """
    strange: list[tuple[Path, UserError]] = []
    for pattern in (*MEANT, *POSSIBLE):
        readings: list[Reading] = []
        errors: list[tuple[Path, UserError]] = []
        for file in _matches(path, pattern):
            try:
                readings.append(_within(path, file, _read_annotations(file, images, regions)))
            except UserError as error:
                errors.append((file, error))
        for _, why in errors:
            if _is_missed(why, pattern, bool(readings)):
                raise why
        if readings:
            readings[0].broken += [_aside(file, error) for file, error in errors]
            return readings, []
        strange += errors
    return [], strange


def _is_missed(error: UserError, pattern: str, has_others: bool) -> bool:
    """Whether an unreadable file was evidently meant: by its name, or because others like it can be read."""
    if isinstance(error, UnknownForm):
        return pattern == "captions.*" or (pattern in MEANT and has_others)
    return pattern in MEANT or has_others


def _matches(path: Path, pattern: str) -> list[Path]:
    """The files that match a pattern; text files only if it names their suffix, since one may belong to an image."""
    files = (file for file in path.glob(pattern) if not is_leftover(file.name) and not file.is_dir())
    return sorted(
        file for file in files if (file.suffix in SUFFIXES or not pattern.endswith("*")) and ".lemma." not in file.name
    )


def _joined(readings: Sequence[Reading]) -> Reading:
    joined = Reading(readings[0].form)
    for reading in readings:
        joined.found += reading.found
        joined.broken += reading.broken
        joined.repeated += reading.repeated
    return joined


def _within(path: Path, file: Path, reading: Reading) -> Reading:
    """Sets split and ids by the folder of each split (`train/metadata.csv`), since file names repeat across splits."""
    if file.stem != "metadata" or file.parent == path:
        return reading
    split = SPLITS.get(file.parent.name, "train")
    reading.found = [replace(image, id=f"{file.parent.name}/{image.id}", split=split) for image in reading.found]
    return reading


def _read_annotations(file: Path, images: ImageFolders, regions: Regions) -> Reading:
    if file.suffix == ".json":
        return _read_json(file, images, regions)
    if file.suffix in SUFFIXES:
        return read_table(file, images)
    if file.suffix in (".token", ".txt"):
        return read_flickr(file, images)
    raise UserError(f"{file}: a {file.suffix or 'nameless'} file is not a known form of captions.")


def _read_json(file: Path, images: ImageFolders, regions: Regions) -> Reading:
    content = _content_of(file)
    first = content[0] if isinstance(content, list) and content and isinstance(content[0], dict) else {}
    try:
        if isinstance(content, dict) and "annotations" in content:
            return read_coco(content, file, images)
        if isinstance(content, dict) and "images" in content:
            return read_karpathy(content, file, images)
        if "regions" in first:
            return read_visual_genome(content, file, images, regions)
        if "image" in first:
            return read_image_list(content, file, images)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise UserError(f"{file}: an entry is not as published ({first_line(error)} is missing or wrong).") from error
    raise UnknownForm(f"{file}: neither COCO's, Karpathy's, Visual Genome's nor a list of {{image, caption}}.")


def _content_of(file: Path) -> Any:
    text = text_of(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        hint = "; it ends in the middle, so it may be cut off: download it again" if is_cut else ""
        line = min(error.lineno, text.rstrip().count("\n") + 1)
        raise UserError(f"{file}:{line}: not readable as JSON ({first_line(error)}){hint}.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable as JSON ({first_line(error)}).") from error
