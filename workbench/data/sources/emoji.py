"""The npm packages `emoji-datasource-google`, `-twitter`, `-facebook`, as `npm pack` or `npm install` leaves them:
emoji drawn by several hands, with Unicode's names in emoji.json."""

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
from workbench.data.sources.emoji_captions import Corpus, Told, tell
from workbench.errors import UserError, first_line

NAME = "emoji-datasource"
FACTS = "emoji.json"
IMAGE = re.compile(r"img/(?P<style>[\w-]+)/64/(?P<file>[^/]+\.png)")


@dataclass(frozen=True)
class Package:
    """`images`: file name -> its place and the digest of its bytes."""

    path: Path
    entries: list[dict[str, Any]]
    style: str = ""
    images: dict[str, tuple[Place, str]] = field(default_factory=dict)


def emoji_packages(path: Path) -> list[Path]:
    """The packages at a path: a package, its emoji.json, or a folder that holds some; none where there is something
    else."""
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
    """Each image with one caption, its foils and a split of its own; a caption is in the same split in every style.

    Left out are images that another emoji has replaced, and those that a style draws alike for several captions, which
    cannot show what tells the captions apart. Raises UserError where a package is damaged.
    """
    reading = Reading("emoji")
    packages = [_package(path) for path in paths]
    told = [list(_told(package)) for package in packages]
    corpus = Corpus(each.caption for one in told for each in one if each.caption is not None)
    for package, images in zip(packages, told, strict=True):
        shown = {each.image: each for each in images if each.image in package.images}
        drawn = Counter(package.images[each.image][1] for each in shown.values() if each.caption is not None)
        for image, each in shown.items():
            id, (place, digest) = f"{package.style}/{image}", package.images[image]
            if each.caption is None:
                reading.broken.append((id, each.why))
            elif drawn[digest] > 1:
                reading.broken.append((id, "the same image stands for several captions"))
            else:
                foils = corpus.foils(each.caption)
                reading.add(id, [str(each.caption)], corpus.split_of[str(each.caption)], place, foils=foils)
    return reading


def _told(package: Package) -> Iterator[Told]:
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
            f"{path}: it cannot be read to its end ({first_line(error)}); get the package again."
        ) from error
    try:
        entries = json.loads(facts)
    except ValueError as error:
        raise UserError(f"{path}: its {FACTS} is not readable as JSON ({first_line(error)}).") from error
    styles = sorted({style for style, _ in files})
    if len(styles) != 1:
        raise UserError(
            f"{path}: it has the images of {' and '.join(styles) or 'no style'} in img/STYLE/64; give a package of one "
            f"style, such as {NAME}-google."
        )
    return Package(path, entries, styles[0], {file: place for (_, file), place in files.items()})


Files = dict[tuple[str, str], tuple[Place, str]]  # style and file -> its place and digest


def _folder(path: Path) -> tuple[bytes, Files]:
    files = {}
    for image in sorted(path.glob("img/*/64/*.png")):
        if found := IMAGE.fullmatch(image.relative_to(path).as_posix()):
            files[found["style"], found["file"]] = Place(image), _digest(image.read_bytes())
    return (path / FACTS).read_bytes(), files


def _tar(path: Path) -> tuple[bytes, Files]:
    """Nothing is extracted: an image is the bytes at its place in the tar."""
    facts, files = b"", {}
    with (
        open(path, "rb", buffering=BUFFER) as file,
        unpacked(file) as stream,
        tarfile.open(fileobj=stream, mode="r:") as members,
    ):
        kind = Place if stream is file else Packed
        for member in members:
            inside = PurePosixPath(*PurePosixPath(member.name).parts[1:]).as_posix()  # without `package/`
            found = IMAGE.fullmatch(inside)
            if not member.isfile() or (found is None and inside != FACTS):
                continue
            stream.seek(member.offset_data)
            content = stream.read(member.size)
            if found is None:
                facts = content
            else:
                place = kind(path, member.offset_data, member.size)
                files[found["style"], found["file"]] = place, _digest(content)
    return facts, files


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
