"""Where images are found: documented layouts, paths of another machine, and names that several files have."""

import os
from pathlib import Path

import pytest

from workbench.data.image_files import ImageFolders
from workbench.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("there", "names", "found"),
    [
        (["val2014/a.jpg", "a.jpg"], ["val2014/a.jpg", "a.jpg"], "val2014/a.jpg"),  # the documented place comes first
        (["a.jpg"], ["val2014/a.jpg"], "a.jpg"),  # flat
        (["a.jpg"], ["/export/share/coco/val2014/a.jpg"], "a.jpg"),  # of another machine
        (["images/val2014/a.jpg", "a.jpg"], ["/x/coco/images/val2014/a.jpg"], "images/val2014/a.jpg"),
        (["deep/er/val2014/a.jpg", "deep/er/train2014/a.jpg"], ["val2014/a.jpg"], "deep/er/val2014/a.jpg"),
        (["one/a.jpg", "two/deeper/a.jpg"], ["a.jpg"], "one/a.jpg"),  # nearest to the root
        (["one/a.jpg", "two/a.jpg"], ["a.jpg"], "a.jpg"),  # either may be meant: missing
        (["b.jpg"], ["val2014/a.jpg", "a.jpg"], "val2014/a.jpg"),  # missing: the place that is documented
        (["._a.jpg"], ["/x/a.jpg"], "x/a.jpg"),
    ],
)
def test_an_image_is_found_by_its_place_then_by_the_end_of_its_path(
    tmp_path: Path, there: list[str], names: list[str], found: str
) -> None:
    touch(tmp_path, *there)
    path = ImageFolders.of([tmp_path]).find(*names)
    assert path == tmp_path / found
    assert path.exists() == (found in there)


def test_several_folders_are_looked_through_in_their_order(tmp_path: Path) -> None:
    touch(tmp_path, "vg/1.jpg", "coco/val2014/2.jpg", "coco/val2014/1.jpg")
    folders = ImageFolders.of([tmp_path / "vg", tmp_path / "coco"])
    assert folders.find("1.jpg") == tmp_path / "vg/1.jpg"
    assert folders.find("val2014/2.jpg") == tmp_path / "coco/val2014/2.jpg"
    assert folders.find("/home/them/val2014/1.jpg") == tmp_path / "coco/val2014/1.jpg"


def test_a_folder_of_many_images_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *(f"val2014/{k}.jpg" for k in range(50)))
    listed: list[str] = []
    real = os.listdir

    def noting(folder: Path) -> list[str]:
        listed.append(str(folder))
        return real(folder)

    monkeypatch.setattr(os, "listdir", noting)
    folders = ImageFolders.of([tmp_path])
    assert all(folders.find(f"val2014/{k}.jpg", f"{k}.jpg").exists() for k in range(50))
    assert len(listed) == 1


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--images: there is no folder .*nowhere"):
        ImageFolders.of([tmp_path, tmp_path / "nowhere"])
