"""ALBEF's and BLIP's lists, `[{"image": PATH, "caption": TEXT or TEXTS}, ...]`; often the paths are those of their
authors' machine."""

from pathlib import Path
from typing import Any

from workbench.data.image_files import ImageFolders, places_of, ranked
from workbench.data.reading import SPLITS, Place, Reading


def read_image_list(content: list[Any], file: Path, images: ImageFolders) -> Reading:
    reading = Reading("image list")
    # ALBEF writes a pair a line, so one image may come several times.
    captions: dict[str, list[str]] = {}
    for entry in content:
        given = entry["caption"]
        captions.setdefault(entry["image"], []).extend([given] if isinstance(given, str) else given)
    split = next((SPLITS[word] for word in ("train", "val", "test") if word in file.stem), "train")
    folders = ranked(list(captions), [*images.roots, file.parent])
    places = places_of([(name,) for name in captions], folders, images, file.parent)
    for (name, texts), place in zip(captions.items(), places, strict=True):
        reading.add(name, texts, split, Place(place))
    return reading
