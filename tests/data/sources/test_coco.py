"""COCO's captions as they are published, and Karpathy's splits."""

import json
from pathlib import Path

import pytest

from tests.data.published import RIGHT_TO_LEFT, captions, found_at, jpeg, prepared, reasons


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


def test_karpathys_splits_in_a_folder_beside_the_images(tmp_path: Path) -> None:
    there = [jpeg(tmp_path / "train2014" / "1.jpg"), jpeg(tmp_path / "val2014" / "2.jpg")]
    images = [
        {"filename": path.name, "filepath": path.parent.name, "split": "train", "sentences": [{"raw": "one"}]}
        for path in there
    ]
    (tmp_path / "karpathy").mkdir()
    (tmp_path / "karpathy" / "dataset_coco.json").write_text(json.dumps({"images": images}))
    assert list(found_at(tmp_path).values()) == there
