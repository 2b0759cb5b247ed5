"""Standard output and error that are closed, hung up, full, or of few characters: no reason to end work that writes to
neither."""

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO, cast


class _Raw(io.FileIO):
    """A file descriptor that swallows what it cannot write, and remembers why."""

    error: OSError | None = None

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(memoryview(data).cast("B"))


def open_closed() -> None:
    """Before any file is opened, which would get the number of a standard stream that is closed, and be written to in
    its place."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def soften() -> Callable[[], OSError | None]:
    """Puts lenient streams in place of this process's own, for entry points; gives what tells why the output was cut
    short."""
    open_closed()
    out = _lenient(sys.__stdout__, 1)
    errors = _lenient(sys.__stderr__, 2)
    if sys.stdout is sys.__stdout__:
        sys.stdout = out[0]
    if sys.stderr is sys.__stderr__:
        sys.stderr = errors[0]

    def cut_short() -> OSError | None:
        out[0].flush()
        return out[1].error

    return cut_short


def _lenient(stream: TextIO | None, fd: int) -> tuple[io.TextIOWrapper, _Raw]:
    raw = _Raw(fd, "w", closefd=False)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    errors = "backslashreplace" if fd == 2 else "replace"
    made = io.TextIOWrapper(
        io.BufferedWriter(cast(io.FileIO, raw)), encoding, errors, line_buffering=fd == 2 or os.isatty(fd)
    )
    return made, raw
