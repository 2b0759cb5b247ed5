"""Webdataset tars as img2dataset writes them (CC3M, SBU, CC12M): `KEY.jpg`, `KEY.txt`, `KEY.json` one after the other.

Nothing is extracted: a picture is the bytes at its place in the tar.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from workbench.data.pictures import SUFFIXES
from workbench.data.reading import Place, Reading, is_leftover


def read_tars(tars: list[Path]) -> Reading:
    """The pictures of all tars, in their order. A tar that is cut short gives what is whole in it."""
    reading = Reading("webdataset")
    for tar in tars:
        for key, members in _samples(tar, reading):
            id = f"{tar.stem}/{key}"
            pictures = [place for suffix, place in members.items() if suffix in SUFFIXES]
            facts = _facts(members.get(".json"))
            if not pictures:
                status = facts.get("error_message") or facts.get("status") or "no picture beside its caption"
                reading.broken.append((id, f"it has no picture ({status})"))
                continue
            text = members[".txt"].read().decode("utf-8", "replace") if ".txt" in members else facts.get("caption")
            reading.add(id, [text], "train", pictures[0])
    return reading


def _samples(tar: Path, reading: Reading) -> Iterator[tuple[str, dict[str, Place]]]:
    """(key, suffix -> place) of each run of members with one key; what cannot be used goes to `reading.broken`."""
    key = ""
    members: dict[str, Place] = {}
    size = tar.stat().st_size
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in opened:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts:
                    reading.broken.append((f"{tar.name}: {member.name}", "its name leads out of the archive"))
                    continue
                if not member.isfile() or any(map(is_leftover, name.parts)):
                    continue
                if member.offset_data + member.size > size:
                    reading.broken.append((f"{tar.name}: {member.name}", "the archive is cut short within it"))
                    break
                stem = str(name.with_suffix(""))
                if stem != key and members:
                    yield key, members
                    members = {}
                key = stem
                members[name.suffix.lower()] = Place(tar, member.offset_data, member.size)
    except (tarfile.TarError, OSError, EOFError) as error:
        reading.broken.append((tar.name, f"the archive cannot be read on ({error})"))
    if members:
        yield key, members


def _facts(place: Place | None) -> dict[str, str]:
    """img2dataset's record of a download, empty where it is missing or broken."""
    if place is None:
        return {}
    try:
        loaded = json.loads(place.read())
    except ValueError:
        return {}
    return loaded if isinstance(loaded, dict) else {}
