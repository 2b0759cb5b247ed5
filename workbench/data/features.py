"""Stored features of images: memory-mapped shards for each split, written once, gone on with and mended shard by shard.

FOLDER/store.json            what made them, shape and type of a row, rows of each split and of a shard
FOLDER/shards.jsonl          a line for each shard that is whole: file, bytes, checksum; the last line of a file counts
FOLDER/train-00000.npy       [n, T, C]; ...
"""

import errno
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from workbench.data.cache import alone, tell
from workbench.data.store import checksum, write_parts
from workbench.errors import UserError
from workbench.files import append_line, read_lines, write_whole

STORE, SHARDS_DONE = "store.json", "shards.jsonl"
BLOCK = (
    512  # rows that are made at once; a shard is a multiple, so that no row depends on where an earlier start was cut
)
SHARD = 4096  # rows of a shard at least, ...
LARGE = 1e9  # bytes, of which it is said beforehand that they will be written
SHARDS = 400  # ... and shards of a split at most, since each is an open file

Make = Callable[[str, range], Iterator[np.ndarray]]  # (split, rows) -> their features [n, T, C], a block at a time
Progress = Callable[[int, int, dict[str, float]], None]  # rows done, of how many, figures


@dataclass(frozen=True)
class Layout:
    """What a store holds when it is whole: `rows` of each split, each `row` of [T, C] numbers; at most `shard` rows a
    file."""

    row: tuple[int, int]
    rows: dict[str, int]
    shard: int
    made_from: str
    dtype: str = "float16"

    @classmethod
    def of(cls, row: tuple[int, int], rows: Mapping[str, int], made_from: str) -> Self:
        """With shards that are neither too many nor too small."""
        largest = max(SHARD, -(-max(rows.values()) // SHARDS))
        return cls(row, dict(rows), -(-largest // BLOCK) * BLOCK, made_from)

    @classmethod
    def read(cls, home: Path) -> Self | None:
        """That of a store; None where there is none, or what it says is damaged."""
        try:
            told = json.loads((home / STORE).read_text(encoding="utf-8"))
            row, rows = tuple(map(int, told["row"])), {str(name): int(count) for name, count in told["rows"].items()}
            made = cls((row[0], row[1]), rows, int(told["shard"]), str(told["made_from"]), str(told["dtype"]))
            np.dtype(made.dtype)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None
        return made if made.shard > 0 and min(made.row) > 0 else None

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.row)) * np.dtype(self.dtype).itemsize

    @property
    def bytes(self) -> int:
        return sum(self.rows.values()) * self.row_bytes

    @property
    def shards(self) -> list["Shard"]:
        return [
            Shard(split, number, range(start, min(start + self.shard, count)))
            for split, count in self.rows.items()
            for number, start in enumerate(range(0, count, self.shard))
        ]


@dataclass(frozen=True)
class Shard:
    """The file of some rows of a split."""

    split: str
    number: int
    rows: range

    @property
    def file(self) -> str:
        return f"{self.split}-{self.number:05d}.npy"


class Features:
    """[N, T, C] of a split: `features[rows]` reads them into an array, in the order in which they lie on the disk."""

    def __init__(self, files: Sequence[Path], rows: int, row: tuple[int, int], shard: int, dtype: str) -> None:
        self.files, self.shape, self.shard, self.dtype = list(files), (rows, *row), shard, np.dtype(dtype)
        self._open: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """Of an array int64 [B] or a slice [B, T, C], of a number [T, C]. Raises IndexError outside of the split, and
        UserError where a file is damaged."""
        rows = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.atleast_1d(index)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"a row of {len(self):,} was asked for that is none of them")
        made = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place in np.argsort(rows, kind="stable"):
            number, inside = divmod(int(rows[place]), self.shard)
            made[place] = self._mapped(number)[inside]
        return made if isinstance(index, slice) or np.ndim(index) else made[0]

    def _mapped(self, number: int) -> np.ndarray:
        if number not in self._open:
            file = self.files[number]
            try:
                mapped = np.load(file, mmap_mode="r")
                if (mapped.shape[1:], mapped.dtype) != (self.shape[1:], self.dtype):
                    raise ValueError(f"{mapped.dtype} of {mapped.shape}")
            except (FileNotFoundError, ValueError, EOFError) as error:
                raise UserError(
                    f"{file}: missing or damaged; `wb data features --verify` removes what is damaged, "
                    "and the next run makes it anew."
                ) from error
            self._open[number] = mapped
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # a loader's process maps the files itself


def open_features(home: Path, layout: Layout, make: Make, progress: Progress) -> dict[str, Features]:
    """The features of every split, from the folder `home`; shards that are not there, or cut short, are made by `make`.

    Processes that ask for the same store at once wait for the first. Stopped at any point, the next call goes on with
    the shards that are missing. Raises UserError where the disk is too small for them, and OSError (ENOSPC) where it
    has become so since the store was begun.
    """
    if missing(home, layout):
        with alone(home):
            if todo := missing(home, layout):  # after the wait for another process
                _fill(home, layout, todo, make, progress)
    return opened(home, layout)


def opened(home: Path, layout: Layout) -> dict[str, Features]:
    """The features of every split of a store that is whole; opens no file before it is read."""
    return {
        split: Features(
            [home / shard.file for shard in layout.shards if shard.split == split],
            *(count, layout.row, layout.shard, layout.dtype),
        )
        for split, count in layout.rows.items()
    }


def open_of_one_file(home: Path, rows: Mapping[str, int]) -> dict[str, Features] | None:
    """A store from before there were shards, one file a split, which is used as it is; None where it is none, or not of
    so many rows."""
    found = {}
    for split, count in rows.items():
        file = home / f"{split}.npy"
        try:
            shape, dtype = (array := np.load(file, mmap_mode="r")).shape, array.dtype
        except (OSError, ValueError, EOFError):
            return None
        if len(shape) != 3 or shape[0] != count:
            return None
        found[split] = Features([file], count, (shape[1], shape[2]), max(1, count), dtype.name)
    return found


def missing(home: Path, layout: Layout) -> list[Shard]:
    """The shards that are not there as they were written, told by their sizes alone."""
    if Layout.read(home) != layout:
        return layout.shards
    done = _done(home)
    return [shard for shard in layout.shards if not _is_whole(home / shard.file, done.get(shard.file))]


def damaged(home: Path, layout: Layout) -> list[Shard]:
    """The shards that are missing, or whose bytes are no longer those that were written; reads all of them."""
    lost, done = {shard.file for shard in missing(home, layout)}, _done(home)
    return [
        shard
        for shard in layout.shards
        if shard.file in lost or checksum(home / shard.file) != done[shard.file]["checksum"]
    ]


@dataclass(frozen=True)
class Checked:
    """A store as it was found: the files that are yet to be made, and those of them that were made once, but are lost
    or damaged."""

    home: Path
    layout: Layout
    missing: list[str]
    damaged: list[str]

    @property
    def facts(self) -> dict[str, Any]:
        """For scripts."""
        about = {"folder": str(self.home), **asdict(self.layout), "bytes": self.layout.bytes}
        return about | {"files": len(self.layout.shards), "missing": self.missing, "damaged": self.damaged}

    def __str__(self) -> str:
        layout = self.layout
        todo = f", {len(self.missing):,} of them yet to be made" if self.missing else ""
        harm = f"; DAMAGED: {', '.join(self.damaged)}" if self.damaged else ""
        return (
            f"{self.home}: {sum(layout.rows.values()):,} images x {layout.row[0]} x {layout.row[1]},"
            f" {layout.bytes / 1e9:,.2f} GB in {len(layout.shards):,} files{todo}, of {layout.made_from}{harm}"
        )


def check_stores(cache_dir: Path, verify: bool) -> list[Checked]:
    """The stores of a cache. `verify`: all is read, and what is damaged is removed, so that whoever opens the store
    next makes that anew and nothing else."""
    found = []
    for home in sorted(file.parent for file in cache_dir.glob(f"*/{STORE}")):
        layout = Layout.read(home)
        if layout is None:  # made anew by whoever opens it
            continue
        lost = [shard.file for shard in (damaged if verify else missing)(home, layout)]
        found.append(Checked(home, layout, lost, [file for file in lost if file in _done(home)]))
        if verify and lost:
            with alone(home):
                for file in lost:
                    (home / file).unlink(missing_ok=True)
    return found


def _done(home: Path) -> dict[str, dict[str, Any]]:
    """What is known of each shard that was finished."""
    entries = read_lines(home / SHARDS_DONE)
    return {str(entry["file"]): entry for entry in entries if isinstance(entry, dict) and "checksum" in entry}


def _is_whole(file: Path, known: Mapping[str, Any] | None) -> bool:
    try:
        return known is not None and file.stat().st_size == known["bytes"]
    except OSError:
        return False


def _fill(home: Path, layout: Layout, todo: list[Shard], make: Make, progress: Progress) -> None:
    done, total = sum(layout.rows.values()), sum(layout.rows.values())
    done -= sum(len(shard.rows) for shard in todo)
    _say_what_is_lost(home, layout, todo)
    shutil.rmtree(home.with_name(f"{home.name}.part"), ignore_errors=True)  # begun before there were shards
    _refuse_small_disk(home, layout, total - done, done > 0)
    home.mkdir(exist_ok=True)
    if Layout.read(home) != layout:
        shutil.rmtree(home)
        home.mkdir()
        write_whole(home / STORE, json.dumps(asdict(layout), indent=1).encode())
    figures = {"GB": layout.bytes / 1e9}
    progress(done, total, figures)
    for shard in todo:
        half = (home / shard.file).with_suffix(".half")
        # Written, and not mapped: where the disk is full, a mapped file ends the process.
        facts = write_parts(half, _parts(shard, layout, make, partial(_further, progress, done, total, figures)))
        os.replace(half, home / shard.file)
        append_line(home / SHARDS_DONE, {"file": shard.file} | facts)
        done += len(shard.rows)
        progress(done, total, figures)


def _parts(shard: Shard, layout: Layout, make: Make, progress: Callable[[int], None]) -> Iterator[bytes | memoryview]:
    """What a shard's file holds; tells how many rows are written of one that is not whole yet. Raises ValueError where
    `make` gives other rows than were asked for."""
    yield _header((len(shard.rows), *layout.row), layout.dtype)
    written = 0
    for block in make(shard.split, shard.rows):
        if written:
            progress(written)
        if block.shape[1:] != layout.row:
            raise ValueError(f"features of {block.shape[1:]} for a store of {layout.row}")
        yield np.ascontiguousarray(block, layout.dtype).data.cast("B")
        written += len(block)
    if written != len(shard.rows):
        raise ValueError(f"features of {written} rows for a shard of {len(shard.rows)}")


def _further(progress: Progress, done: int, total: int, figures: dict[str, float], rows: int) -> None:
    progress(done + rows, total, figures)


def _header(shape: tuple[int, ...], dtype: str) -> bytes:
    """That of an .npy file."""
    made = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(made, about)
    return made.getvalue()


def _say_what_is_lost(home: Path, layout: Layout, todo: list[Shard]) -> None:
    """Names the shards that had been finished once."""
    if Layout.read(home) == layout and (lost := [shard.file for shard in todo if shard.file in _done(home)]):
        tell(f"{home}: missing or cut short, and made anew: {', '.join(lost)}")


def _refuse_small_disk(home: Path, layout: Layout, rows: int, begun: bool) -> None:
    needed, free = rows * layout.row_bytes, shutil.disk_usage(home.parent).free
    if needed <= free:
        if needed >= LARGE:
            tell(f"{home}: writing {needed / 1e9:,.1f} GB of stored features, {free / 1e9:,.1f} GB are free")
        return
    if begun:  # what has filled the disk since may pass, and is waited out as anywhere
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{home}, {needed / 1e9:,.1f} GB more are needed")
    raise UserError(
        f"{home}: the stored features of {rows:,} images ({' x '.join(map(str, layout.row))} numbers each) need"
        f" {needed / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free; make room, take a --workspace on a larger disk, or"
        " set `model.vision.frozen: false`."
    )
