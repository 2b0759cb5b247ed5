"""COCO's captions, and Karpathy's splits of COCO, Flickr30k and Flickr8k: JSON objects with a list of images."""

import os
from pathlib import Path
from typing import Any

from workbench.data.image_files import ImageFolders, places_of, ranked
from workbench.data.reading import SPLITS, Place, Reading

BESIDE = ("annotations", "karpathy")  # folders of annotations next to those of the images
FLICKR = ("flickr30k-images", "flickr30k_images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset")


def read_coco(content: dict[str, Any], file: Path, images: ImageFolders) -> Reading:
    """Reads COCO's captions. The file's name contains the split: `captions_train2014.json`."""
    reading = Reading("coco")
    name = file.stem.removeprefix("captions_")  # train2014, val2017, ...
    split = next((SPLITS[word] for word in SPLITS if name.startswith(word)), "train")
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation["image_id"], []).append(annotation["caption"])
    above = above_annotations(file, BESIDE[:1])
    named = [folder for root in images.roots for folder in (root / name, root)]
    folders = [*named, above / name, above / "images" / name, above / "images", above]
    names = [image["file_name"] for image in content["images"]]
    places = places_of([(name,) for name in names], ranked(names, folders), images, above)
    for image, place in zip(content["images"], places, strict=True):
        reading.add(str(image["id"]), captions.pop(image["id"], []), split, Place(place))
    reading.broken += [(str(id), "its captions belong to no image of the file") for id in captions]
    return reading


def read_karpathy(content: dict[str, Any], file: Path, images: ImageFolders) -> Reading:
    """Reads Karpathy's splits. `restval` counts as train. Images are in their `filepath`, or all in one folder."""
    reading = Reading("karpathy")
    entries = []
    for image in content["images"]:
        if image["split"] in SPLITS:
            entries.append(image)
        else:
            name = str(Path(image.get("filepath", "")) / image["filename"])
            reading.broken.append((name, f"its split `{image['split']}` is unknown"))
    names = [str(Path(image.get("filepath", "")) / image["filename"]) for image in entries]
    flat_names = [image["filename"] for image in entries]
    above = above_annotations(file, BESIDE)
    further = [root / name for root in dict.fromkeys((file.parent, above)) for name in FLICKR]
    further += [above, above / "images"]
    nested = ranked(names, [*images.roots, file.parent, file.parent / "images", *further])
    flat = ranked(flat_names, [*images.roots, file.parent / "images", file.parent, *further])
    if any(os.path.exists(nested[0] / name) for name in names[:100]):
        places = places_of(list(zip(names, flat_names, strict=True)), nested, images, above)
    else:
        places = places_of(list(zip(flat_names, names, strict=True)), flat, images, above)
    for image, name, place in zip(entries, names, places, strict=True):
        id = str(image.get("cocoid", image.get("imgid", name)))
        reading.add(id, [sentence["raw"] for sentence in image["sentences"]], SPLITS[image["split"]], Place(place))
    return reading


def above_annotations(file: Path, names: tuple[str, ...]) -> Path:
    """The folder of a file, or its parent if it is a folder of annotations (one of `names`)."""
    return file.parent.parent if file.parent.name in names else file.parent
