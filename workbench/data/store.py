"""Prepared images: memory-mapped shards of uint8 [n, 3, side, side] or of JPEGs, with an index of their captions.

NAME/prepared.json          form, side, fit, counts, and each shard's file, rows and checksum
NAME/pairs.parquet          id, place in the shards, split, captions (list) of each image; where the source provides
                            foils, these too (struct: kind -> text)
NAME/broken.parquet         what was left out, and why
NAME/pictures-00000.npy     ..., or pictures-00000.jpegs
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
MOST_OPEN = 500  # files mapped at once, of the 1,024 that a process may usually have open


@dataclass(frozen=True)
class Store:
    """A prepared corpus in its folder."""

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
        """How the images are kept; stores from before there was a choice are raw."""
        return "in place" if self.facts["in_place"] else "jpeg" if self.facts.get("store") == "jpeg" else "raw"

    @property
    def how(self) -> str:
        """`stored` in words."""
        return f"JPEG of quality {self.facts['quality']}" if self.stored == "jpeg" else self.stored

    @cached_property
    def pairs(self) -> pl.DataFrame:
        return pl.read_parquet(self.home / "pairs.parquet", glob=False)

    @cached_property
    def foils(self) -> pl.DataFrame:
        """One row per image, and one nullable column for each kind of foil that the source provides."""
        if "foils" not in self.pairs.columns:
            return pl.DataFrame(height=len(self.pairs))
        return self.pairs["foils"].struct.unnest()

    @cached_property
    def broken(self) -> pl.DataFrame:
        return pl.read_parquet(self.home / "broken.parquet", glob=False)

    @property
    def fingerprint(self) -> str:
        """Identifies the content: a checksum over all shards and the captions."""
        return str(self.facts["checksum"])

    def damaged(self) -> list[str]:
        """The files whose bytes have changed since they were written; reads all of them."""
        wrong = [
            shard["file"] for shard in self.facts["shards"] if checksum(self.home / shard["file"]) != shard["checksum"]
        ]
        return wrong + ([] if checksum(self.home / "pairs.parquet") == self.facts["captions"] else ["pairs.parquet"])


def open_store(home: Path) -> Store:
    """Opens the corpus in a folder. Raises UserError if there is none, or if a shard is missing or cut short."""
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
    """Writes the parts one after another; returns the file's `bytes` and `checksum` (that of the function). If the disk
    has no room for all of them, the file is removed."""
    digest, size = hashlib.blake2b(digest_size=16), 0
    try:
        with open(file, "wb") as out:
            for part in parts:
                out.write(part)
                digest.update(part)
                size += len(part)
            out.flush()
            os.fsync(out.fileno())  # before it is recorded as complete
    except OSError as error:
        error.filename = error.filename or str(file)
        file.unlink(missing_ok=True)
        raise
    return {"bytes": size, "checksum": digest.hexdigest()}


class Mapped:
    """The memory-mapped images of a store; a file stays open until too many others are open."""

    def __init__(self, store: Store) -> None:
        self.home, self.side = store.home, store.side
        self.files = [store.home / shard["file"] for shard in store.facts["shards"]]
        self.starts = np.cumsum([0, *(shard["rows"] for shard in store.facts["shards"])])
        self.places = store.pairs["place"].to_numpy()
        self._open: OrderedDict[int, Any] = OrderedDict()

    def read(self, row: int) -> np.ndarray:
        """uint8 [3, side, side]: the image of a row of the index."""
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
    """The images of a store of JPEGs, decoded whenever they are read."""

    def _map(self, number: int) -> JpegShard:
        return JpegShard(self.files[number], int(self.starts[number + 1] - self.starts[number]), self.side)

    def blob(self, row: int) -> bytes:
        """The JPEG of a row of the index."""
        shard, place = self._find(row)
        blob: bytes = shard.blob(place)
        return blob


class InPlace:
    """The images of a store that leaves them in place, decoded whenever they are read."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.where = store.pairs.select("path", "offset", "size", "box")

    def read(self, row: int) -> np.ndarray:
        """As `Mapped.read`; raises UserError if the image can no longer be read."""
        path, offset, size, box = self.where.row(row)
        place = Place(Path(path), offset, size)
        try:
            return place.image(self.store.side, self.store.facts["fit"], tuple(box) if box else None)
        except (BrokenImage, OSError) as error:
            raise UserError(f"{path}: {error}, though it could be read when {self.store.name} was prepared.") from error


READERS: Final[dict[Stored, type[Mapped] | type[InPlace]]] = {"raw": Mapped, "jpeg": Encoded, "in place": InPlace}


class Images:
    """Chosen images of several stores, read like an array: `images[rows]` is uint8 [n, 3, side, side].

    `rows[k]` are rows of the index of store k, in the order of the images here. All stores have the same side; images
    are resized if another side is requested.
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
        images = np.empty((len(rows), 3, self.stored, self.stored), np.uint8)
        # In their order on the disk.
        for place in np.lexsort((rows, readers)):
            images[place] = self.readers[readers[place]].read(int(rows[place]))
        if self.side != self.stored:
            # Imported only here, since a process that prepares images does not need torch.
            import torch

            from workbench.data.augment import resize

            images = resize(torch.from_numpy(images), self.side).numpy()
        return images if np.ndim(self.row_of[index]) else images[0]

    def on(self, rows: np.ndarray, device: "torch.device") -> "torch.Tensor":
        """uint8 [n, 3, side, side] of rows int64 [n], on a device. A GPU decodes them itself if all are stored as JPEG.

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
                f"{files}: an image is damaged ({error}); `wb data list --verify` names the file."
            ) from error
