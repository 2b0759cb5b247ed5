"""img2dataset's records of its downloads: a .json next to each image, and a .parquet for each shard, which alone lists
failed downloads (rom1504/img2dataset, writer.py)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

COLUMNS = {"url", "key", "status"}  # columns of each of its tables


def is_record(columns: list[str]) -> bool:
    """Whether a table with these columns is a record of downloads, which names no files."""
    return {*columns} >= COLUMNS


def failed(file: Path) -> Iterator[tuple[str, str]]:
    """Yields (key, reason) of each failed download in a shard's .parquet; nothing if it is another table."""
    try:
        columns = list(pl.scan_parquet(file, glob=False).collect_schema())
        if not is_record(columns):
            return
        needed = [name for name in columns if name in ("key", "status", "error_message")]
        frame = pl.read_parquet(file, columns=needed, glob=False)
    except (pl.exceptions.PolarsError, OSError):
        return
    for row in frame.filter(pl.col("status") != "success").iter_rows(named=True):
        yield str(row["key"]), reason(row)


def reason(facts: dict[str, Any]) -> str:
    """The reason why there is no image, worded the same for tars and folders."""
    cause = facts.get("error_message") or facts.get("status") or "no image beside its caption"
    return f"it has no image ({cause})"


def facts_of(data: bytes | None) -> dict[str, Any]:
    """The record of one image; empty if it is missing or broken."""
    try:
        loaded = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
