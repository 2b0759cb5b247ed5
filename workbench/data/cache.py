"""Folders that are made once, whole or not at all, and named by what they hold."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np


def entry(path: Path, make: Callable[[Path], None]) -> Path:
    """`path`, made by `make(temporary folder)` where it does not exist yet.

    Processes that ask for the same entry at once wait for the first; a half-made entry is never seen.
    """
    if path.is_dir():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_name(path.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            half = path.with_name(path.name + ".part")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            os.replace(half, path)
    return path


def new_array(path: Path, shape: tuple[int, ...], dtype: str = "uint8") -> np.memmap:
    """A writable memory-mapped `.npy` file."""
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
