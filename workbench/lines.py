"""Files of JSON, one entry a line, that are only ever added to."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any


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
    """The whole entries of a file; none where there is no file. One that was cut short when its writer died is left out."""
    entries = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with suppress(ValueError):
            entries.append(json.loads(line))
    return entries
