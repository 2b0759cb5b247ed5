"""Visual Genome's `region_descriptions.json`: phrases about parts of an image."""

from pathlib import Path
from typing import Any

from workbench.data.image_files import ImageFolders, places_of
from workbench.data.reading import Place, Reading, Regions
from workbench.data.sources.coco import above_annotations

# As published, flat, and in the layout of METER and ViLT.
LAYOUTS = ("VG_100K", "VG_100K_2", ".", "images/VG_100K", "images/VG_100K_2", "images")


def read_visual_genome(content: list[Any], file: Path, images: ImageFolders, regions: Regions) -> Reading:
    """Reads the phrases. `regions`: they describe the whole image, as METER uses them, or each region is cropped."""
    reading = Reading("visual genome")
    above = above_annotations(file, ("annotations",))
    roots = dict.fromkeys((*images.roots, file.parent, above))
    folders = [root / name for root in roots for name in LAYOUTS]
    places = places_of([(f"{image['id']}.jpg",) for image in content], folders, images, above)
    for image, path in zip(content, places, strict=True):
        id, place = str(image["id"]), Place(path)
        if regions == "whole":
            reading.add(id, [region["phrase"] for region in image["regions"]], "train", place)
            continue
        for region in image["regions"]:
            x, y, width, height = (round(region[side]) for side in ("x", "y", "width", "height"))
            reading.add(f"{id}-{region['region_id']}", [region["phrase"]], "train", place, (x, y, width, height))
    return reading
