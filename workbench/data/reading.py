"""What a reader of published captions gives: images, each by the place of its bytes, with their captions; and what
it left out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workbench.data.images import Box, Fit, decode
from workbench.errors import UserError
from workbench.files import decoded

Regions = Literal["whole", "crop"]  # of Visual Genome: captions of the whole image, or of parts that are cut out
SPLITS = {"train": "train", "restval": "train", "val": "val", "validation": "val", "test": "test"}
LEFTOVERS = ("._", "__MACOSX")  # how the names begin of what macOS leaves beside files and in archives


class UnknownForm(UserError):
    """A file that is whole, but holds no captions of a known form."""


@dataclass(frozen=True)
class Place:
    """An image's bytes: a file, or `size` bytes of it from `offset` on (a member of a tar)."""

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
    """An image with its captions; `box` where they are about that part alone. `foils`: (kind, text) of captions that
    are known to be false of it, made from its first caption."""

    id: str
    captions: tuple[str, ...]
    split: str
    place: Place
    box: Box | None = None
    foils: tuple[tuple[str, str], ...] = ()


@dataclass
class Reading:
    """What a source holds. `broken`: (what, why it is left out); `repeated`: captions that an image had already."""

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
        """Takes an image with its captions, white space made single, empty and repeated ones left out; `foils`: kind
        -> a caption that is known to be false of it."""
        texts = [" ".join(_whole(text).split()) for text in captions if isinstance(text, str)]
        told = [text for text in texts if text]
        kept = tuple(dict.fromkeys(told))
        if _whole(f"{id}{place.path}") != f"{id}{place.path}":
            self.broken.append((_whole(id), "its name is no UTF-8 text; rename it"))
        elif kept:
            self.found.append(Found(id, kept, split, place, box, tuple((foils or {}).items())))
            self.repeated += len(told) - len(kept)
        else:
            self.broken.append((id, "it has no caption"))

    def without_repeats(self) -> "Reading":
        """The first image of each id, the others listed as broken."""
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
    """A file or folder that macOS leaves behind, which has an image's name and no image's content."""
    return name.startswith(LEFTOVERS)


def text_of(file: Path) -> str:
    """The text of a file. Raises UserError where it cannot be read or is no text."""
    try:
        return decoded(file.read_bytes(), file)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}).") from error


def cut_off(file: Path, line: int, why: str) -> UserError:
    return UserError(f"{file}:{line}: the file ends in the middle of an entry ({why}); get it again, it is cut off.")


def _whole(text: str) -> str:
    """Halves of characters, which no file can hold, replaced."""
    return text.encode("utf-8", "replace").decode("utf-8")
