"""What img2dataset leaves behind: folders, tars, and records of what failed."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.data.published import RIGHT_TO_LEFT, captions, found_at, jpeg, prepared, reasons, tar_of
from workbench.data.sources.detect import read_source
from workbench.errors import UserError


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
    assert [pair.id for pair in reading.found] == ["00000/000000000", "00000/000000002"]
    assert dict(reading.broken) == {
        "00000/000000001": "it has no image (HTTP Error 404: Not Found)",
        "00000/000000003": "it has no image (failed_to_resize)",
    }


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
