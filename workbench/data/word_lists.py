"""Word lists that the package carries as files in `words/`."""

from functools import cache
from importlib import resources

import yaml


def _text(name: str) -> str:
    return (resources.files("workbench.data") / "words" / name).read_text(encoding="utf-8")


@cache
def word_list(name: str) -> tuple[str, ...]:
    """Returns the entries of `words/NAME.txt`, one per line, in the file's order; `#` begins a comment line."""
    lines = (line.strip() for line in _text(f"{name}.txt").splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


@cache
def word_table(name: str) -> dict[str, str | list[str]]:
    """Returns the mapping in `words/NAME.yaml`, in the file's order."""
    table = yaml.safe_load(_text(f"{name}.yaml"))
    assert isinstance(table, dict)
    return table
