"""A small folder of captioned images, read as it is whenever a sweep starts: one caption per image."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workbench.data.images import BrokenImage, decode
from workbench.data.sources.detect import read_source
from workbench.errors import UserError

NAMED = 10  # at most this many broken images are named in a message


@dataclass(frozen=True)
class CaptionedFile:
    image: Path
    caption: str


def find_pairs(folder: Path, exclude: str | None = None) -> list[CaptionedFile]:
    """Every captioned image below `folder`, sorted by path.

    Raises UserError if there is no such folder or no captioned image, or a caption file cannot be read.
    """
    images = read_source(folder, option="`data.path`").found
    if any(image.place.size for image in images):
        raise UserError(f"`data.path`: {folder} holds archives; `wb data prepare` makes them ready for `data.mix`.")
    pairs = [CaptionedFile(image.place.path, image.captions[0]) for image in images]
    if exclude:
        try:
            pattern = re.compile(exclude)
        except re.error as error:
            raise UserError(f"`data.exclude`: `{exclude}` is not a regular expression ({error}).") from error
        home = folder if folder.is_dir() else folder.parent
        # A table may name images outside of the folder.
        pairs = [pair for pair in pairs if not pattern.search(os.path.relpath(pair.image, home))]
        if not pairs:
            raise UserError(f"`data.exclude`: `{exclude}` leaves no image of {folder}.")
    return sorted(pairs, key=lambda pair: pair.image)


def read_images(images: Iterable[Path], into: np.ndarray) -> dict[int, str]:
    """Writes the images one after another into uint8 [N, 3, side, side]: whole, centred on white, rotated as their EXIF
    says. Missing or broken images are left out. Returns the reason for each of these, by its place in `images`."""
    broken: dict[int, str] = {}
    for place, path in enumerate(images):
        try:
            into[place - len(broken)] = decode(path, into.shape[-1])
        except BrokenImage as error:
            broken[place] = f"{path}: {error}"
    return broken


def listed(broken: Sequence[str]) -> str:
    """The first broken images in words, and the number of the others."""
    more = f"; and {len(broken) - NAMED:,} more" if len(broken) > NAMED else ""
    return f"{'; '.join(broken[:NAMED])}{more}"
