"""`wb data prepare`: every image is decoded and resized once, in parallel, into shards that are read memory-mapped.

After a stop at any point, the same command continues: finished shards are kept.
"""

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from workbench.data import jpeg
from workbench.data.archives import Archives, Packed
from workbench.data.cache import alone, new_array
from workbench.data.images import BrokenImage, Fit, decode
from workbench.data.parallel import in_processes
from workbench.data.reading import Found, Reading
from workbench.data.store import FACTS, Store, Stored, checksum, open_store, write_parts
from workbench.errors import UserError
from workbench.randomness import key

VERSION = 1  # increase it whenever a change alters the pixels
SHARD = 256  # at least this many images per shard, ...
SHARDS = 400  # ... and at most this many shards per corpus, since each is an open file
QUALITY = 95  # of stored JPEGs
ARCHIVES = Archives()  # of this process: a shard continues in the tar in which the previous one ended


@dataclass(frozen=True)
class Shard:
    """A unit of work: images that become one file."""

    number: int
    found: list[Found]
    home: Path
    side: int
    fit: Fit
    stored: Stored
    quality: int = QUALITY

    @property
    def file(self) -> Path:
        suffix = ".jpegs" if self.stored == "jpeg" else ".npy"
        return self.home / f"pictures-{self.number:05d}{suffix}"

    @property
    def facts(self) -> Path:
        return self.file.with_suffix(".json")


def prepare_source(
    reading: Reading,
    home: Path,
    side: int,
    fit: Fit,
    workers: int,
    progress: Callable[[int, int], None],
    in_place: bool = False,
    stored: Literal["raw", "jpeg"] = "raw",
    quality: int = QUALITY,
) -> Store:
    """Writes the images and captions of `reading` to the folder `home`; `progress(done, total)` reports their count.

    `stored`: as pixels, or as JPEGs of the stored side and this `quality` (1 to 100). `in_place`: neither; every image
    is checked, but stays where it is and is decoded whenever it is read. An image that cannot be read is left out and
    listed with the reason. Raises UserError if `home` holds something else, the disk is too small, a compressed archive
    is to be read in place, or no image can be read.
    """
    packed = next((image.place for image in reading.found if isinstance(image.place, Packed)), None)
    if in_place and packed is not None:
        raise UserError(
            f"{packed.path}: single images of a compressed archive cannot be read; unpack it, or omit --in-place."
        )
    as_jpeg = stored == "jpeg" and not in_place
    how = ("jpeg", str(quality)) if as_jpeg else ()  # raw pixels keep their former key
    fingerprint = f"{key('prepared', VERSION, side, fit, str(in_place), *how, *_content(reading)):016x}"
    if (finished := _finished(home, fingerprint)) is not None:
        return finished
    with alone(home):
        if (finished := _finished(home, fingerprint)) is not None:  # by another process, just now
            return finished
        facts = {"fingerprint": fingerprint, "form": reading.form, "side": side, "fit": fit, "in_place": in_place}
        facts |= {"store": "jpeg", "quality": quality} if as_jpeg else {}
        return _prepared(reading, home, Store(home, facts), workers, progress)


def _finished(home: Path, fingerprint: str) -> Store | None:
    """The corpus, if it is already there. Raises UserError if the folder holds another one."""
    if not (home / FACTS).exists():
        return None
    store = open_store(home)
    if store.facts["fingerprint"] == fingerprint:
        return store
    raise UserError(
        f"{home}: already holds something else (from {store.facts['form']}, side {store.side}, {store.how}); take"
        " another name."
    )


def _prepared(
    reading: Reading, home: Path, planned: Store, workers: int, progress: Callable[[int, int], None]
) -> Store:
    """Does the work of `prepare_source` under its lock; `planned` has the facts that are known beforehand."""
    half = home.with_name(home.name + ".part")
    _begin(half, planned.facts["fingerprint"])
    size = max(SHARD, -(-len(reading.found) // SHARDS))
    how = (planned.side, planned.facts["fit"], planned.stored, planned.facts.get("quality", QUALITY))
    shards = [
        Shard(number, reading.found[start : start + size], half, *how)
        for number, start in enumerate(range(0, len(reading.found), size))
    ]
    todo = [shard for shard in shards if not shard.facts.exists()]
    images = sum(len(shard.found) for shard in todo)
    _refuse_small_disk(half, planned, images)
    done = len(reading.found) - images
    progress(done, len(reading.found))
    try:
        # A shard that is half written is never seen.
        for finished in in_processes(write_shard, todo, min(workers, len(todo))):
            done += finished
            progress(done, len(reading.found))
    finally:
        ARCHIVES.close()
    _finish(half, shards, reading, planned.facts)
    os.replace(half, home)
    return open_store(home)


def _refuse_small_disk(half: Path, planned: Store, images: int) -> None:
    free = shutil.disk_usage(half).free
    share = {"raw": 1.0, "jpeg": jpeg.SHARE, "in place": 0.0}[planned.stored]
    if (needed := share * images * 3 * planned.side**2) > free:
        others = "take --store jpeg, a smaller --side" if planned.stored == "raw" else "take a smaller --side"
        raise UserError(
            f"{planned.home}: {images:,} images of {planned.side} px need {needed / 1e9:,.1f} GB and "
            f"{free / 1e9:,.1f} GB are free; make room, {others}, or --in-place."
        )


def _content(reading: Reading) -> Iterator[str]:
    for image in reading.found:
        facts = f"{image.id}\x1f{image.split}\x1f{image.place}\x1f{image.box}\x1f{image.captions}"
        yield f"{facts}\x1f{image.foils}" if image.foils else facts


def _begin(half: Path, fingerprint: str) -> None:
    """Keeps the files of an earlier start of the same work, and removes those of any other."""
    mark = half / "fingerprint"
    if not mark.exists() or mark.read_text() != fingerprint:
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        mark.write_text(fingerprint)


def write_shard(shard: Shard) -> int:
    """Decodes a shard's images and writes its file, then its facts; returns their number. Broken images stay black."""
    broken: dict[int, tuple[str, str]] = {}
    images = _decoded_of(shard, broken)
    half, count = shard.file.with_suffix(".half"), len(shard.found)
    facts: dict[str, Any] = {"file": None, "rows": count}
    if shard.stored == "in place":
        deque(images, maxlen=0)
    elif shard.stored == "jpeg":
        encoded = ((place, jpeg.encode(decoded, shard.quality)) for place, decoded in images)
        facts |= write_parts(half, jpeg.shard_parts(count, encoded))
    else:
        pixels = new_array(half, (count, 3, shard.side, shard.side))
        for place, decoded in images:
            pixels[place] = decoded
        pixels.flush()
        facts |= {"bytes": half.stat().st_size, "checksum": checksum(half)}
    if shard.stored != "in place":
        facts |= {"file": shard.file.name}
        os.replace(half, shard.file)
    written = shard.facts.with_suffix(".half")
    kept = [place for place in range(count) if place not in broken]
    written.write_text(json.dumps(facts | {"kept": kept, "broken": [broken[place] for place in sorted(broken)]}))
    os.replace(written, shard.facts)
    return count


def _decoded_of(shard: Shard, broken: dict[int, tuple[str, str]]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the place and the pixels of each image of a shard; adds those that cannot be read to `broken`."""
    for place in _in_archive_order(shard.found):
        image = shard.found[place]
        try:
            pixels = _decoded(image, shard.side, shard.fit)
        except (BrokenImage, OSError) as error:
            broken[place] = (image.id, str(error))
        else:
            yield place, pixels


def _in_archive_order(found: Sequence[Found]) -> list[int]:
    """The images' places in the list, archive by archive, in the order of their offsets."""
    archives = {path: number for number, path in enumerate(dict.fromkeys(image.place.path for image in found))}
    return sorted(range(len(found)), key=lambda k: (archives[found[k].place.path], found[k].place.offset))


def _decoded(image: Found, side: int, fit: Fit) -> np.ndarray:
    """uint8 [3, side, side]; raises BrokenImage or OSError."""
    place = image.place
    return decode(place.path if place.size is None else ARCHIVES.read(place), side, fit, image.box)


def _finish(half: Path, shards: list[Shard], reading: Reading, facts: dict[str, Any]) -> None:
    """Writes the index of all shards, then removes the facts of single shards, which are no longer needed."""
    entries = [json.loads(shard.facts.read_text()) for shard in shards]
    starts = np.cumsum([0, *(entry["rows"] for entry in entries)])
    kept, places = [], []
    for shard, entry, start in zip(shards, entries, starts, strict=False):
        kept += [shard.found[place] for place in entry["kept"]]
        places += [int(start) + place for place in entry["kept"]]
    broken = [*reading.broken, *(tuple(pair) for entry in entries for pair in entry["broken"])]
    if not kept:
        what, why = broken[0]
        raise UserError(
            f"none of the {len(reading.found)} images can be read; {what}: {why}. Name their folder with --images."
        )
    frame = pl.DataFrame(
        {
            "id": [p.id for p in kept],
            "place": places,
            "split": [p.split for p in kept],
            "captions": [list(p.captions) for p in kept],
            "path": [str(p.place.path.resolve()) for p in kept],
            "offset": [p.place.offset for p in kept],
            "size": [p.place.size for p in kept],
            "box": [list(p.box) if p.box else None for p in kept],
        },
        schema_overrides={"size": pl.Int64, "box": pl.List(pl.Int64)},
    )
    if kinds := sorted({kind for image in kept for kind, _ in image.foils}):
        foils = pl.DataFrame([dict(p.foils) for p in kept], schema=dict.fromkeys(kinds, pl.String))
        frame = frame.with_columns(foils=foils.to_struct())
    frame.write_parquet(half / "pairs.parquet")
    pl.DataFrame(broken, schema={"what": pl.String, "why": pl.String}, orient="row").write_parquet(
        half / "broken.parquet"
    )
    captions = checksum(half / "pairs.parquet")
    listed = [
        {name: entry[name] for name in ("file", "rows", "bytes", "checksum")} for entry in entries if entry["file"]
    ]
    whole = f"{key('store', captions, *(entry['checksum'] for entry in listed)):016x}"
    counts = {"pictures": len(kept), "broken": len(broken), "repeated_captions": reading.repeated}
    text = json.dumps(facts | counts | {"captions": captions, "checksum": whole, "shards": listed}, indent=1)
    (half / FACTS).write_text(text, encoding="utf-8")
    for shard in shards:
        shard.facts.unlink()
    (half / "fingerprint").unlink()
