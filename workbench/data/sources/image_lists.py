"""ALBEF's and BLIP's lists, `[{"image": PATH, "caption": TEXT or TEXTS}, ...]`; the paths are often those of the
authors' machine."""

from pathlib import Path
from typing import Any

from workbench.data.image_files import ImageFolders, places_of, ranked
from workbench.data.reading import SPLITS, Place, Reading


def read_image_list(content: list[Any], file: Path, images: ImageFolders) -> Reading:
    """Reads a list of images and captions. The file's name may contain the split."""
    reading = Reading("image list")
    # ALBEF writes one pair per entry, so an image may occur several times.
    captions: dict[str, list[str]] = {}
    for entry in content:
        texts = entry["caption"]
        captions.setdefault(entry["image"], []).extend([texts] if isinstance(texts, str) else texts)
    split = next((SPLITS[word] for word in ("train", "val", "test") if word in file.stem), "train")
    folders = ranked(list(captions), [*images.roots, file.parent])
    places = places_of([(name,) for name in captions], folders, images, file.parent)
    for (name, texts), place in zip(captions.items(), places, strict=True):
        reading.add(name, texts, split, Place(place))
    return reading
