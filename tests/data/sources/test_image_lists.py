"""Lists of images and captions as ALBEF published them, whose paths are those of another machine."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.data.published import captions, found_at, jpeg, prepared, reasons
from workbench.cli.options import app
from workbench.data.sources.detect import read_source
from workbench.errors import UserError


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
        paths = found_at(tmp_path / "list.json", images=[tmp_path / "root"])
        return [str(path.relative_to(tmp_path / "root")) if path.exists() else "" for path in paths.values()]

    assert there("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg") == ["a/1.jpg", "a/2.jpg", "b/1.jpg", ""]
    assert there("/x/a/2.jpg", "/x/b/2.jpg") == ["a/2.jpg", ""]
    assert there("a/2.jpg", "/x/other/2.jpg") == ["a/2.jpg", ""]
    assert there("/x/3.jpg", "/y/3.jpg") == ["", ""]  # either may be meant
    assert there("/x/3.jpg") == ["deep/c/3.jpg"]
