"""A miniature of the npm packages `emoji-datasource-*`: their form, with made-up emoji."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from workbench.randomness import generator

TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
ROLES = ("POTTER", "GARDENER", "BEEKEEPER", "WEAVER", "MILLER", "DIVER")
COLOURS = ("RED", "GREEN", "BLUE", "YELLOW")
HOURS = ("ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN")


def entry(name: str, short: str, subcategory: str, variations: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    image = short.replace(" ", "-")
    fields = {"name": name, "short_name": short, "image": f"{image}.png", "subcategory": subcategory, **more}
    if variations:
        fields["skin_variations"] = {tone: {"image": f"{image}-{tone.lower()}.png"} for tone in variations}
    return fields


def entries() -> list[dict[str, Any]]:
    """People of six trades, two of them walking, a couple, coloured shapes, clocks, a thing, and what is left out."""
    people = [
        entry(f"{who}{role}", f"{who.lower()}{role.lower()}", "person-role", TONES)
        for role in ROLES
        for who in ("MAN ", "WOMAN ", "")
    ]
    strides = [
        entry(f"{who} STRIDING{way}", f"{who}-striding{way}".lower(), "person-activity", TONES)
        for who in ("MAN", "WOMAN")
        for way in ("", " FACING RIGHT")
    ]
    both = tuple(f"{one}-{other}" for one in TONES for other in TONES)
    shapes = [
        entry(f"{colour} {shape}", f"{colour}_{shape}".lower(), "geometric")
        for colour in COLOURS
        for shape in ("CIRCLE", "HEART", "SQUARE")
    ]
    clocks = [
        entry(f"CLOCK FACE {hour}{end}", f"clock {hour}{end}".lower(), "time")
        for hour in HOURS
        for end in (" OCLOCK", "-THIRTY")
    ]
    return [
        *people,
        *strides,
        entry("KISS: WOMAN, MAN", "woman-kiss-man", "family", both),
        *shapes,
        *clocks,
        entry("BLACK TEAPOT WITH LID", "teapot", "dishware"),
        entry("LEFT-HANDED MUG", "mug", "dishware"),
        entry("OLD MUG", "old mug", "dishware", obsoleted_by="mug"),
        entry("SPARE SKIN", "spare", "skin-tone"),
        entry("TWIN ONE-OFF", "twin", "dishware"),
        entry("OTHER TWIN", "other twin", "dishware"),
    ]


def write_package(home: Path, style: str, without: tuple[str, ...] = ()) -> Path:
    """An unpacked package below `home`, without some of its images. Two images of it have the same bytes."""
    package = home / f"emoji-datasource-{style}"
    images = package / "img" / style / "64"
    images.mkdir(parents=True)
    (package / "emoji.json").write_text(json.dumps(entries()), encoding="utf-8")
    for fields in entries():
        for image in [fields["image"], *(drawn["image"] for drawn in fields.get("skin_variations", {}).values())]:
            if image not in without:
                same = "twin.png" if image == "other-twin.png" else image
                pixels = generator("emoji", style, same).integers(0, 255, (8, 8, 4), dtype=np.uint8)
                Image.fromarray(pixels, "RGBA").save(images / image)
    return package


def pack(package: Path, target: Path) -> Path:
    """The package as `npm pack` writes it."""
    with tarfile.open(target, "w:gz") as archive:
        for file in sorted(path for path in package.rglob("*") if path.is_file()):
            archive.add(file, f"package/{file.relative_to(package)}")
    return target
