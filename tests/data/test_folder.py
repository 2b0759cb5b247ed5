from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from workbench.config.schema import Data
from workbench.data import cache
from workbench.data.corpus import load_corpus
from workbench.data.folder import find_pairs
from workbench.data.images import decode
from workbench.errors import UserError
from workbench.workspace import to_stderr


def image(path: Path, colour: tuple[int, ...] = (200, 30, 30, 255), size: tuple[int, int] = (40, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index in range(40):
        image(tmp_path / "deep" / f"p{index:02d}.png")
        (tmp_path / "deep" / f"p{index:02d}.txt").write_text(f"A picture of thing {index % 20}.\nde.utf8=Ding\n")
    return tmp_path


def test_the_first_line_beside_an_image_is_its_caption(folder: Path) -> None:
    image(folder / "alone.png")
    (folder / "empty.png").write_bytes((folder / "alone.png").read_bytes())
    (folder / "empty.txt").write_text("")
    pairs = find_pairs(folder)
    assert len(pairs) == 40
    assert pairs[3].caption == "A picture of thing 3."


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_names_files_and_captions(tmp_path: Path, form: str) -> None:
    image(tmp_path / "a.png")
    text = (
        'file,caption\na.png,"a red, wide thing"\n'
        if form == "csv"
        else '{"file": "a.png", "caption": "a red, wide thing"}\n'
    )
    (tmp_path / f"captions.{form}").write_text(text)
    assert [(p.image.name, p.caption) for p in find_pairs(tmp_path)] == [("a.png", "a red, wide thing")]


def test_an_image_is_kept_whole_on_white(tmp_path: Path) -> None:
    image(tmp_path / "wide.png", (200, 30, 30, 255))
    pixels = decode(tmp_path / "wide.png", 32)
    assert pixels.shape == (3, 32, 32)
    assert (pixels[:, 0, 0] == 255).all()
    assert np.abs(pixels[:, 16, 16].astype(int) - [200, 30, 30]).max() <= 2
    image(tmp_path / "clear.png", (200, 30, 30, 0))
    assert (decode(tmp_path / "clear.png", 32) == 255).all()


def test_mistakes_are_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="there is no file or folder"):
        find_pairs(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError, match="no captioned images"):
        find_pairs(tmp_path / "bare")
    (tmp_path / "bare" / "captions.csv").write_text("name,caption\na,b\n")
    with pytest.raises(UserError, match="column `file` is missing"):
        find_pairs(tmp_path / "bare")
    with pytest.raises(UserError, match="not a regular expression"):
        find_pairs(folder, "(")


def test_broken_images_are_left_out_and_the_others_go_on(folder: Path, tmp_path: Path) -> None:
    data = Data(source="folder", path=str(folder), image_size=32)
    whole = load_corpus(data, tmp_path / "before")
    broken = [folder / "deep" / f"p{index:02d}.png" for index in (3, 14, 25)]
    for path in broken:
        path.write_bytes(b"\x89PNG no picture")
    image(folder / "deep" / "p30.png", (0, 0, 250), (32, 32))
    told: list[str] = []
    cache.hear(told.append)
    try:
        corpus = load_corpus(data, tmp_path / "after")
        load_corpus(data, tmp_path / "after")
    finally:
        cache.hear(to_stderr)
    (said,) = told
    assert said.startswith("`data.path`: 3 of 40 images are unreadable, left out: ")
    home = tmp_path / "after" / corpus.fingerprint
    listed = pl.read_parquet(home / "broken.parquet")["why"].to_list()
    for path in broken:
        assert f"{path}: the image cannot be read (" in said
        assert [reason for reason in listed if reason.startswith(f"{path}: ")]
    blue: list[str] = []
    gone = {f"A picture of thing {index % 20}." for index in (3, 14, 25)}
    for before, after in ((whole.train, corpus.train), (whole.val, corpus.val), (whole.test, corpus.test)):
        captions, left = before.captions["caption"].to_list(), after.captions["caption"].to_list()
        assert len(after) == len(after.images) == len(left)
        # Each of the captions stands beside two images.
        assert sorted(captions) == sorted(left + [caption for caption in gone if caption in captions])
        assert isinstance(after.images, np.ndarray)
        blue += [caption for caption, seen in zip(left, after.images, strict=True) if seen[2].mean() > seen[0].mean()]
    assert blue == ["A picture of thing 10."]  # each image still has its own caption
    arrays, tables = ({f"{split}.{form}" for split in ("train", "val", "test")} for form in ("npy", "parquet"))
    assert {path.name for path in home.iterdir()} == arrays | tables | {"broken.parquet", "tokeniser.json"}


def test_where_too_few_images_are_whole_they_are_named(folder: Path, tmp_path: Path) -> None:
    data = Data(source="folder", path=str(folder), image_size=32)
    for path in (folder / "deep").glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"too few different captions.*Left out are .*; and \d+ more\."):
        load_corpus(data, tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix not in (".lock", ".part")]


def test_equal_captions_never_stand_on_both_sides_of_a_split(folder: Path, tmp_path: Path) -> None:
    corpus = load_corpus(Data(source="folder", path=str(folder), image_size=32), tmp_path / "cache")
    splits = [set(pairs.captions["caption"]) for pairs in (corpus.train, corpus.val, corpus.test)]
    assert sum(len(pairs) for pairs in (corpus.train, corpus.val, corpus.test)) == 40
    assert all(splits)
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]
