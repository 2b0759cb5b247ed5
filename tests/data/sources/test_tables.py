"""Tables of files and their captions."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from tests.data.published import captions, jpeg, prepared
from workbench.data.report import describe
from workbench.data.store import open_store


def test_repeated_captions_are_counted(tmp_path: Path) -> None:
    jpeg(tmp_path / "a.jpg")
    jpeg(tmp_path / "b.jpg")
    (tmp_path / "captions.csv").write_text("file,caption\na.jpg,one\na.jpg,two\na.jpg,one \na.jpg,one\nb.jpg,one\n")
    told = describe(prepared(tmp_path, tmp_path / "out"))
    assert told.facts["repeated_captions"] == 2
    assert "repeated captions of an image, dropped: 2" in told.text
    facts = json.loads((tmp_path / "out" / "prepared.json").read_text())
    del facts["repeated_captions"]  # as it was before they were counted
    (tmp_path / "out" / "prepared.json").write_text(json.dumps(facts))
    older = describe(open_store(tmp_path / "out"))
    assert older.facts["repeated_captions"] is None
    assert "repeated captions" not in older.text


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_tables(tmp_path: Path, form: str) -> None:
    jpeg(tmp_path / "1.jpg")
    frame = pl.DataFrame({"image": ["1.jpg", "1.jpg", None], "text": ["one, a", "two", "x"], "split": ["val"] * 3})
    path = tmp_path / f"captions.{form}"
    write: dict[str, Callable[[Path], object]] = {
        "csv": frame.write_csv,
        "tsv": lambda to: frame.write_csv(to, separator="\t"),
        "jsonl": frame.write_ndjson,
        "parquet": frame.write_parquet,
    }
    write[form](path)
    assert captions(prepared(path, tmp_path / "out")) == {"1.jpg": ("val", ["one, a", "two"])}
