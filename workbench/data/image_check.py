"""Finds image files that cannot be read: each is decoded once, and checked again only if it has changed."""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from workbench.cores import usable_cores
from workbench.data.cache import alone
from workbench.data.images import BrokenImage, decode
from workbench.files import append_line, read_lines
from workbench.outage import never
from workbench.stop import Stopped

KEPT = "images-checked.jsonl"  # in the cache, one line per batch: each image's path, size, modification time and fault
BATCH = 64  # images between two checks of `stop`: about a second of work
SIDE = 32  # pixels: the cheapest decoding that still reads a file to its end

Show = Callable[[int, int], None]  # images checked, images in total
Check = Callable[[Iterable[Path]], dict[Path, str]]  # the reason for each image that cannot be read


@dataclass(frozen=True)
class Version:
    """The current state of a file: a changed file has another size or modification time (nanoseconds)."""

    size: int
    modified: int


def broken_images(
    paths: Iterable[Path],
    cache: Path | None = None,
    show: Show = lambda *_: None,
    stop: Callable[[], bool] = never,
    workers: int | None = None,
) -> dict[Path, str]:
    """Returns the reason for each image that is missing or cannot be read; intact images are left out.

    With a `cache` folder, results are kept there and reused while size and modification time stay the same. `workers`
    threads decode in parallel, by default one per core. Raises Stopped once `stop()` is true; the results until then
    are kept.
    """
    distinct = dict.fromkeys(paths)
    versions = {path: version for path in distinct if (version := _version(path)) is not None}
    broken = {path: f"{path} is missing" for path in distinct if path not in versions}
    kept = cache and cache / KEPT
    # Warning filters are shared by all threads, so the decoding threads must not set and restore them themselves.
    with _alone(kept), warnings.catch_warnings(action="ignore"):
        known = _known(kept)
        faults = {path: known.get(_key(path, version)) for path, version in versions.items()}
        unchecked = [path for path, fault in faults.items() if fault is None]
        for results in _checked(unchecked, show, stop, workers or usable_cores()):
            faults |= {path: fault for path, (fault, _) in results.items()}
            lasting = {path: fault for path, (fault, lasts) in results.items() if lasts}
            if kept and lasting:
                append_line(kept, [[*_key(path, versions[path]), fault] for path, fault in lasting.items()])
    return broken | {path: f"{path}: {fault}" for path, fault in faults.items() if fault}


def _version(path: Path) -> Version | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return Version(facts.st_size, facts.st_mtime_ns)


def _key(path: Path, version: Version) -> tuple[str, int, int]:
    return os.path.abspath(path), version.size, version.modified


def _alone(kept: Path | None) -> AbstractContextManager[None]:
    """Makes other processes that would check the same images wait; afterwards they reuse the results."""
    return alone(kept) if kept else nullcontext()


def _known(kept: Path | None) -> dict[tuple[str, int, int], str]:
    """The faults that earlier checks found, by file version; an empty fault means an intact image."""
    lines = read_lines(kept) if kept else []
    return {(path, size, modified): fault for line in lines for path, size, modified, fault in line}


def _checked(
    paths: Sequence[Path], show: Show, stop: Callable[[], bool], workers: int
) -> Iterator[dict[Path, tuple[str, bool]]]:
    """Yields, batch by batch, each image's fault and whether it is permanent."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), BATCH):
            if stop():
                raise Stopped
            batch = paths[start : start + BATCH]
            yield dict(zip(batch, pool.map(_fault, batch), strict=True))
            show(start + len(batch), len(paths))


def _fault(path: Path) -> tuple[str, bool]:
    """The reason why an image cannot be read (empty if it can), and whether it holds as long as the file is
    unchanged."""
    try:
        decode(path, SIDE)
    except BrokenImage as error:
        # An error of the system, such as a missing permission or a failing disk, can disappear without a change of the
        # file.
        return str(error), getattr(error.__cause__, "errno", None) is None
    return "", True
