"""Folders that are made once, whole or not at all, and named by what they hold."""

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
    """Has `say` told from now on when another process is waited for, and what making an entry came to."""
    global _heard
    _heard = say


def tell(sentence: str) -> None:
    """Says what whoever makes an entry should know."""
    _heard(sentence)


def entry(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made by `make(temporary folder)` where it does not exist yet.

    Processes that ask for the same entry at once wait for the first, and say so; a half-made entry is never seen.
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
    """Holds off other processes that would make the same folder. Raises UserError where nothing can be written."""
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
    """A writable memory-mapped `.npy` file. Raises OSError (ENOSPC) where the disk has no room for all of it."""
    made = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):  # else a full disk would end the process, when a page of the file is written to
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # of a file system that cannot reserve room
                    error.filename = str(path)
                    path.unlink()
                    raise
    return made
