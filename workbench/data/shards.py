"""WebDataset tars as img2dataset writes them (CC3M, SBU, CC12M): `KEY.jpg`, `KEY.txt`, `KEY.json` one after another.

Nothing is extracted: an image is the bytes at its place in the tar. Texts are read in passing, from the same open file.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from workbench.data.archives import BUFFER, DAMAGES, Packed, stem, unpacked
from workbench.data.images import SUFFIXES
from workbench.data.reading import Place, Reading, is_leftover
from workbench.data.sources.downloads import facts_of, failed, reason

TEXTS = (".txt", ".json")


@dataclass
class Sample:
    """The members that share a key, by their suffix."""

    key: str
    images: dict[str, Place] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def read_tars(tars: Sequence[Path], home: Path) -> Reading:
    """Returns the images of all tars, in their order, named after the tars' paths below `home`.

    Of a tar that is cut short, the complete members are read. A .parquet next to a tar lists failed downloads.
    """
    reading = Reading("webdataset")
    for tar in tars:
        name = (tar.parent / stem(tar)).relative_to(home)
        keys = set()
        for sample in _samples(tar, str(tar.relative_to(home)), reading):
            keys.add(sample.key)
            _add(reading, f"{name}/{sample.key}", sample)
        lost = failed(tar.with_name(f"{stem(tar)}.parquet"))
        reading.broken += [(f"{name}/{key}", why) for key, why in lost if key not in keys]
    return reading


def _add(reading: Reading, id: str, sample: Sample) -> None:
    facts = facts_of(sample.texts.get(".json"))
    if not sample.images:
        reading.broken.append((id, reason(facts)))
        return
    text = sample.texts.get(".txt")
    caption = facts.get("caption") if text is None else text.decode("utf-8", "replace")
    reading.add(id, [caption], "train", next(iter(sample.images.values())))


def _samples(tar: Path, label: str, reading: Reading) -> Iterator[Sample]:
    """Yields each run of members with the same key; unusable members are added to `reading.broken`."""
    sample: Sample | None = None
    try:
        with (
            open(tar, "rb", buffering=BUFFER) as file,
            unpacked(file) as stream,
            tarfile.open(fileobj=stream, mode="r:") as members,
        ):
            place = Place if stream is file else Packed
            size = tar.stat().st_size if stream is file else None
            for member in members:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    reading.broken.append((f"{label}: {member.name}", "its name points outside of the archive"))
                    continue
                if not member.isfile() or any(map(is_leftover, name.parts)):
                    continue
                suffix = name.suffix.lower()
                text = _text(stream, member) if suffix in TEXTS else b""
                if _is_cut(stream, member, size):
                    reading.broken.append((f"{label}: {member.name}", "the archive is cut short within it"))
                    break
                key = str(name.with_suffix(""))
                if sample is not None and key != sample.key:
                    yield sample
                    sample = None
                sample = sample or Sample(key)
                if suffix in TEXTS:
                    sample.texts[suffix] = text
                elif suffix in SUFFIXES:
                    sample.images[suffix] = place(tar, member.offset_data, member.size)
    except DAMAGES as error:
        reading.broken.append((label, f"the rest of the archive cannot be read ({error})"))
    if sample is not None:
        yield sample


def _text(stream: IO[bytes], member: tarfile.TarInfo) -> bytes:
    stream.seek(member.offset_data)
    return stream.read(member.size)


def _is_cut(stream: IO[bytes], member: tarfile.TarInfo, size: int | None) -> bool:
    """Whether the archive ends within a member; `size` is None if its length is known only after decompression."""
    end = member.offset_data + member.size
    return end > size if size is not None else stream.seek(end) < end
