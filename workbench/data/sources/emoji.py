"""The npm packages `emoji-datasource-google`, `-twitter`, `-facebook`, as `npm pack` or `npm install` stores them:
emoji in the styles of several vendors, with Unicode's names in emoji.json."""

import hashlib
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.data.archives import BUFFER, DAMAGES, Packed, is_tar, unpacked
from workbench.data.reading import Place, Reading
from workbench.data.sources.emoji_captions import CaptionedEmoji, Corpus, tell
from workbench.errors import UserError, first_line

NAME = "emoji-datasource"
FACTS = "emoji.json"
IMAGE = re.compile(r"img/(?P<style>[\w-]+)/64/(?P<file>[^/]+\.png)")


@dataclass(frozen=True)
class Package:
    """A package of one style. `images`: file name -> its place and the digest of its bytes."""

    path: Path
    entries: list[dict[str, Any]]
    style: str = ""
    images: dict[str, tuple[Place, str]] = field(default_factory=dict)


def emoji_packages(path: Path) -> list[Path]:
    """The packages at a path: a package, its emoji.json, or a folder of packages; empty if there is something else."""
    if path.name == FACTS:
        path = path.parent
    if _is_package(path):
        return [path]
    return sorted(filter(_is_package, path.glob(f"{NAME}*"))) if path.is_dir() else []


def _is_package(path: Path) -> bool:
    if path.is_dir():
        return (path / FACTS).is_file() and (path / "img").is_dir()
    return path.name.startswith(NAME) and is_tar(path)


def read_emoji(paths: Sequence[Path]) -> Reading:
    """Reads each image with one caption, its foils and its split; a caption is in the same split in every style.

    Images that another emoji has replaced are left out. So are images that a style uses for several captions, since
    they cannot show how these captions differ. Raises UserError if a package is damaged.
    """
    reading = Reading("emoji")
    packages = [_package(path) for path in paths]
    described = [list(_described(package)) for package in packages]
    corpus = Corpus(emoji.caption for of_package in described for emoji in of_package if emoji.caption is not None)
    for package, of_package in zip(packages, described, strict=True):
        by_image = {emoji.image: emoji for emoji in of_package if emoji.image in package.images}
        uses = Counter(package.images[emoji.image][1] for emoji in by_image.values() if emoji.caption is not None)
        for image, emoji in by_image.items():
            id, (place, digest) = f"{package.style}/{image}", package.images[image]
            if emoji.caption is None:
                reading.broken.append((id, emoji.why))
            elif uses[digest] > 1:
                reading.broken.append((id, "the same image stands for several captions"))
            else:
                foils = corpus.foils(emoji.caption)
                reading.add(id, [str(emoji.caption)], corpus.split_of[str(emoji.caption)], place, foils=foils)
    return reading


def _described(package: Package) -> Iterator[CaptionedEmoji]:
    try:
        yield from tell(package.entries)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{package.path}: an entry of {FACTS} is not as published ({first_line(error)} is missing or wrong)."
        ) from error


def _package(path: Path) -> Package:
    try:
        facts, files = _folder(path) if path.is_dir() else _tar(path)
    except DAMAGES as error:
        raise UserError(
            f"{path}: it cannot be read to its end ({first_line(error)}); download the package again."
        ) from error
    try:
        entries = json.loads(facts)
    except ValueError as error:
        raise UserError(f"{path}: its {FACTS} is not readable as JSON ({first_line(error)}).") from error
    styles = sorted({style for style, _ in files})
    if len(styles) != 1:
        raise UserError(
            f"{path}: it has the images of {' and '.join(styles) or 'no style'} in img/STYLE/64; use a package of one "
            f"style, such as {NAME}-google."
        )
    return Package(path, entries, styles[0], {file: place for (_, file), place in files.items()})


Files = dict[tuple[str, str], tuple[Place, str]]  # style and file -> its place and digest


def _folder(path: Path) -> tuple[bytes, Files]:
    files = {}
    for image in sorted(path.glob("img/*/64/*.png")):
        if match := IMAGE.fullmatch(image.relative_to(path).as_posix()):
            files[match["style"], match["file"]] = Place(image), _digest(image.read_bytes())
    return (path / FACTS).read_bytes(), files


def _tar(path: Path) -> tuple[bytes, Files]:
    """The content of a tar. Nothing is extracted: an image is the bytes at its place in the tar."""
    facts, files = b"", {}
    with (
        open(path, "rb", buffering=BUFFER) as file,
        unpacked(file) as stream,
        tarfile.open(fileobj=stream, mode="r:") as members,
    ):
        kind = Place if stream is file else Packed
        for member in members:
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:]).as_posix()  # without `package/`
            match = IMAGE.fullmatch(inside)
            if not member.isfile() or (match is None and inside != FACTS):
                continue
            stream.seek(member.offset_data)
            content = stream.read(member.size)
            if match is None:
                facts = content
            else:
                place = kind(path, member.offset_data, member.size)
                files[match["style"], match["file"]] = place, _digest(content)
    return facts, files


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
