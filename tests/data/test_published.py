"""Miniatures of the published forms, with the real files' oddities."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

from workbench.cli.options import app
from workbench.data import prepare as prepare_module
from workbench.data.images import BrokenImage, decode
from workbench.data.prepare import prepare_source
from workbench.data.report import describe
from workbench.data.sources.detect import read_source
from workbench.data.store import Images, Store, open_store
from workbench.errors import UserError

RED = (200, 30, 30)
LONG = "word " * 400
RIGHT_TO_LEFT = "قطة حمراء 🐈 fun"


def jpeg(path: Path, size: tuple[int, int] = (60, 40), mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, RED).convert(mode).save(path, "JPEG", **options)
    return path


def prepared(path: Path, home: Path, **options: Any) -> Store:
    reading = read_source(path, **options)
    return prepare_source(reading, home, 32, "crop", 1, lambda *_: None)


def captions(store: Store) -> dict[str, tuple[str, list[str]]]:
    return {id: (split, list(texts)) for id, split, texts in store.pairs.select("id", "split", "captions").iter_rows()}


def reasons(store: Store) -> dict[str, str]:
    return dict(store.broken.iter_rows())


def test_coco_of_both_years(tmp_path: Path) -> None:
    for year, split, id in (("train2014", "train", 9), ("val2017", "val", 25)):
        name = f"COCO_{year}_{id:012d}.jpg" if "2014" in year else f"{id:012d}.jpg"
        jpeg(tmp_path / year / name)
        content = {
            "info": {},
            "images": [
                {"id": id, "file_name": name, "height": 40, "width": 60},
                {"id": id + 1, "file_name": f"gone{id}.jpg"},
                {"id": id + 2, "file_name": name},
                {"id": id, "file_name": name},
            ],
            "annotations": [
                {"image_id": id, "id": 1, "caption": "A  red\nwall. "},
                {"image_id": id, "id": 2, "caption": "A red wall."},
                {"image_id": id, "id": 3, "caption": ""},
                {"image_id": id, "id": 3, "caption": f"{split} wall"},
                {"image_id": id + 1, "id": 4, "caption": "Nobody has it"},
                {"image_id": 777, "id": 5, "caption": "No image"},
            ],
        }
        file = tmp_path / "annotations" / f"captions_{year}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
    store = prepared(tmp_path, tmp_path / "out")
    assert captions(store) == {
        "9": ("train", ["A red wall.", "train wall"]),
        "25": ("val", ["A red wall.", "val wall"]),
    }
    why = store.broken.sort("what").rows()
    assert ("10", "the image is missing") in why
    assert ("11", "it has no caption") in why
    assert ("777", "its captions belong to no image of the file") in why
    # Its second entry has lost its captions to the first one, so it cannot be taken twice.
    assert ("9", "it has no caption") in why


@pytest.mark.parametrize("name", ["dataset_coco.json", "dataset_flickr30k.json"])
def test_karpathy_counts_restval_as_train(tmp_path: Path, name: str) -> None:
    folder = "val2014" if "coco" in name else ""
    entries = []
    for place, split in enumerate(("train", "restval", "val", "test", "other")):
        jpeg(tmp_path / "images" / folder / f"{place}.jpg")
        entry = {"filename": f"{place}.jpg", "imgid": place, "split": split} | ({"filepath": folder} if folder else {})
        entry["sentences"] = [{"raw": f"A {split} image.", "tokens": []}, {"raw": RIGHT_TO_LEFT, "tokens": []}]
        entries.append(entry)
    (tmp_path / name).write_text(json.dumps({"dataset": "x", "images": entries}))
    store = prepared(tmp_path / name, tmp_path / "out", images=[tmp_path / "images"])
    assert [split for split, _ in captions(store).values()] == ["train", "train", "val", "test"]
    assert captions(store)["1"][1] == ["A restval image.", RIGHT_TO_LEFT]
    assert "its split `other` is unknown" in reasons(store).values()


def test_visual_genome_whole_and_cut_into_regions(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 40), RED)
    image.paste((20, 20, 220), (30, 0, 60, 40))
    (tmp_path / "VG_100K_2").mkdir()
    image.save(tmp_path / "VG_100K_2" / "7.jpg", quality=95)
    regions = [
        {"region_id": 1, "image_id": 7, "phrase": "a red half", "x": 0, "y": 0, "width": 30, "height": 40},
        {"region_id": 2, "image_id": 7, "phrase": "a blue half", "x": 32, "y": 0, "width": 300, "height": 400},
        {"region_id": 3, "image_id": 7, "phrase": "nowhere", "x": 90, "y": 0, "width": 3, "height": 4},
    ]
    (tmp_path / "region_descriptions.json").write_text(json.dumps([{"id": 7, "regions": regions}]))
    whole = prepared(tmp_path, tmp_path / "whole")
    assert captions(whole) == {"7": ("train", ["a red half", "a blue half", "nowhere"])}
    cut = prepared(tmp_path, tmp_path / "cut", regions="crop")
    assert captions(cut) == {"7-1": ("train", ["a red half"]), "7-2": ("train", ["a blue half"])}
    assert reasons(cut) == {"7-3": "the region is outside of the image"}
    red, blue = Images([cut], [np.arange(2)], 32)[np.arange(2)][:, :, 16, 16].astype(int)
    assert np.abs(red - RED).max() < 12
    assert np.abs(blue - (20, 20, 220)).max() < 12


def test_albefs_lists(tmp_path: Path) -> None:
    jpeg(tmp_path / "a" / "1.jpg")
    jpeg(tmp_path / "a" / "2.jpg")
    entries = [
        {"image": "a/1.jpg", "caption": "one"},
        {"image": "a/2.jpg", "caption": ["two", "deux"]},
        {"image": "a/1.jpg", "caption": "eins"},
    ]
    (tmp_path / "sbu.json").write_text(json.dumps(entries))
    store = prepared(tmp_path / "sbu.json", tmp_path / "out")
    assert captions(store) == {"a/1.jpg": ("train", ["one", "eins"]), "a/2.jpg": ("train", ["two", "deux"])}


def found_at(path: Path, **options: Any) -> dict[str, Path]:
    return {each.id: each.place.path for each in read_source(path, **options).found}


def test_paths_of_the_authors_machine_are_matched_by_their_end(tmp_path: Path) -> None:
    """As in ALBEF's list of pairs: one list, images of two corpora."""
    there = [jpeg(tmp_path / "coco" / folder / "7.jpg") for folder in ("train2014", "val2014")]
    there.append(jpeg(tmp_path / "vg" / "VG_100K_2" / "8.jpg"))
    names = ["/export/them/coco/images/train2014/7.jpg", "/export/them/coco/images/val2014/7.jpg"]
    names += ["/export/them/visual-genome/image/8.jpg", "/export/them/visual-genome/image/9.jpg"]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps([{"image": name, "caption": f"of {name}"} for name in names]))
    roots = [tmp_path / "coco", tmp_path / "vg"]
    expected = dict(zip(names, [*there, Path(names[3])], strict=True))
    assert found_at(file, images=roots) == expected
    store = prepared(file, tmp_path / "out", images=roots)
    assert store.pairs["id"].to_list() == names[:3]
    assert reasons(store) == {names[3]: "the image is missing"}
    with pytest.raises(UserError, match="--images: there is no folder"):
        read_source(file, [tmp_path / "coco", tmp_path / "nowhere"])


def test_the_command_takes_several_folders_of_images(tmp_path: Path) -> None:
    jpeg(tmp_path / "coco" / "1.jpg")
    jpeg(tmp_path / "vg" / "2.jpg")
    entries = [{"image": f"/export/them/{k}.jpg", "caption": "twice"} for k in (1, 2, 2)]
    (tmp_path / "pairs.json").write_text(json.dumps(entries))
    folders = [option for name in ("coco", "vg") for option in ("--images", str(tmp_path / name))]
    given = ["--from", str(tmp_path / "pairs.json"), *folders, "--workspace", str(tmp_path / "w"), "--side", "16"]
    ended = CliRunner().invoke(app, ["data", "prepare", "both", *given, "--workers", "1", "--json"])
    assert ended.exit_code == 0, ended.output
    told = json.loads(ended.stdout)
    assert (told["pictures"], told["left_out"], told["repeated_captions"]) == (2, 0, 1)


def test_paths_of_the_authors_machine_are_found_beside_the_list(tmp_path: Path) -> None:
    there = jpeg(tmp_path / "images" / "train2014" / "7.jpg")
    (tmp_path / "pairs.json").write_text('[{"image": "/export/them/images/train2014/7.jpg", "caption": "one"}]')
    assert list(found_at(tmp_path).values()) == [there]


def test_a_missing_image_is_not_replaced_by_another_of_its_name(tmp_path: Path) -> None:
    jpeg(tmp_path / "a" / "1.jpg")
    jpeg(tmp_path / "old" / "2.jpg")
    (tmp_path / "captions.csv").write_text("file,caption\na/1.jpg,one\na/2.jpg,two\n")
    store = prepared(tmp_path, tmp_path / "out")
    assert captions(store) == {"a/1.jpg": ("train", ["one"])}
    assert reasons(store) == {"a/2.jpg": "the image is missing"}


def test_an_image_is_that_of_one_name_alone(tmp_path: Path) -> None:
    """Numbered files, of which each folder has the same: what one folder lacks is not taken from another."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "deep/c/3.jpg"):
        jpeg(tmp_path / "root" / name)

    def there(*names: str) -> list[str]:
        (tmp_path / "list.json").write_text(json.dumps([{"image": name, "caption": "x"} for name in names]))
        made = found_at(tmp_path / "list.json", images=[tmp_path / "root"])
        return [str(path.relative_to(tmp_path / "root")) if path.exists() else "" for path in made.values()]

    assert there("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg") == ["a/1.jpg", "a/2.jpg", "b/1.jpg", ""]
    assert there("/x/a/2.jpg", "/x/b/2.jpg") == ["a/2.jpg", ""]
    assert there("a/2.jpg", "/x/other/2.jpg") == ["a/2.jpg", ""]
    assert there("/x/3.jpg", "/y/3.jpg") == ["", ""]  # either may be meant
    assert there("/x/3.jpg") == ["deep/c/3.jpg"]


@pytest.mark.parametrize("file", ["region_descriptions.json", "annotations/region_descriptions.json"])
@pytest.mark.parametrize("given", [False, True])
def test_visual_genome_as_meter_lays_it_out(tmp_path: Path, file: str, given: bool) -> None:
    there = [jpeg(tmp_path / "images" / "VG_100K" / "1.jpg"), jpeg(tmp_path / "images" / "VG_100K_2" / "2.jpg")]
    regions = [{"id": id, "regions": [{"region_id": id, "phrase": f"part of {id}"}]} for id in (1, 2)]
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(json.dumps(regions))
    made = found_at(tmp_path / file, images=[tmp_path]) if given else found_at(tmp_path)
    assert made == {"1": there[0], "2": there[1]}


def test_visual_genomes_two_folders_may_be_given_each(tmp_path: Path) -> None:
    there = [jpeg(tmp_path / "one" / "1.jpg"), jpeg(tmp_path / "two" / "2.jpg")]
    regions = [{"id": id, "regions": [{"region_id": id, "phrase": f"part of {id}"}]} for id in (1, 2)]
    (tmp_path / "region_descriptions.json").write_text(json.dumps(regions))
    made = found_at(tmp_path / "region_descriptions.json", images=[tmp_path / "one", tmp_path / "two"])
    assert list(made.values()) == there


def test_karpathys_splits_in_a_folder_beside_the_images(tmp_path: Path) -> None:
    there = [jpeg(tmp_path / "train2014" / "1.jpg"), jpeg(tmp_path / "val2014" / "2.jpg")]
    images = [
        {"filename": path.name, "filepath": path.parent.name, "split": "train", "sentences": [{"raw": "one"}]}
        for path in there
    ]
    (tmp_path / "karpathy").mkdir()
    (tmp_path / "karpathy" / "dataset_coco.json").write_text(json.dumps({"images": images}))
    assert list(found_at(tmp_path).values()) == there


FLICKR = {
    "results_20130124.token": "".join(f"{k}.jpg#{n}\tNumber {n}, of {k}\n" for k in (1, 2) for n in range(5)),
    "Flickr8k.token.txt": "".join(f"{k}.jpg#{n}\tNumber {n}, of {k}\n" for k in (1, 2) for n in range(5)),
    "captions.txt": "image,caption\n" + "".join(f"{k}.jpg,Number {n}, of {k}\n" for k in (1, 2) for n in range(5)),
    "results.csv": "image_name| comment_number| comment\n"
    + "".join(f"{k}.jpg| {n}| Number {n}, of {k}\n" for k in (1, 2) for n in range(5)),
}
FLICKR_QUOTED = "image,caption\n" + "".join(f'{k}.jpg,"Number {n}, of {k}"\n' for k in (1, 2) for n in range(5))


@pytest.mark.parametrize(("name", "text"), [*FLICKR.items(), ("captions.txt", FLICKR_QUOTED)])
@pytest.mark.parametrize("images", [".", "Images", "flickr30k-images", "Flicker8k_Dataset", "some/where"])
def test_flickr_has_five_captions_an_image(tmp_path: Path, name: str, text: str, images: str) -> None:
    there = [jpeg(tmp_path / images / f"{k}.jpg") for k in (1, 2)]
    (tmp_path / name).write_text(text)
    (tmp_path / "Flickr8k.lemma.token.txt").write_text("1.jpg#0\tnumber be\n")  # the same captions, their words reduced
    for path in (tmp_path, tmp_path / name):
        found = read_source(path).found
        assert [each.id for each in found] == ["1.jpg", "2.jpg"]
        assert [each.captions for each in found] == [tuple(f"Number {n}, of {k}" for n in range(5)) for k in (1, 2)]
        assert [each.place.path for each in found] == there


def test_flickrs_row_without_a_separator_is_read(tmp_path: Path) -> None:
    jpeg(tmp_path / "1.jpg")
    rows = FLICKR["results.csv"].replace("1.jpg| 4| Number 4, of 1", "1.jpg| 4   A horse trots over the sand .")
    (tmp_path / "results.csv").write_text(rows + '3.jpg| 0| 4 dogs "at" play | run\n4.jpg\n')
    reading = read_source(tmp_path)
    assert reading.found[0].captions[4] == "A horse trots over the sand ."
    assert reading.found[2].captions == ('4 dogs "at" play | run',)
    assert [what for what, _ in reading.broken] == ["results.csv, line 13"]


def test_captions_with_quotes_of_their_own_in_flickrs_text(tmp_path: Path) -> None:
    jpeg(tmp_path / "1.jpg")
    rows = ['"Stop", says the sign', '"a dog, a ""cat"""', 'a 6" pipe, wet', "plain"]
    (tmp_path / "captions.txt").write_text("image,caption\n" + "".join(f"1.jpg,{row}\n" for row in rows))
    (found,) = read_source(tmp_path).found
    assert found.captions == ('"Stop", says the sign', 'a dog, a "cat"', 'a 6" pipe, wet', "plain")


def test_a_text_that_only_has_a_name_of_flickrs_is_the_caption_of_an_image(tmp_path: Path) -> None:
    for name in ("captions", "b"):
        jpeg(tmp_path / f"{name}.jpg").with_suffix(".txt").write_text(f"of {name}")
    (tmp_path / "results.csv").write_text("step,loss\n1,2\n")
    assert list(found_at(tmp_path)) == ["b.jpg", "captions.jpg"]


def downloaded(home: Path, shard: str, tar: bool = False) -> None:
    """Two images and two failures as img2dataset leaves them."""
    rows = []
    members = []
    image = jpeg(home / "p.tmp").read_bytes()
    for place, error in enumerate((None, "HTTP Error 404: Not Found", None, None)):
        key = f"{shard}{place:04d}"
        status = "failed_to_download" if error else "failed_to_resize" if place == 3 else "success"
        record: dict[str, Any] = {"url": "https://some.where/x", "caption": f"of {key}", "key": key, "status": status}
        record |= {"error_message": error, "width": 60}
        rows.append(record)
        if status == "success":
            told = json.dumps(record).encode()
            members += [(f"{key}.jpg", image), (f"{key}.txt", f"of {key}".encode()), (f"{key}.json", told)]
    (home / "p.tmp").unlink()
    pl.DataFrame(rows).write_parquet(home / f"{shard}.parquet")
    (home / f"{shard}_stats.json").write_text(json.dumps({"count": 4, "successes": 2, "status_dict": {"success": 2}}))
    if tar:
        tar_of(home / f"{shard}.tar", members)
    for name, content in [] if tar else members:
        (home / shard).mkdir(exist_ok=True)
        (home / shard / name).write_bytes(content)


def test_img2datasets_files_are_a_folder(tmp_path: Path) -> None:
    for shard in ("00000", "00001"):
        downloaded(tmp_path, shard)
    (tmp_path / "00001" / "000010009.json").write_text('{"status": "failed_to_download", "error_message": "timed out"}')
    store = prepared(tmp_path, tmp_path / "out")
    assert store.facts["form"] == "folder"
    assert captions(store) == {
        f"{shard}/{shard}{place:04d}.jpg": ("train", [f"of {shard}{place:04d}"])
        for shard in ("00000", "00001")
        for place in (0, 2)
    }
    failures = {"0001": "it has no image (HTTP Error 404: Not Found)", "0003": "it has no image (failed_to_resize)"}
    told = {f"{shard}/{shard}{key}": why for shard in ("00000", "00001") for key, why in failures.items()}
    assert reasons(store) == told | {"00001/000010009": "it has no image (timed out)"}
    # A shard alone, which has a record beside each image.
    assert list(found_at(tmp_path / "00000")) == ["000000000.jpg", "000000002.jpg"]
    with pytest.raises(UserError, match=r"00000\.parquet: img2dataset's record .* names no files; use the folder"):
        read_source(tmp_path / "00000.parquet")


def test_img2datasets_tars_have_their_failures_beside(tmp_path: Path) -> None:
    downloaded(tmp_path, "00000", tar=True)
    reading = read_source(tmp_path)
    assert [each.id for each in reading.found] == ["00000/000000000", "00000/000000002"]
    assert dict(reading.broken) == {
        "00000/000000001": "it has no image (HTTP Error 404: Not Found)",
        "00000/000000003": "it has no image (failed_to_resize)",
    }


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
    assert (reading.form, [each.id for each in reading.found], reading.broken) == ("folder", ["a.jpg"], [])
    (tmp_path / "notes.json").write_text('[{"image": "a.jpg", "capt')
    ((what, why),) = read_source(tmp_path).broken
    assert what == "notes.json"
    assert f"{tmp_path}/notes.json:1: not readable as JSON" in why
    (tmp_path / "list.json").write_text('[{"image": "a.jpg", "caption": "of the list"}]')
    # Beside annotations that are whole, broken ones would be missed.
    with pytest.raises(UserError, match=r"notes\.json:1: not readable as JSON"):
        read_source(tmp_path)
    (tmp_path / "notes.json").unlink()
    assert [each.captions for each in read_source(tmp_path).found] == [("of the list",)]


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
    {
        "csv": frame.write_csv,
        "tsv": lambda to: frame.write_csv(to, separator="\t"),
        "jsonl": frame.write_ndjson,
        "parquet": frame.write_parquet,
    }[form](path)
    assert captions(prepared(path, tmp_path / "out")) == {"1.jpg": ("val", ["one, a", "two"])}


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_img2dataset_tars_cut_in_half_and_climbing_out(tmp_path: Path) -> None:
    image = jpeg(tmp_path / "p.jpg", (400, 300), quality=95).read_bytes()
    failed = {"status": "failed_to_download", "error_message": "HTTP Error 404", "caption": "gone"}
    whole = [
        ("000000.jpg", image),
        ("000000.txt", b"from text"),
        ("000000.json", json.dumps({"caption": "from json", "status": "success"}).encode()),
        ("000001.webp", image),
        ("000001.json", json.dumps({"caption": "from json"}).encode()),
        ("000002.json", json.dumps(failed).encode()),
        ("../../escape.jpg", image),
        ("/etc/escape.jpg", image),
        ("000003.png", b"no picture"),
        ("000003.txt", RIGHT_TO_LEFT.encode()),
        ("000004.jpg", image),
        ("000004.txt", b"\xff\xfe bytes"),
    ]
    tar_of(tmp_path / "00000.tar", whole)
    tar_of(tmp_path / "00001.tar", [("000000.jpg", image), ("000000.txt", b"kept"), ("000001.jpg", image)])
    cut = (tmp_path / "00001.tar").read_bytes()
    (tmp_path / "00001.tar").write_bytes(cut[: 512 + -(-len(image) // 512) * 512 + 1024 + 512 + 100])
    (tmp_path / "00002.tar").write_bytes(b"not a tar at all" * 100)
    store = prepared(tmp_path, tmp_path / "out")
    assert captions(store) == {
        "00000/000000": ("train", ["from text"]),
        "00000/000001": ("train", ["from json"]),
        "00000/000004": ("train", ["\ufffd\ufffd bytes"]),
        "00001/000000": ("train", ["kept"]),
    }
    why = reasons(store)
    assert why["00000/000002"] == "it has no image (HTTP Error 404)"
    assert (
        why["00000.tar: ../../escape.jpg"]
        == why["00000.tar: /etc/escape.jpg"]
        == "its name points outside of the archive"
    )
    assert why["00000/000003"].startswith("the image cannot be read")
    assert why["00001.tar: 000001.jpg"] == "the archive is cut short within it"
    assert why["00002.tar"].startswith("the rest of the archive cannot be read")
    assert not list(tmp_path.rglob("escape*"))


def png(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()


def middle(data: bytes, **options: Any) -> list[int]:
    return decode(data, 16, **options)[:, 8, 8].astype(int).tolist()


def test_every_kind_of_pixel_becomes_upright_rgb(tmp_path: Path) -> None:
    assert middle(png(Image.new("L", (9, 9), 77))) == [77] * 3
    assert middle(png(Image.new("1", (9, 9), 1))) == [255] * 3
    assert middle(png(Image.new("RGB", (9, 9), RED).quantize(4))) == list(RED)
    deep = Image.fromarray(np.full((9, 9), 128 * 257, dtype=np.uint16))
    assert middle(png(deep)) == [128] * 3
    clear = Image.new("P", (9, 9), 3)
    clear.putpalette([0, 0, 0] * 256)
    assert middle(png(clear, transparency=3)) == [255] * 3
    assert middle(png(Image.new("LA", (9, 9), (10, 0)))) == [255] * 3
    inked = jpeg(tmp_path / "cmyk.jpg", mode="CMYK", quality=95).read_bytes()
    assert np.abs(np.array(middle(inked)) - RED).max() < 12
    sideways = Image.new("RGB", (40, 20), RED)
    sideways.paste((0, 0, 250), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: what is stored left belongs on top
    sideways.save(tmp_path / "exif.jpg", exif=exif, quality=95)
    turned = decode(tmp_path / "exif.jpg", 32, "squash")
    assert turned[2, 4, 16] > 200 > 60 > turned[2, 28, 16]


def test_a_truncated_jpeg_is_named_and_not_half_read(tmp_path: Path) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8))
    noise.save(tmp_path / "a.jpg")
    data = (tmp_path / "a.jpg").read_bytes()
    with pytest.raises(BrokenImage, match="truncated"):
        decode(data[: len(data) // 2], 32)
    with pytest.raises(BrokenImage, match="cannot be read"):
        decode(b"", 32)


def test_the_three_fits() -> None:
    wide = Image.new("RGB", (60, 20), RED)
    wide.paste((0, 0, 250), (0, 0, 10, 20))
    data = png(wide)
    cropped, squashed, padded = (decode(data, 30, fit) for fit in ("crop", "squash", "pad"))
    assert (cropped[2] < 60).all()  # the blue edge is cut away
    assert squashed[2, 15, 2] > 200
    assert (padded[:, 2, 15] == 255).all()


def test_a_folder_with_captions_beside_and_the_report_of_it(tmp_path: Path) -> None:
    source = tmp_path / "in"
    for place in range(5):
        jpeg(source / f"{place}.jpg")
        (source / f"{place}.txt").write_text(LONG if place == 3 else f"number {place}\nsecond line")
    (source / "4.jpg").write_bytes(b"broken")
    told = describe(prepared(source, tmp_path / "out"))
    assert told.facts["pictures"] == 4
    assert told.facts["words_per_caption"]["most"] == 400
    assert told.facts["left_out"] == 1
    assert "4.jpg" in told.text
    assert "51+" in told.text


def test_a_broken_image_does_not_shift_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "SHARD", 3)
    source = tmp_path / "in"
    source.mkdir()
    for place in range(8):
        Image.new("RGB", (20, 20), (20 * place, 0, 0)).save(source / f"{place}.png")
        (source / f"{place}.txt").write_text(f"number {place}")
    for place in (1, 3):
        (source / f"{place}.png").write_bytes(b"broken")
    store = prepared(source, tmp_path / "out")
    chosen = np.array([5, 0, 2, 1])
    shades = Images([store], [chosen], 32)[np.arange(4)][:, 0, 5, 5] // 20
    assert [f"number {shade}" for shade in shades] == [texts[0] for texts in store.pairs["captions"].gather(chosen)]


def test_images_may_stay_where_they_are(tmp_path: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8))
    members = [(f"{place}.png", png(image.rotate(90 * place))) for place in range(4)]
    members.insert(2, ("1b.png", b"broken"))
    texts = [(f"{Path(name).stem}.txt", b"a picture") for name, _ in members]
    tar_of(tmp_path / "x.tar", [part for pair in zip(members, texts, strict=True) for part in pair])
    reading = read_source(tmp_path / "x.tar")
    stored = prepare_source(reading, tmp_path / "stored", 32, "crop", 1, lambda *_: None)
    placed = prepare_source(reading, tmp_path / "placed", 32, "crop", 1, lambda *_: None, in_place=True)
    assert not list((tmp_path / "placed").glob("*.npy"))
    assert (placed.pairs["id"] == stored.pairs["id"]).all()
    assert reasons(placed).keys() == {"x/1b"}
    rows = np.array([3, 0, 2])
    both = [Images([store], [rows], 32)[np.arange(3)] for store in (stored, placed)]
    assert (both[0] == both[1]).all()
    mixed = Images([stored, placed], [rows, rows], 16)[np.array([1, 4])]
    assert (mixed[0] == mixed[1]).all()
    (tmp_path / "x.tar").unlink()
    with pytest.raises(UserError, match="though it could be read when placed was prepared"):
        Images([placed], [rows], 32)[0]


def test_a_stopped_preparation_goes_on_and_changed_work_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "in"
    for place in range(7):
        jpeg(source / f"{place}.jpg", (20 + place, 20))
        (source / f"{place}.txt").write_text(f"number {place}")
    monkeypatch.setattr(prepare_module, "SHARD", 2)
    written: list[int] = []
    write = prepare_module.write_shard

    def stopping(shard: prepare_module.Shard) -> int:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(shard.number)
        return write(shard)

    monkeypatch.setattr(prepare_module, "write_shard", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepared(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    written.clear()

    def noting(shard: prepare_module.Shard) -> int:
        written.append(shard.number)
        return write(shard)

    monkeypatch.setattr(prepare_module, "write_shard", noting)
    store = prepared(source, tmp_path / "out")
    assert written == [2, 3]
    assert len(store.pairs) == 7
    assert prepared(source, tmp_path / "out").fingerprint == store.fingerprint
    assert written == [2, 3]
    whole = prepared(source, tmp_path / "again")
    assert whole.fingerprint == store.fingerprint
    with pytest.raises(UserError, match="something else already"):
        prepare_source(read_source(source), tmp_path / "out", 16, "crop", 1, lambda *_: None)


def test_side_by_side_work_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    for place in range(6):
        jpeg(source / f"{place}.jpg", (20 + place, 20))
        (source / f"{place}.txt").write_text(f"number {place}")
    monkeypatch.setattr(prepare_module, "SHARD", 2)
    one = prepared(source, tmp_path / "one")
    two = prepare_source(read_source(source), tmp_path / "two", 32, "crop", 2, lambda *_: None)
    assert one.fingerprint == two.fingerprint


def test_damage_is_noticed(tmp_path: Path) -> None:
    jpeg(tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "a.txt").write_text("a picture")
    store = prepared(tmp_path / "in", tmp_path / "out")
    assert store.damaged() == []
    file = tmp_path / "out" / "pictures-00000.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert open_store(tmp_path / "out").damaged() == ["pictures-00000.npy"]
    file.write_bytes(content[:-40])
    with pytest.raises(UserError, match="cut short"):
        open_store(tmp_path / "out")
    with pytest.raises(UserError, match="nothing is prepared there"):
        open_store(tmp_path / "nowhere")


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
