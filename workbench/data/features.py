"""Stored features of images: memory-mapped shards for each split, written once, resumed and repaired shard by shard.

FOLDER/store.json            their origin, shape and type of a row, rows of each split and of a shard
FOLDER/shards.jsonl          one line per complete shard: file, bytes, checksum; the last line of a file counts
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
# Rows that are computed at once. A shard is a multiple of it, so that no row depends on where an earlier run stopped.
BLOCK = 512
SHARD = 4096  # at least this many rows per shard, ...
SHARDS = 400  # ... and at most this many shards per split, since each is an open file
LARGE = 1e9  # bytes; a store of this size is announced before it is written

Make = Callable[[str, range], Iterator[np.ndarray]]  # (split, rows) -> their features [n, T, C], block by block
Progress = Callable[[int, int, dict[str, float]], None]  # rows done, rows in total, figures


@dataclass(frozen=True)
class Layout:
    """What a complete store holds: `rows` of each split, each row of shape `row` = [T, C]; at most `shard` rows per
    file."""

    row: tuple[int, int]
    rows: dict[str, int]
    shard: int
    made_from: str
    dtype: str = "float16"

    @classmethod
    def of(cls, row: tuple[int, int], rows: Mapping[str, int], made_from: str) -> Self:
        """A layout whose shards are neither too many nor too small."""
        largest = max(SHARD, -(-max(rows.values()) // SHARDS))
        return cls(row, dict(rows), -(-largest // BLOCK) * BLOCK, made_from)

    @classmethod
    def read(cls, home: Path) -> Self | None:
        """The layout of a store; None if there is none or its file is damaged."""
        try:
            entry = json.loads((home / STORE).read_text(encoding="utf-8"))
            row, rows = tuple(map(int, entry["row"])), {str(name): int(count) for name, count in entry["rows"].items()}
            layout = cls((row[0], row[1]), rows, int(entry["shard"]), str(entry["made_from"]), str(entry["dtype"]))
            np.dtype(layout.dtype)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None
        return layout if layout.shard > 0 and min(layout.row) > 0 else None

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
    """The features [N, T, C] of a split. `features[rows]` reads rows into an array, in their order on the disk."""

    def __init__(self, files: Sequence[Path], rows: int, row: tuple[int, int], shard: int, dtype: str) -> None:
        self.files, self.shape, self.shard, self.dtype = list(files), (rows, *row), shard, np.dtype(dtype)
        self._open: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def __getitem__(self, index: int | slice | np.ndarray) -> np.ndarray:
        """[B, T, C] for an array int64 [B] or a slice, [T, C] for a number. Raises IndexError for a row outside of the
        split, and UserError if a file is damaged."""
        rows = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.atleast_1d(index)
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"a requested row is not among the {len(self):,} rows of the split")
        features = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place in np.argsort(rows, kind="stable"):
            number, inside = divmod(int(rows[place]), self.shard)
            features[place] = self._mapped(number)[inside]
        return features if isinstance(index, slice) or np.ndim(index) else features[0]

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
                    "and the next run makes it again."
                ) from error
            self._open[number] = mapped
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # a loader's process maps the files itself


def open_features(home: Path, layout: Layout, make: Make, progress: Progress) -> dict[str, Features]:
    """Returns the features of every split, from the folder `home`; `make` makes shards that are missing or cut short.

    Processes that request the same store at once wait for the first. After a stop at any point, the next call continues
    with the missing shards. Raises UserError if the disk is too small for them, and OSError (ENOSPC) if it has become
    too small since the store was begun.
    """
    if missing(home, layout):
        with alone(home):
            if todo := missing(home, layout):  # after the wait for another process
                _fill(home, layout, todo, make, progress)
    return opened(home, layout)


def opened(home: Path, layout: Layout) -> dict[str, Features]:
    """The features of every split of a complete store; opens each file only when it is read."""
    return {
        split: Features(
            [home / shard.file for shard in layout.shards if shard.split == split],
            *(count, layout.row, layout.shard, layout.dtype),
        )
        for split, count in layout.rows.items()
    }


def open_of_one_file(home: Path, rows: Mapping[str, int]) -> dict[str, Features] | None:
    """The features of a store from before there were shards, with one file per split, used as it is. None if it is no
    such store, or has other numbers of rows."""
    features = {}
    for split, count in rows.items():
        file = home / f"{split}.npy"
        try:
            shape, dtype = (array := np.load(file, mmap_mode="r")).shape, array.dtype
        except (OSError, ValueError, EOFError):
            return None
        if len(shape) != 3 or shape[0] != count:
            return None
        features[split] = Features([file], count, (shape[1], shape[2]), max(1, count), dtype.name)
    return features


def missing(home: Path, layout: Layout) -> list[Shard]:
    """The shards that do not exist as they were written, judged by their sizes alone."""
    if Layout.read(home) != layout:
        return layout.shards
    done = _done(home)
    return [shard for shard in layout.shards if not _is_whole(home / shard.file, done.get(shard.file))]


def damaged(home: Path, layout: Layout) -> list[Shard]:
    """The shards that are missing, or whose bytes have changed since they were written; reads all of them."""
    lost, done = {shard.file for shard in missing(home, layout)}, _done(home)
    return [
        shard
        for shard in layout.shards
        if shard.file in lost or checksum(home / shard.file) != done[shard.file]["checksum"]
    ]


@dataclass(frozen=True)
class Checked:
    """The state of a store. `missing`: the files that do not exist yet; `damaged`: those among them that existed before
    but are lost or damaged."""

    home: Path
    layout: Layout
    missing: list[str]
    damaged: list[str]

    @property
    def facts(self) -> dict[str, Any]:
        """The state as JSON for scripts."""
        about = {"folder": str(self.home), **asdict(self.layout), "bytes": self.layout.bytes}
        return about | {"files": len(self.layout.shards), "missing": self.missing, "damaged": self.damaged}

    def __str__(self) -> str:
        layout = self.layout
        todo = f", {len(self.missing):,} of them still missing" if self.missing else ""
        harm = f"; DAMAGED: {', '.join(self.damaged)}" if self.damaged else ""
        return (
            f"{self.home}: {sum(layout.rows.values()):,} images x {layout.row[0]} x {layout.row[1]},"
            f" {layout.bytes / 1e9:,.2f} GB in {len(layout.shards):,} files{todo}, of {layout.made_from}{harm}"
        )


def check_stores(cache_dir: Path, verify: bool) -> list[Checked]:
    """The stores of a cache. With `verify` all files are read, and damaged ones are removed, so that whoever opens the
    store next makes only these again."""
    checked = []
    for home in sorted(file.parent for file in cache_dir.glob(f"*/{STORE}")):
        layout = Layout.read(home)
        if layout is None:  # made again by whoever opens it
            continue
        lost = [shard.file for shard in (damaged if verify else missing)(home, layout)]
        checked.append(Checked(home, layout, lost, [file for file in lost if file in _done(home)]))
        if verify and lost:
            with alone(home):
                for file in lost:
                    (home / file).unlink(missing_ok=True)
    return checked


def _done(home: Path) -> dict[str, dict[str, Any]]:
    """The entry of each shard that was finished, by file name."""
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
    shutil.rmtree(home.with_name(f"{home.name}.part"), ignore_errors=True)  # from before there were shards
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
        # Written, not mapped: on a full disk, a mapped file kills the process.
        facts = write_parts(half, _parts(shard, layout, make, partial(_further, progress, done, total, figures)))
        os.replace(half, home / shard.file)
        append_line(home / SHARDS_DONE, {"file": shard.file} | facts)
        done += len(shard.rows)
        progress(done, total, figures)


def _parts(shard: Shard, layout: Layout, make: Make, progress: Callable[[int], None]) -> Iterator[bytes | memoryview]:
    """The content of a shard's file; reports the rows written so far while it is incomplete. Raises ValueError if
    `make` yields other rows than were requested."""
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
    """The header of an .npy file."""
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def _say_what_is_lost(home: Path, layout: Layout, todo: list[Shard]) -> None:
    """Reports the shards that had been finished before."""
    if Layout.read(home) == layout and (lost := [shard.file for shard in todo if shard.file in _done(home)]):
        tell(f"{home}: missing or cut short, made again: {', '.join(lost)}")


def _refuse_small_disk(home: Path, layout: Layout, rows: int, begun: bool) -> None:
    needed, free = rows * layout.row_bytes, shutil.disk_usage(home.parent).free
    if needed <= free:
        if needed >= LARGE:
            tell(f"{home}: writing {needed / 1e9:,.1f} GB of stored features, {free / 1e9:,.1f} GB are free")
        return
    if begun:  # the disk has filled up since; callers wait until there is room, as for any other write
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{home}, {needed / 1e9:,.1f} GB more are needed")
    raise UserError(
        f"{home}: the stored features of {rows:,} images ({' x '.join(map(str, layout.row))} numbers each) need"
        f" {needed / 1e9:,.1f} GB and {free / 1e9:,.1f} GB are free; make room, use a --workspace on a larger disk, or"
        " set `model.vision.frozen: false`."
    )
