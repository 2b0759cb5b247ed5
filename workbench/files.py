"""Small files: atomic writes, JSON Lines, and text in any encoding that editors write."""

import codecs
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import UserError


def append_line(file: Path, entry: Any) -> None:
    """Appends `entry` as a line of JSON. Where the disk is full, nothing is appended."""
    line = json.dumps(entry) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a+b") as out:
        size = out.tell()
        if size:
            out.seek(size - 1)
            if out.read(1) != b"\n":  # truncated when its writer died
                line = "\n" + line
        try:
            out.write(line.encode())
            out.flush()
        except OSError:
            with suppress(OSError):
                out.truncate(size)
            raise


def read_lines(file: Path) -> list[Any]:
    """Returns the complete entries of a file; none where there is no file. A line that was truncated when its writer
    died is skipped."""
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def write_whole(file: Path, content: bytes) -> None:
    """Replaces a file's content atomically: readers see either the old or the new file."""
    half = file.with_name(f".{file.name}.{os.getpid()}.half")
    half.write_bytes(content)
    os.replace(half, file)


def decoded(data: bytes, file: Path) -> str:
    """Returns the text of a file's bytes. Raises UserError with the line where they are neither UTF-8 nor marked as
    UTF-16."""
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}: no UTF-8 text (byte {data[error.start]:#04x}); save it as UTF-8.") from error


def encoding_of(data: bytes) -> str:
    """Returns UTF-16 where the bytes start with its byte order mark, else UTF-8, with or without a mark."""
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
