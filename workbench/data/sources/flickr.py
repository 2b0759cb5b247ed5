"""Flickr8k's and Flickr30k's captions: `results_20130124.token`, `Flickr8k.token.txt`, and Kaggle's `captions.txt`."""

import io
import re
from pathlib import Path

from workbench.data.image_files import ImageFolders, places_of, ranked
from workbench.data.reading import Place, Reading, cut_off, text_of
from workbench.data.sources.coco import FLICKR
from workbench.data.sources.tables import read_table

TOKEN = re.compile(r"(?P<file>[^\t]+)#\d+\t(?P<caption>.*)")


def read_flickr(file: Path, images: ImageFolders) -> Reading:
    """Reads five captions per image. All are for training, since the splits are in other files (such as Karpathy's)."""
    text = text_of(file)
    lines = [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
    if not any(TOKEN.fullmatch(line) for line in lines[:50]):
        return read_table(file, images)
    reading = Reading("flickr")
    captions: dict[str, list[str]] = {}
    for number, line in enumerate(lines, 1):
        if match := TOKEN.fullmatch(line):
            captions.setdefault(match["file"], []).append(match["caption"])
        elif number == len(lines) and not text.endswith("\n"):
            raise cut_off(file, number, "no tab before a caption")
        elif line.strip():
            reading.broken.append((f"{file.name}, line {number}", "it is not `IMAGE#NUMBER`, a tab and a caption"))
    homes = (file.parent, file.parent.parent)
    folders = [*images.roots, file.parent, *(home / name for home in homes for name in FLICKR)]
    places = places_of([(name,) for name in captions], ranked(list(captions), folders), images, file.parent)
    for (name, texts), place in zip(captions.items(), places, strict=True):
        reading.add(name, texts, "train", Place(place))
    return reading
