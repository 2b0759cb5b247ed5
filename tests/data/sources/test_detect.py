"""Which form a folder or file has, and what is said where it has none."""

from pathlib import Path

import polars as pl
import pytest

from tests.data.published import jpeg, prepared
from workbench.data.sources.detect import read_source
from workbench.errors import UserError

STRAYS = {
    "package.json": '{"name": "x"}',
    "list.json": "[1, 2]",
    "metadata.json": '{"licence": "x"}',
    "dataset_info.json": '{"features": {}}',
    "results.csv": "step,loss\n1,2\n",
}


def test_other_files_beside_images_with_captions_are_passed_by(tmp_path: Path) -> None:
    jpeg(tmp_path / "a.jpg").with_suffix(".txt").write_text("one")
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "numbers.parquet")
    for name, text in STRAYS.items():
        (tmp_path / name).write_text(text)
    reading = read_source(tmp_path)
    assert (reading.form, [pair.id for pair in reading.found], reading.broken) == ("folder", ["a.jpg"], [])
    (tmp_path / "notes.json").write_text('[{"image": "a.jpg", "capt')
    ((what, why),) = read_source(tmp_path).broken
    assert what == "notes.json"
    assert f"{tmp_path}/notes.json:1: not readable as JSON" in why
    (tmp_path / "list.json").write_text('[{"image": "a.jpg", "caption": "of the list"}]')
    # Beside annotations that are whole, broken ones would be missed.
    with pytest.raises(UserError, match=r"notes\.json:1: not readable as JSON"):
        read_source(tmp_path)
    (tmp_path / "notes.json").unlink()
    assert [pair.captions for pair in read_source(tmp_path).found] == [("of the list",)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("captions.csv", 'file,caption\na.jpg,"one\n', r"captions\.csv:2: not a readable csv"),
        ("captions.csv", "name,words\na.jpg,one\n", "column `file` is missing"),
        ("captions_x.json", '{"annotations": [', r"captions_x\.json:1: not readable"),
        ("metadata.jsonl", "{\n", r"metadata\.jsonl:1: not a readable jsonl"),
    ],
)
def test_broken_annotations_that_were_meant_are_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    jpeg(tmp_path / "a.jpg").with_suffix(".txt").write_text("one")
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=said):
        read_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "{", "not readable as JSON"),
        ("a.json", '{"annotations": [{}], "images": []}', "not as published"),
        ("a.json", '[{"picture": 1}]', "neither COCO's"),
        ("a.csv", "name,caption\na,b\n", "column `file` is missing"),
        ("a.xml", "<a/>", "not a known form"),
    ],
)
def test_what_is_no_corpus_is_named(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        read_source(tmp_path / name)


def test_images_that_are_all_missing_say_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"image": "x.jpg", "caption": "x"}]')
    with pytest.raises(UserError, match="Name their folder with --images"):
        prepared(tmp_path / "a.json", tmp_path / "out")
    with pytest.raises(UserError, match="there is no file or folder"):
        read_source(tmp_path / "nowhere")
