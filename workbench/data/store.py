"""Prepared images: memory-mapped shards of uint8 [n, 3, side, side] or of JPEGs, with an index of their captions.

NAME/prepared.json          form, side, fit, counts, and each shard's file, rows and checksum
NAME/pairs.parquet          id, place in the shards, split, captions (list) of each image; foils (struct: kind ->
text)
                            where the source tells what is false of one
NAME/broken.parquet         what was left out, and why
NAME/images-00000.npy     ..., or images-00000.jpegs
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import polars as pl

from workbench.data.images import BrokenImage
from workbench.data.jpeg import JpegShard, decode_all
from workbench.data.reading import Place
from workbench.errors import UserError

if TYPE_CHECKING:
    import torch

Stored = Literal["raw", "jpeg", "in place"]  # how a store keeps its images
FACTS = "prepared.json"
MOST_OPEN = 500  # files that are mapped at once, of the 1,024 that a process may usually have open


@dataclass(frozen=True)
class Store:
    """A prepared corpus as it lies in its folder."""

    home: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.home.name

    @property
    def side(self) -> int:
        return int(self.facts["side"])

    @property
    def stored(self) -> Stored:
        """Raw where a store was prepared before there was a choice."""
        return "in place" if self.facts["in_place"] else "jpeg" if self.facts.get("store") == "jpeg" else "raw"

    @property
    def how(self) -> str:
        """The same in words."""
        return f"JPEG of quality {self.facts['quality']}" if self.stored == "jpeg" else self.stored

    @cached_property
    def pairs(self) -> pl.DataFrame:
        return pl.read_parquet(self.home / "pairs.parquet", glob=False)

    @cached_property
    def foils(self) -> pl.DataFrame:
        """A row an image, and a nullable column for each kind of foil that the source brings."""
        if "foils" not in self.pairs.columns:
            return pl.DataFrame(height=len(self.pairs))
        return self.pairs["foils"].struct.unnest()

    @cached_property
    def broken(self) -> pl.DataFrame:
        return pl.read_parquet(self.home / "broken.parquet", glob=False)

    @property
    def fingerprint(self) -> str:
        """Names the content: the checksums of all shards and of the captions."""
        return str(self.facts["checksum"])

    def damaged(self) -> list[str]:
        """The files whose bytes are no longer those that were written; reads all of them."""
        wrong = [
            shard["file"] for shard in self.facts["shards"] if checksum(self.home / shard["file"]) != shard["checksum"]
        ]
        return wrong + ([] if checksum(self.home / "pairs.parquet") == self.facts["captions"] else ["pairs.parquet"])


def open_store(home: Path) -> Store:
    """Raises UserError where nothing is prepared there, or a shard is missing or cut short."""
    try:
        facts = json.loads((home / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{home}: nothing is prepared there; run `wb data prepare {home.name} --from PATH`.") from error
    except ValueError as error:
        raise UserError(f"{home / FACTS}: damaged; remove the folder and prepare it again.") from error
    for shard in facts["shards"]:
        file = home / shard["file"]
        if not file.is_file() or file.stat().st_size != shard["bytes"]:
            raise UserError(f"{file}: missing or cut short; remove the folder {home} and prepare it again.")
    return Store(home, facts)


def checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def write_parts(file: Path, parts: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Writes the parts one after another; gives the file's `bytes` and `checksum`, as `checksum` would. Where there is
    no room for all of them, the room of the others is given back."""
    digest, size = hashlib.blake2b(digest_size=16), 0
    try:
        with open(file, "wb") as out:
            for part in parts:
                out.write(part)
                digest.update(part)
                size += len(part)
            out.flush()
            os.fsync(out.fileno())  # before it is said to be whole
    except OSError as error:
        error.filename = error.filename or str(file)
        file.unlink(missing_ok=True)
        raise
    return {"bytes": size, "checksum": digest.hexdigest()}


class Mapped:
    """The memory-mapped images of a store; a file stays open until too many others are."""

    def __init__(self, store: Store) -> None:
        self.home, self.side = store.home, store.side
        self.files = [store.home / shard["file"] for shard in store.facts["shards"]]
        self.starts = np.cumsum([0, *(shard["rows"] for shard in store.facts["shards"])])
        self.places = store.pairs["place"].to_numpy()
        self._open: OrderedDict[int, Any] = OrderedDict()

    def read(self, row: int) -> np.ndarray:
        """uint8 [3, side, side] of a row of the index."""
        shard, place = self._find(row)
        pixels: np.ndarray = shard[place]
        return pixels

    def _find(self, row: int) -> tuple[Any, int]:
        """The shard that holds a row of the index, and the row's place in it."""
        place = self.places[row]
        number = int(np.searchsorted(self.starts, place, side="right")) - 1
        if number not in self._open:
            if len(self._open) == MOST_OPEN:
                self._open.popitem(last=False)
            self._open[number] = self._map(number)
        self._open.move_to_end(number)
        return self._open[number], int(place - self.starts[number])

    def _map(self, number: int) -> Any:
        return np.load(self.files[number], mmap_mode="r")

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}  # a loader's process maps the files itself


class Encoded(Mapped):
    """The images of a store that keeps JPEGs: decoded whenever they are read."""

    def _map(self, number: int) -> JpegShard:
        return JpegShard(self.files[number], int(self.starts[number + 1] - self.starts[number]), self.side)

    def blob(self, row: int) -> bytes:
        """The JPEG of a row of the index."""
        shard, place = self._find(row)
        blob: bytes = shard.blob(place)
        return blob


class InPlace:
    """The images of a store where they are: decoded whenever they are read."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.where = store.pairs.select("path", "offset", "size", "box")

    def read(self, row: int) -> np.ndarray:
        """As `Mapped.read`; raises UserError where the image is no longer what it was."""
        path, offset, size, box = self.where.row(row)
        place = Place(Path(path), offset, size)
        try:
            return place.image(self.store.side, self.store.facts["fit"], tuple(box) if box else None)
        except (BrokenImage, OSError) as error:
            raise UserError(f"{path}: {error}, though it could be when {self.store.name} was prepared.") from error


READERS: Final[dict[Stored, type[Mapped] | type[InPlace]]] = {"raw": Mapped, "jpeg": Encoded, "in place": InPlace}


class Images:
    """Chosen images of several stores, read like an array: `images[rows]` is uint8 [n, 3, side, side].

    `rows[k]` are rows of the index of store k, in the order in which they follow each other here; the stores have one
    side, from which the images are resized where another is asked for.
    """

    def __init__(self, stores: Sequence[Store], rows: Sequence[np.ndarray], side: int) -> None:
        self.readers = [READERS[store.stored](store) for store in stores]
        self.reader_of = np.repeat(np.arange(len(stores)), [len(chosen) for chosen in rows])
        self.row_of = np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64)
        self.stored, self.side = stores[0].side, side

    def __len__(self) -> int:
        return len(self.row_of)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self), 3, self.side, self.side

    def __getitem__(self, index: Any) -> np.ndarray:
        readers, rows = np.atleast_1d(self.reader_of[index]), np.atleast_1d(self.row_of[index])
        made = np.empty((len(rows), 3, self.stored, self.stored), np.uint8)
        # In the order in which they lie on the disk.
        for place in np.lexsort((rows, readers)):
            made[place] = self.readers[readers[place]].read(int(rows[place]))
        if self.side != self.stored:
            # Only here, since a process that prepares images has no need of torch.
            import torch

            from workbench.data.augment import resize

            made = resize(torch.from_numpy(made), self.side).numpy()
        return made if np.ndim(self.row_of[index]) else made[0]

    def on(self, rows: np.ndarray, device: "torch.device") -> "torch.Tensor":
        """uint8 [n, 3, side, side] on a device. A GPU itself decodes rows (int64 [n]) that are all stored as JPEG.

        Raises UserError as reading does.
        """
        import torch

        from workbench.data.augment import resize

        readers = [self.readers[number] for number in self.reader_of[rows]]
        encoded = [reader for reader in readers if isinstance(reader, Encoded)]
        if device.type != "cuda" or not readers or len(encoded) < len(readers):
            return torch.from_numpy(self[rows]).to(device)
        blobs = [reader.blob(int(row)) for reader, row in zip(encoded, self.row_of[rows], strict=True)]
        try:
            return resize(decode_all(blobs, self.stored, device), self.side)
        except ValueError as error:
            files = ", ".join(sorted({str(reader.home) for reader in encoded}))
            raise UserError(
                f"{files}: an image is damaged ({error}); `wb data list --verify` says in which file."
            ) from error
