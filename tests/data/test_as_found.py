"""Corpora as people have them: tables of other programs, leftovers of other systems, strange and broken images."""

import io
import json
import os
import struct
import warnings
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workbench.config.schema import Data, Settings
from workbench.data.corpus import load_corpus
from workbench.data.folder import find_pairs, read_images
from workbench.data.images import BrokenImage, decode
from workbench.data.prepare import prepare_source
from workbench.data.reading import Reading
from workbench.data.report import describe
from workbench.data.sources.detect import read_source
from workbench.data.store import Store
from workbench.errors import UserError
from workbench.training.prepare import refuse_large_batches

RED, BLUE = (200, 30, 30), (0, 0, 250)
MARK = "\ufeff"
CAPTION = 'a red; wide, "big" thing'


def image(path: Path, colour: tuple[int, ...] = RED) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 10), colour).save(path)
    return path


def store_of(reading: Reading, home: Path) -> Store:
    return prepare_source(reading, home, 16, "pad", 1, lambda *_: None)


def read(path: Path) -> list[tuple[str, tuple[str, ...], str]]:
    return [(pair.id, pair.captions, pair.split) for pair in read_source(path).found]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("captions.csv", 'file,caption\na.png,"a red; wide, ""big"" thing"\n'),
        ("captions.csv", 'file;caption\r\na.png;"a red; wide, ""big""\r\n thing"\r\n'),
        ("captions.csv", MARK + 'File ; Caption\na.png;"a red; wide, ""big"" thing"\n'),
        ("captions.csv", 'sep=;\nfile;caption\na.png;"a red; wide, ""big"" thing"\n'),
        ("captions.csv", 'number\tfile\tcaption\n1\ta.png\t"a red; wide, ""big"" thing"\n'),
        ("captions.tsv", MARK + 'file\tcaption\r\na.png\t"a red; wide, ""big"" thing"\r\n'),
        ("captions.tsv", 'file,caption\na.png,"a red; wide, ""big"" thing"\n'),
        ("captions.jsonl", MARK + json.dumps({"file": "a.png", "caption": CAPTION}) + "\r\n\r\n"),
        ("metadata.csv", 'file_name,text\na.png,"a red; wide, ""big"" thing"\n'),
        ("metadata.jsonl", json.dumps({"text": CAPTION, "file_name": "a.png"})),
        ("list.json", MARK + json.dumps([{"image": "a.png", "caption": CAPTION}])),
        ("a.txt", MARK + CAPTION + "\r\nmore"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_texts_of_other_programs_are_read(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    image(tmp_path / "a.png")
    (tmp_path / name).write_bytes(text.removeprefix(MARK if encoding == "utf-16" else "").encode(encoding))
    assert read(tmp_path) == [("a.png", (CAPTION,), "train")]


def test_hugging_faces_image_folder_has_a_folder_for_each_split(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        image(tmp_path / split / "0001.png")
        (tmp_path / split / "metadata.csv").write_text(f"file_name,text\n0001.png,of {split}\n")
    assert sorted(read(tmp_path)) == [
        ("test/0001.png", ("of test",), "test"),
        ("train/0001.png", ("of train",), "train"),
        ("validation/0001.png", ("of validation",), "val"),
    ]
    assert len(store_of(read_source(tmp_path), tmp_path / "out").pairs) == 3


def test_a_wrong_row_is_listed_and_the_others_go_on(tmp_path: Path) -> None:
    for name in ("a", "b", "007"):
        image(tmp_path / f"{name}.png")
    (tmp_path / "captions.csv").write_text("file,caption\na.png,one\nb.png,two, three\n,four\n007.png,007\nc.png,\n")
    reading = read_source(tmp_path)
    assert [(pair.id, pair.captions) for pair in reading.found] == [("a.png", ("one",)), ("007.png", ("007",))]
    told = dict(reading.broken)
    assert told["captions.csv, line 3"].startswith("it has 3 columns instead of 2; put captions")
    assert told["captions.csv: four"] == "it names no file"
    assert told["c.png"] == "it has no caption"
    (tmp_path / "captions.csv").unlink()
    lines = [
        '{"id": 1}',
        '{"file": "a.png", "caption": ["one", "two"]}',
        "{",
        "[1]",
        '{"file": "b.png", "caption": null}',
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    reading = read_source(tmp_path)
    assert [(pair.id, pair.captions) for pair in reading.found] == [("a.png", ("one", "two"))]
    assert [what for what, _ in reading.broken] == [
        "captions.jsonl: None",
        "captions.jsonl, line 3",
        "captions.jsonl, line 4",
        "b.png",
    ]


RAW = ['"Stop" says the sign', '6" pipe', '"6 pipe', '"Go"', '"a ""b"" c"', 'a "b"', "x"]
READ = ('"Stop" says the sign', '6" pipe', '"6 pipe', "Go", 'a "b" c', 'a "b"', "x")


@pytest.mark.parametrize("name", ["captions.tsv", "captions.csv"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_between_tabs_a_quote_may_be_text(tmp_path: Path, name: str, end: str) -> None:
    image(tmp_path / "a.png")
    (tmp_path / name).write_bytes(end.join(["file\tcaption", *(f"a.png\t{row}" for row in RAW), ""]).encode())
    assert read(tmp_path) == [("a.png", READ, "train")]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ('a.png\t"one\ttwo"\nb.png\tthree\n', {"a.png": "one two", "b.png": "three"}),
        ('a.png\t"one\ntwo"\nb.png\tthree\n', {"a.png": "one two", "b.png": "three"}),
        ('a.png\t"one\nb.png\ttwo"\n', {"a.png": '"one', "b.png": 'two"'}),
        ('a.png\t"one\nb.png\ttwo\nwrong\n', {"a.png": '"one', "b.png": "two"}),
        ('a.png\t"one\ntwo"\nwrong\nb.png\tthree\n', {"a.png": "one two", "b.png": "three"}),
    ],
)
def test_between_tabs_quotes_are_read_so_that_the_columns_agree(
    tmp_path: Path, rows: str, told: dict[str, str]
) -> None:
    (tmp_path / "captions.tsv").write_text(f"file\tcaption\n{rows}")
    reading = read_source(tmp_path)
    assert {pair.id: pair.captions[0] for pair in reading.found} == told
    assert len(reading.broken) == rows.count("wrong")


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("list.json", '[{"image": "a.png", "caption": "one"},\n {"image": "b.png", "cap', 2),
        ("list.json", '[{"image": "a.png", "caption": "one"},\n {"image": "b.png"', 2),
        ("captions_val.json", '{"images": [],\n"annotations": [\n', 2),
        ("captions.jsonl", '{"file": "a.png", "caption": "one"}\n{"file": "b.png", "capt', 2),
        ("captions.csv", 'file,caption\na.png,one\nb.png,"two\nand', 3),
        ("captions.csv", 'file,caption\na.png,"one"\nb.png,"two\n', 3),
        ("captions.csv", "file,caption\na.png,one\nb.p", 3),
        ("captions.tsv", "file\tcaption\na.png\tone\nb.p", 3),
        ("captions.txt", "image,caption\na.png,one\nb.p", 3),
        ("x.token", "a.png#0\tone\nb.png#", 2),
    ],
)
def test_a_file_that_is_cut_off_is_named_with_its_line(tmp_path: Path, name: str, text: str, line: int) -> None:
    (tmp_path / name).write_text(text)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(UserError) as caught:
            read_source(path)
        assert str(caught.value).startswith(f"{tmp_path / name}:{line}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl", "x.json", "x.parquet", "x.token"])
def test_a_file_that_may_not_be_read_is_one_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(tmp_path / name)  # nobody can read it, not even who may read everything
    with pytest.raises(UserError, match=rf"{name}: .*(read|no file)"):
        read_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("captions.csv", "file,caption\na.png,one\nb.png,caf\xe9\n".encode("latin-1"), "captions.csv:3: no UTF-8 text"),
        ("captions.csv", b'file,caption\na.png,"one\n' + b"b.png,two\n" * 20_000, "a quote may lack its end"),
        ("captions.csv", b"", "the column `file` is missing"),
        (
            "captions.csv",
            b"file,words\na.png,one\n",
            "the column `caption` is missing; `file` and `caption` are needed, and",
        ),
        ("captions.csv", b"file,caption\n", "holds no captioned images"),
        ("captions.csv", b"caption,file\na.png," + b"words " * 60 + b"\n", "is missing or cannot be read"),
        ("captions.jsonl", b"{\n", "not a readable jsonl file (captions.jsonl, line 1: "),
        ("x.json", b"[" * 100_000, "not readable as JSON"),
        ("x.json", b"[1, 2]", "neither COCO's"),
        ("x.json", b'{"images": [3]}', "an entry is not as published"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    if "caption,file" in data.decode("latin-1"):  # columns that are swapped: a caption is no file's name
        store = read_source(tmp_path)
        with pytest.raises(UserError, match="none of the 1 images can be read"):
            store_of(store, tmp_path / "out")
        return
    with pytest.raises(UserError) as caught:
        read_source(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_parquet_with_images_inside_is_named(tmp_path: Path) -> None:
    import polars as pl

    frame = pl.DataFrame({"image": [{"bytes": b"x", "path": None}], "text": ["one"]})
    frame.write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match="the column `image` holds binary data, not text"):
        read_source(tmp_path)


def test_what_macos_leaves_behind_is_no_image(tmp_path: Path) -> None:
    for name in ("a", "._a", "__MACOSX/a", "deep/b"):
        image(tmp_path / f"{name}.png").with_suffix(".txt").write_text("one")
    (tmp_path / ".DS_Store").write_bytes(b"\0\1")
    assert [id for id, _, _ in read(tmp_path)] == ["a.png", "deep/b.png"]
    (tmp_path / "captions.csv").write_text("file,caption\na.png,one\n")
    (tmp_path / "._captions.csv").write_bytes(b"\0\5\26\7")
    assert [id for id, _, _ in read(tmp_path)] == ["a.png"]


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    for folder in (home / "real", other):
        image(folder / "a.png").with_suffix(".txt").write_text("one")
    (home / "linked").symlink_to(other)
    (home / "again").symlink_to(home / "real")
    (home / "real" / "up").symlink_to(home)
    (other / "itself").symlink_to(other / "itself")
    (home / "gone").symlink_to(tmp_path / "nowhere")
    assert [id for id, _, _ in read(home)] == ["linked/a.png", "real/a.png"]


def test_names_that_are_no_text_are_listed(tmp_path: Path) -> None:
    image(tmp_path / "a.png").with_suffix(".txt").write_text("one")
    for suffix in ("png", "txt"):
        os.link(tmp_path / f"a.{suffix}", os.path.join(os.fsencode(tmp_path), b"caf\xe9." + suffix.encode()))
    reading = read_source(tmp_path)
    assert [pair.id for pair in reading.found] == ["a.png"]
    assert reading.broken == [("caf?.png", "its name is not UTF-8 text; rename it")]
    assert len(store_of(reading, tmp_path / "out").pairs) == 1
    (tmp_path / "x.json").write_text('[{"image": "a.png", "caption": "half a cat \\ud83d"}]')
    assert read(tmp_path / "x.json") == [("a.png", ("half a cat ?",), "train")]


def test_images_of_a_table_may_lie_elsewhere(tmp_path: Path) -> None:
    image(tmp_path / "other" / "a.png")
    image(tmp_path / "home" / "b.png")
    table = tmp_path / "home" / "captions.csv"
    table.write_text(f"file,caption\n../other/a.png,one\n{tmp_path}/other/a.png,two\nb.png,three\n")
    for source in (table.parent, table):
        assert [pair.caption for pair in find_pairs(source, "^b")] == ["one", "two"]


def corpus_of(folder: Path, cache: Path, captions: list[str]) -> str:
    for place, caption in enumerate(captions):
        image(folder / f"{place:03d}.png").with_suffix(".txt").write_text(caption)
    with pytest.raises(UserError) as caught:
        load_corpus(Data(source="folder", path=str(folder), image_size=16), cache)
    return str(caught.value)


def test_a_corpus_from_which_nothing_can_be_learned_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "none").mkdir()
    assert "holds no captioned images" in corpus_of(tmp_path / "none", cache, [])
    assert "needs at least 2, and of 1 pairs it has" in corpus_of(tmp_path / "one", cache, ["one"])
    told = corpus_of(tmp_path / "equal", cache, ["Same.", "same."] * 20)
    assert "all 40 captions of" in told
    assert "every negative would be a false negative" in told
    # Many pairs, but a split with one caption alone.
    assert "needs at least 2, and of 60 pairs it has" in corpus_of(tmp_path / "few", cache, ["cat", "dog", "cow"] * 20)


def test_equal_captions_of_a_prepared_corpus_are_told_and_refused(tmp_path: Path) -> None:
    for place in range(60):
        image(tmp_path / "in" / f"{place}.png").with_suffix(".txt").write_text("Same.")
    store = store_of(read_source(tmp_path / "in"), tmp_path / "data" / "same")
    assert "all captions are equal: every pair is a true one" in describe(store).text
    with pytest.raises(UserError, match=r"`data\.mix`: all 54 captions of same are equal"):
        load_corpus(Data(source="prepared", mix={"same": 1.0}, image_size=16), tmp_path / "cache")


def test_a_batch_that_no_epoch_fills_is_refused(tmp_path: Path) -> None:
    for place in range(60):
        image(tmp_path / "in" / f"{place}.png").with_suffix(".txt").write_text(f"number {place}")
    data = {"source": "folder", "path": str(tmp_path / "in"), "image_size": 16}
    corpus = load_corpus(Data.model_validate(data), tmp_path / "cache")
    pairs = len(corpus.train)

    def settings(**changes: object) -> Settings:
        return Settings.model_validate({"data": data, "optimisation": {"batch_size": pairs}} | changes)

    refuse_large_batches(settings(), corpus)
    with pytest.raises(
        UserError, match=f"`optimisation.batch_size` is {pairs + 1}, but an epoch of .* has {pairs} training"
    ):
        refuse_large_batches(settings(optimisation={"batch_size": pairs + 1}), corpus)
    with pytest.raises(UserError, match=r"`warm_start.batch_size` is 500"):
        refuse_large_batches(settings(warm_start={"batch_size": 500}), corpus)
    refuse_large_batches(settings(warm_start={"batch_size": 500, "steps": 0}), corpus)
    # Of a mix that shows next to nothing no batch can be made at all.
    rare = replace(corpus, train=replace(corpus.train, mixed=((pairs, 0.001),)))
    with pytest.raises(UserError, match="has 0 training"):
        refuse_large_batches(settings(), rare)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def halves() -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (40, 40), RED)
    image.paste(BLUE, (20, 0, 40, 40))
    return image


def corners(data: bytes) -> tuple[list[int], list[int]]:
    """The pixels near the top left and the bottom right."""
    pixels = decode(data, 16, "squash").astype(int)
    return pixels[:, 2, 2].tolist(), pixels[:, 13, 13].tolist()


FRAMES = [Image.new("RGB", (40, 40), colour) for colour in (RED, (0, 255, 0), BLUE)]


@pytest.mark.parametrize(
    "data",
    [
        saved(FRAMES[0].quantize(4), "GIF", save_all=True, append_images=[f.quantize(4) for f in FRAMES[1:]]),
        saved(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        saved(FRAMES[0], "PNG", save_all=True, append_images=FRAMES[1:]),
    ],
    ids=["gif", "webp", "apng"],
)
def test_of_what_moves_the_first_frame_is_taken(data: bytes) -> None:
    assert corners(data) == (list(RED), list(RED))


def test_pixels_of_every_kind_are_right() -> None:
    assert corners(saved(halves(), "WEBP", lossless=True)) == (list(RED), list(BLUE))
    assert corners(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95)) == ([255, 0, 0],) * 2
    assert corners(saved(Image.new("CMYK", (16, 16), (0, 0, 0, 255)), "JPEG", quality=95)) == ([0, 0, 0],) * 2
    deep = np.zeros((40, 40), np.uint16)
    deep[:, 20:], deep[:, :20] = 0xFFFF, 0x4000
    assert corners(saved(Image.fromarray(deep), "PNG")) == ([64] * 3, [255] * 3)
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0] * 256)
    half = saved(palette, "PNG", transparency=bytes([0, 128] + [255] * 254))
    assert corners(half) == ([127] * 3, [127] * 3)  # black, half of which lets the white through


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_put_upright(form: str, orientation: int) -> None:
    """As stored an image is the upright one turned the other way; four quarters tell all eight apart."""
    upright = Image.new("RGB", (40, 40), RED)
    for colour, box in (((0, 200, 0), (20, 0, 40, 20)), (BLUE, (0, 20, 20, 40)), ((200, 200, 0), (20, 20, 40, 40))):
        upright.paste(colour, box)
    turn = Image.Transpose
    undone = [None, turn.FLIP_LEFT_RIGHT, turn.ROTATE_180, turn.FLIP_TOP_BOTTOM, turn.TRANSPOSE]
    undone += [turn.ROTATE_90, turn.TRANSVERSE, turn.ROTATE_270]
    turned = undone[orientation - 1]
    stored = upright if turned is None else upright.transpose(turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = decode(saved(stored, form, exif=exif, quality=95), 40, "squash").astype(int)
    assert np.abs(made - np.asarray(upright).transpose(2, 0, 1))[:, 5::10, 5::10].max() < 12


def tagged(*entries: tuple[int, int, int, bytes]) -> bytes:
    """The two halves as a JPEG with these EXIF entries (tag, type, count, value)."""
    body = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHI4s", *entry) for entry in entries) + bytes(4)
    data = saved(halves(), "JPEG", quality=95)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def with_chunk(name: bytes, data: bytes) -> bytes:
    """The two halves as a PNG with one chunk more."""
    whole = saved(halves(), "PNG")
    return (
        whole[:33]
        + struct.pack(">I", len(data))
        + name
        + data
        + struct.pack(">I", zlib.crc32(name + data))
        + whole[33:]
    )


def bare_png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (head, b"IDAT" + zlib.compress(bytes(50)), b"IEND")
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    "data",
    [
        tagged((0x0112, 3, 1, b"\1\0\0\0"), (0x011A, 2, 4, b"abc\0"), (0x0128, 2, 4, b"xyz\0")),
        tagged((0x0112, 2, 2, b"6\0\0\0")),
        tagged((0x0112, 3, 1, b"\x63\0\0\0")),
        tagged((0x0112, 99, 2**31, b"\6\0\1\0")),
        with_chunk(b"eXIf", b"garbage"),
        with_chunk(b"tIME", b""),
        saved(halves(), "PNG", icc_profile=b"garbage" * 9),
        saved(halves(), "JPEG", icc_profile=b"garbage" * 9, quality=95),
    ],
)
def test_wrong_words_about_an_image_do_not_spoil_it(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = decode(data, 16, "squash").astype(int)
    pixels = sorted(made[:, place, place].tolist() for place in (2, 13))
    assert np.abs(np.array(pixels) - sorted([[*RED], [*BLUE]])).max() < 12


def test_a_resolution_of_a_wrong_kind_beside_a_turn(tmp_path: Path) -> None:
    """PIL writes the whole EXIF anew when it turns an image, and fails at what it could not have read."""
    data = tagged((0x0112, 3, 1, b"\6\0\0\0"), (0x011A, 2, 4, b"abc\0"))
    pixels = decode(data, 16, "squash").astype(int)
    assert np.abs(pixels[:, 2, 2] - RED).max() < 12
    assert np.abs(pixels[:, 13, 2] - BLUE).max() < 12


BROKEN = {
    "text": with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(5_000_000))),
    "bomb": bare_png(50_000, 50_000),
    "huge": bare_png(2**31 - 1, 2**31 - 1),
    "none": bare_png(0, 5),
    "short": bare_png(40, 40),
    "cut": saved(halves(), "JPEG")[:-60],
    "empty": b"",
}


def test_broken_images_are_listed_and_the_others_go_on(tmp_path: Path) -> None:
    for name, data in BROKEN.items():
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.png").write_bytes(data)
        (tmp_path / "in" / f"{name}.txt").write_text("broken")
    image(tmp_path / "in" / "whole.png").with_suffix(".txt").write_text("whole")
    store = store_of(read_source(tmp_path / "in"), tmp_path / "out")
    assert store.pairs["id"].to_list() == ["whole.png"]
    told = dict(store.broken.iter_rows())
    assert told.keys() == {f"{name}.png" for name in BROKEN}
    # Nothing of the single image, so that they can be counted by reason.
    assert not any("0x" in why or str(tmp_path) in why or "\n" in why for why in told.values())
    (said,) = read_images([tmp_path / "in" / "bomb.png"], np.zeros((1, 3, 16, 16), np.uint8)).values()
    assert said.startswith(f"{tmp_path / 'in' / 'bomb.png'}: the image cannot be read (Image size ")


@pytest.mark.parametrize(
    "error", [TypeError("bad operand"), KeyError(3), struct.error("x"), MemoryError(), RecursionError()]
)
def test_whatever_a_decoder_raises_is_one_broken_image(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(BrokenImage, match="the image cannot be read"):
        decode(saved(halves(), "PNG"), 16)


def test_damaged_bytes_give_an_image_or_a_reason() -> None:
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    forms = [
        saved(halves(), "JPEG", exif=exif),
        saved(halves(), "PNG"),
        saved(halves(), "WEBP"),
        saved(halves(), "BMP"),
    ]
    for data in (*forms, saved(halves().quantize(4), "GIF")):
        for _ in range(100):
            damaged = bytearray(data)
            for place in random.integers(0, min(len(data), int(random.choice([40, 200, 100_000]))), 3):
                damaged[place] = int(random.integers(256))
            with suppress(BrokenImage):
                assert decode(bytes(damaged), 8).shape == (3, 8, 8)


def test_a_folder_by_each_of_its_names_is_the_same_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(40):
        image(tmp_path / "in" / f"{place}.png").with_suffix(".txt").write_text(f"number {place}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    made = {
        load_corpus(Data(source="folder", path=name, image_size=16), tmp_path / "cache").fingerprint
        for name in ("in", "~/in", str(tmp_path / "in"))
    }
    assert len(made) == 1
