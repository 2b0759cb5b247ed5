"""Small files: whole or not at all, a line of JSON at a time, or text from whichever editor."""

import codecs
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from workbench.errors import UserError


def append_line(file: Path, entry: Any) -> None:
    """Adds `entry` as a line of JSON: whole, or not at all where the disk is full."""
    line = json.dumps(entry) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "a+b") as out:
        size = out.tell()
        if size:
            out.seek(size - 1)
            if out.read(1) != b"\n":  # cut short when its writer died
                line = "\n" + line
        try:
            out.write(line.encode())
            out.flush()
        except OSError:
            with suppress(OSError):
                out.truncate(size)
            raise


def read_lines(file: Path) -> list[Any]:
    """The whole entries of a file; none where there is no file. One that was cut short when its writer died is left
    out."""
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def write_whole(file: Path, content: bytes) -> None:
    """Puts `content` in the place of a file, which is seen whole: the old or the new one."""
    half = file.with_name(f".{file.name}.{os.getpid()}.half")
    half.write_bytes(content)
    os.replace(half, file)


def decoded(data: bytes, file: Path) -> str:
    """The text of a file's bytes. Raises UserError where they are neither UTF-8 nor marked as UTF-16, with the line."""
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(f"{file}:{line}: no UTF-8 text (byte {data[error.start]:#04x}); save it as UTF-8.") from error


def encoding_of(data: bytes) -> str:
    """UTF-16 where the bytes are marked as such, else UTF-8, with or without a mark."""
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
