"""Which image files cannot be read: each is decoded once, and looked at again only where it has changed since."""

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

KEPT = "images-checked.jsonl"  # in the cache, a line a batch: each image's path, size, modification time and fault
BATCH = 64  # images between two looks at `stop`: a second's work
SIDE = 32  # pixels: the cheapest decoding that still reads a file to its end

Show = Callable[[int, int], None]  # images looked at, of how many
Check = Callable[[Iterable[Path]], dict[Path, str]]  # why each image that cannot be read cannot


@dataclass(frozen=True)
class Version:
    """A file as it is at the moment: a changed one has another size or modification time (nanoseconds)."""

    size: int
    modified: int


def broken_images(
    paths: Iterable[Path],
    cache: Path | None = None,
    show: Show = lambda *_: None,
    stop: Callable[[], bool] = never,
    workers: int | None = None,
) -> dict[Path, str]:
    """Why each image that is missing or broken cannot be read; whole ones are not named.

    With a `cache` folder, what was found is kept there and not looked at again while size and modification time stay.
    `workers` threads decode side by side, by default one a core. Raises Stopped where `stop()`; what was found until
    then is kept.
    """
    distinct = dict.fromkeys(paths)
    versions = {path: version for path in distinct if (version := _version(path)) is not None}
    broken = {path: f"{path} is missing" for path in distinct if path not in versions}
    kept = cache and cache / KEPT
    # Which warnings are shown holds for all threads, so that those that decode must not each set it and put it back.
    with _alone(kept), warnings.catch_warnings(action="ignore"):
        known = _known(kept)
        faults = {path: known.get(_key(path, version)) for path, version in versions.items()}
        left = [path for path, fault in faults.items() if fault is None]
        for found in _checked(left, show, stop, workers or usable_cores()):
            faults |= {path: fault for path, (fault, _) in found.items()}
            lasting = {path: fault for path, (fault, lasts) in found.items() if lasts}
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
    """Others that would check the same images wait, and find them checked."""
    return alone(kept) if kept else nullcontext()


def _known(kept: Path | None) -> dict[tuple[str, int, int], str]:
    """What earlier checks found; an empty fault is that of a whole image."""
    lines = read_lines(kept) if kept else []
    return {(path, size, modified): fault for line in lines for path, size, modified, fault in line}


def _checked(
    paths: Sequence[Path], show: Show, stop: Callable[[], bool], workers: int
) -> Iterator[dict[Path, tuple[str, bool]]]:
    """A batch at a time, each image's fault and whether it lasts."""
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), BATCH):
            if stop():
                raise Stopped
            batch = paths[start : start + BATCH]
            yield dict(zip(batch, pool.map(_fault, batch), strict=True))
            show(start + len(batch), len(paths))


def _fault(path: Path) -> tuple[str, bool]:
    """Why an image cannot be read (nothing: it can), and whether that lasts as long as the file's bytes are the
    same."""
    try:
        decode(path, SIDE)
    except BrokenImage as error:
        # The system's refusal, such as that of a file without permission or a disk that fails, can end without a change
        # of the file.
        return str(error), getattr(error.__cause__, "errno", None) is None
    return "", True
