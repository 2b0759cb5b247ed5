"""Cache folders: each is created once and atomically, and its name identifies its content."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from workbench.errors import UserError
from workbench.faults import outage
from workbench.workspace import Say, locked, to_stderr

_heard: Say = to_stderr


def hear(say: Say) -> None:
    """Sends this module's messages to `say` from now on: waiting for another process, and results of making entries."""
    global _heard
    _heard = say


def tell(sentence: str) -> None:
    """Reports a sentence to the receiver that `hear` has set."""
    _heard(sentence)


def entry(path: Path, make: Callable[[Path], None]) -> Path:
    """Returns `path`; if it does not exist yet, `make(temporary folder)` creates its content first.

    Processes that request the same entry at once wait for the first and report it. A half-made entry is never visible.
    """
    if path.is_dir():
        return path
    with alone(path):
        if not path.is_dir():
            half = path.with_name(path.name + ".part")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            os.replace(half, path)
    return path


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Locks out other processes that would make the same folder. Raises UserError where nothing can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise UserError(f"{path.parent}: there is a file where a folder is needed; move it away.") from error
    except OSError as error:
        if outage(error):
            raise
        raise UserError(f"{path.parent}: the folder cannot be made ({error.strerror}); name another place.") from error
    with locked(path.with_name(f"{path.name}.lock"), f"another process is making {path.name}", _heard):
        yield


def new_array(path: Path, shape: tuple[int, ...], dtype: str = "uint8") -> np.memmap:
    """A writable memory-mapped `.npy` file. Raises OSError (ENOSPC) if the disk has no room for all of it."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):  # otherwise a full disk would kill the process on a write to a page
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # this file system cannot reserve space
                    error.filename = str(path)
                    path.unlink()
                    raise
    return array
