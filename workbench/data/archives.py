"""Tar archives, plain or compressed. Each is opened once and read from front to back, because on a mounted bucket every
open and every read waits for the network."""

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from workbench.data.reading import Place

BUFFER = 8 << 20  # bytes per read; from a mounted bucket they take hardly longer than the 512 of a member's header
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# Keyed by the first bytes of a file.
PACKERS: dict[bytes, Callable[[IO[bytes]], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
DAMAGES = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError)  # what reading a damaged tar raises


@dataclass(frozen=True)
class Packed(Place):
    """A member of a compressed tar; `offset` counts decompressed bytes."""


def is_tar(path: Path) -> bool:
    return path.name.endswith(SUFFIXES)


def stem(path: Path) -> str:
    """The name of a tar without its suffix, such as `.tar.gz`."""
    return next(path.name.removesuffix(suffix) for suffix in SUFFIXES if path.name.endswith(suffix))


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """The decompressed stream of a file whose first bytes mark it as compressed, else the file itself."""
    head = file.read(8)
    file.seek(0)
    packer = next((packer for magic, packer in PACKERS.items() if head.startswith(magic)), None)
    return file if packer is None else packer(file)


class Archives:
    """Reads members of tars. The last tar stays open, so the next member needs no opening. In a compressed tar, nothing
    is decompressed twice while offsets ascend."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._open: tuple[Path, IO[bytes]] | None = None

    def read(self, place: Place) -> bytes:
        """The bytes at a place. Raises OSError if the tar is missing or damaged."""
        try:
            stream = self._stream(place)
            stream.seek(place.offset)
            return stream.read(-1 if place.size is None else place.size)
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise OSError(f"the rest of the archive cannot be read ({error})") from error

    def close(self) -> None:
        self._open = None
        self._stack.close()

    def _stream(self, place: Place) -> IO[bytes]:
        if self._open is None or self._open[0] != place.path:
            self.close()
            self._open = place.path, self._stack.enter_context(_opened(place))
        return self._open[1]


@contextmanager
def _opened(place: Place) -> Iterator[IO[bytes]]:
    """Opens the archive that holds a place, decompressed if it is compressed."""
    with open(place.path, "rb", buffering=BUFFER) as file:
        if not isinstance(place, Packed):
            yield file
            return
        with unpacked(file) as stream:
            yield stream
