"""What a reader of published captions returns: images, each as the place of its bytes, with captions; and what was left
out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.data.images import Box, Fit, decode
from workbench.errors import UserError
from workbench.files import decoded

Regions = Literal["whole", "crop"]  # of Visual Genome: captions of the whole image, or of cropped parts
SPLITS = {"train": "train", "restval": "train", "val": "val", "validation": "val", "test": "test"}
LEFTOVERS = ("._", "__MACOSX")  # prefixes of the names of files that macOS adds to folders and archives


class UnknownForm(UserError):
    """An intact file that holds no captions of a known form."""


@dataclass(frozen=True)
class Place:
    """Where an image's bytes are: a file, or `size` bytes of it from `offset` on (a member of a tar)."""

    path: Path
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(-1 if self.size is None else self.size)

    def image(self, side: int, fit: Fit, box: Box | None) -> np.ndarray:
        """uint8 [3, side, side]; raises BrokenImage."""
        return decode(self.path if self.size is None else self.read(), side, fit, box)


@dataclass(frozen=True)
class Found:
    """An image with its captions. `box`: the part of the image that they describe, if not all of it. `foils`: (kind,
    text) of captions that are known to be false of it, made from its first caption."""

    id: str
    captions: tuple[str, ...]
    split: str
    place: Place
    box: Box | None = None
    foils: tuple[tuple[str, str], ...] = ()


@dataclass
class Reading:
    """The content of a source. `broken`: (what, why it is left out); `repeated`: number of repeated captions."""

    form: str
    found: list[Found] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    repeated: int = 0

    def add(
        self,
        id: str,
        captions: Iterable[Any],
        split: str,
        place: Place,
        box: Box | None = None,
        foils: Mapping[str, str] | None = None,
    ) -> None:
        """Adds an image with its captions. White space is normalised; empty and repeated ones are left out. `foils`:
        kind -> a caption that is known to be false of the image."""
        texts = [" ".join(_whole(text).split()) for text in captions if isinstance(text, str)]
        nonempty = [text for text in texts if text]
        kept = tuple(dict.fromkeys(nonempty))
        if _whole(f"{id}{place.path}") != f"{id}{place.path}":
            self.broken.append((_whole(id), "its name is not UTF-8 text; rename it"))
        elif kept:
            self.found.append(Found(id, kept, split, place, box, tuple((foils or {}).items())))
            self.repeated += len(nonempty) - len(kept)
        else:
            self.broken.append((id, "it has no caption"))

    def without_repeats(self) -> "Reading":
        """A reading with the first image of each id; the others are listed as broken."""
        seen: set[str] = set()
        first = Reading(self.form, broken=list(self.broken), repeated=self.repeated)
        for image in self.found:
            if image.id in seen:
                first.broken.append((image.id, "its id occurs twice; the first one is kept"))
            else:
                seen.add(image.id)
                first.found.append(image)
        return first


def is_leftover(name: str) -> bool:
    """Whether a file or folder is one that macOS leaves behind, named like an image but without its content."""
    return name.startswith(LEFTOVERS)


def text_of(file: Path) -> str:
    """The text of a file. Raises UserError if it cannot be read or is not text."""
    try:
        return decoded(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from error


def cut_off(file: Path, line: int, why: str) -> UserError:
    return UserError(f"{file}:{line}: the file ends in the middle of an entry ({why}); it is cut off, get it again.")


def _whole(text: str) -> str:
    """The text with lone surrogates replaced, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
