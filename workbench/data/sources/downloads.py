"""img2dataset's records of its downloads: a .json beside each image, and a .parquet for each shard, which alone tells
of those that failed (rom1504/img2dataset, writer.py)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

COLUMNS = {"url", "key", "status"}  # that each of its tables has


def is_record(columns: list[str]) -> bool:
    """Whether a table with these columns tells of downloads, and names no files."""
    return {*columns} >= COLUMNS


def failed(file: Path) -> Iterator[tuple[str, str]]:
    """(key, reason) of each image that a shard's .parquet tells was not downloaded; none where it is another table."""
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
    """Why there is no image, in the words of tars and folders alike."""
    told = facts.get("error_message") or facts.get("status") or "no image beside its caption"
    return f"it has no image ({told})"


def facts_of(data: bytes | None) -> dict[str, Any]:
    """The record of one image, empty where it is missing or broken."""
    try:
        loaded = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return loaded if isinstance(loaded, dict) else {}
