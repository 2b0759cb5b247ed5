"""Makes standard output and error tolerant: closed, disconnected or full streams, or streams of a limited encoding,
must not end a run."""

import io
import os
import sys
from collections.abc import Callable
from typing import TextIO, cast


class _Raw(io.FileIO):
    """A file descriptor that discards what it cannot write, and keeps the first error."""

    error: OSError | None = None

    def write(self, data: "bytes | memoryview") -> int:  # type: ignore[override]
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return len(memoryview(data).cast("B"))


def open_closed() -> None:
    """Opens closed standard streams on the null device. Call it before any file is opened: that file would get the
    number of a closed standard stream and receive its output."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def soften() -> Callable[[], OSError | None]:
    """Replaces this process's standard streams by tolerant ones. For entry points. Returns a function that flushes and
    returns the error that truncated the output, if any."""
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
    wrapper = io.TextIOWrapper(
        io.BufferedWriter(cast(io.FileIO, raw)), encoding, errors, line_buffering=fd == 2 or os.isatty(fd)
    )
    return wrapper, raw
