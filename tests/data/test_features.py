"""Stored features: shards that a kill leaves standing, and that are mended one by one."""

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from workbench.cli.options import app
from workbench.data import cache
from workbench.data import features as features_module
from workbench.data.features import (
    BLOCK,
    SHARDS,
    Features,
    Layout,
    check_stores,
    missing,
    open_features,
    open_of_one_file,
    opened,
)
from workbench.errors import UserError
from workbench.faults import DISK, diagnose
from workbench.workspace import to_stderr

ROWS = {"train": 23, "val": 5}
LAYOUT = Layout((3, 2), ROWS, 8, "test_net")
FILES = ["train-00000.npy", "train-00001.npy", "train-00002.npy", "val-00000.npy"]


def numbers(split: str, rows: range) -> np.ndarray:
    """What row i of a split holds: float32 [n, 3, 2], all of it different."""
    start = 1000 * (split == "val")
    return (np.arange(6).reshape(1, 3, 2) / 7 + np.array(rows).reshape(-1, 1, 1) + start).astype(np.float32)


class Maker:
    """Gives the features three rows at a time, and remembers which rows it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, range]] = []

    def __call__(self, split: str, rows: range) -> Iterator[np.ndarray]:
        self.asked.append((split, rows))
        for start in range(rows.start, rows.stop, 3):
            yield numbers(split, range(start, min(start + 3, rows.stop)))

    @property
    def files(self) -> list[str]:
        return [f"{split}-{rows.start // LAYOUT.shard:05d}.npy" for split, rows in self.asked]


def quiet(done: int, total: int, figures: dict[str, float]) -> None:
    pass


def stored(home: Path, maker: Maker | None = None) -> dict[str, Features]:
    return open_features(home, LAYOUT, maker or Maker(), quiet)


def test_features_read_as_they_were_made(tmp_path: Path) -> None:
    features = stored(tmp_path / "f")
    rows = np.array([22, 0, 9, 9, 15])
    assert features["train"].shape == (23, 3, 2)
    assert len(features["val"]) == 5
    for split, count in ROWS.items():
        whole = numbers(split, range(count)).astype(np.float16)
        assert (features[split][:] == whole).all()
        assert features[split][1:4].dtype == np.float16
        assert (features[split][1:4] == whole[1:4]).all()
        assert (features[split][3] == whole[3]).all()
    assert (features["train"][rows] == numbers("train", range(23)).astype(np.float16)[rows]).all()
    assert features["train"][np.zeros(0, np.int64)].shape == (0, 3, 2)
    assert features["train"].nbytes == 23 * 6 * 2


@pytest.mark.parametrize("row", [-1, 23])
def test_a_row_outside_of_the_split_is_refused(tmp_path: Path, row: int) -> None:
    with pytest.raises(IndexError):
        stored(tmp_path / "f")["train"][np.array([0, row])]


def test_a_store_is_whole_for_those_who_come_later(tmp_path: Path) -> None:
    stored(tmp_path / "f")
    later = Maker()
    stored(tmp_path / "f", later)
    assert later.asked == []
    copied = pickle.loads(pickle.dumps(opened(tmp_path / "f", LAYOUT)["val"]))
    assert (copied[:] == numbers("val", range(5)).astype(np.float16)).all()


@pytest.mark.parametrize("stop_at", [3, 8, 14, 23])
def test_a_stopped_store_goes_on_with_the_shards_that_are_missing(tmp_path: Path, stop_at: int) -> None:
    def stopping(done: int, total: int, figures: dict[str, float]) -> None:
        assert total == 28
        if done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_features(tmp_path / "f", LAYOUT, Maker(), stopping)
    whole = stop_at // 8 if stop_at < 23 else 3
    assert [shard.file for shard in missing(tmp_path / "f", LAYOUT)] == FILES[whole:]
    counted: list[int] = []
    later = Maker()
    features = open_features(tmp_path / "f", LAYOUT, later, lambda done, *_: counted.append(done))
    assert later.files == FILES[whole:]
    assert counted[0] == min(8 * whole, 23)
    assert counted == sorted(counted)
    assert counted[-1] == 28
    assert (features["train"][:] == numbers("train", range(23)).astype(np.float16)).all()
    assert not list((tmp_path / "f").glob("*.half"))


def test_a_store_that_is_cut_short_is_mended_shard_by_shard(tmp_path: Path) -> None:
    stored(tmp_path / "f")
    file = tmp_path / "f" / FILES[1]
    whole = file.read_bytes()
    file.write_bytes(whole[:-4])
    said: list[str] = []
    cache.hear(said.append)
    later = Maker()
    try:
        stored(tmp_path / "f", later)
    finally:
        cache.hear(to_stderr)
    assert later.files == [FILES[1]]
    assert file.read_bytes() == whole
    assert len(said) == 1
    assert FILES[1] in said[0]
    assert FILES[0] not in said[0]


def test_a_damaged_shard_is_named_removed_and_alone_made_anew(tmp_path: Path) -> None:
    home = tmp_path / "cache" / "features-1"
    stored(home)
    file = home / FILES[2]
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert check_stores(tmp_path / "cache", verify=False)[0].damaged == []  # sizes do not tell
    asked = CliRunner().invoke(app, ["data", "features", "--verify", "--workspace", str(tmp_path)])
    assert asked.exit_code == 1
    assert f"DAMAGED: {FILES[2]}" in asked.stdout
    assert sorted(path.name for path in home.glob("*.npy")) == [FILES[0], FILES[1], FILES[3]]
    later = Maker()
    stored(home, later)
    assert later.files == [FILES[2]]
    assert file.read_bytes() == whole
    again = CliRunner().invoke(app, ["data", "features", "--verify", "--json", "--workspace", str(tmp_path)])
    assert again.exit_code == 0
    (facts,) = json.loads(again.stdout)
    assert facts["damaged"] == facts["missing"] == []
    assert facts["made_from"] == "test_net"
    assert facts["bytes"] == 28 * 12


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY", b"x" * 500])
def test_a_file_that_cannot_be_mapped_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    features = stored(tmp_path / "f")["val"]
    file = tmp_path / "f" / FILES[3]
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=f"{FILES[3]}: missing or damaged; `wb data features --verify"):
        features[0]
    np.save(file, np.zeros((5, 2, 2), np.float16))
    with pytest.raises(UserError, match="missing or damaged"):
        features[0]


def test_without_stored_features_that_is_said(tmp_path: Path) -> None:
    assert "No features" in CliRunner().invoke(app, ["data", "features", "--workspace", str(tmp_path)]).stdout


@pytest.mark.parametrize("content", ["", "{", "[]", '{"row": [1], "rows": {}, "shard": 1}', '{"row": "x"}'])
def test_a_damaged_manifest_is_no_manifest(tmp_path: Path, content: str) -> None:
    home = tmp_path / "f"
    stored(home)
    (home / "store.json").write_text(content)
    assert Layout.read(home) is None
    later = Maker()
    features = stored(home, later)
    assert later.files == FILES
    assert (features["val"][:] == numbers("val", range(5)).astype(np.float16)).all()


def test_a_small_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout((197, 768), {"train": 100_000, "val": 1000}, 4096, "large")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2.5e9))
    with pytest.raises(UserError, match=r"101,000 images .* need 30\.6 GB and 2\.5 GB are free; make room") as told:
        open_features(tmp_path / "f", layout, Maker(), quiet)
    assert str(tmp_path / "f") in str(told.value)
    assert not (tmp_path / "f").exists()


def test_a_disk_that_fills_up_in_the_middle_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(split: str, rows: range) -> Iterator[np.ndarray]:
        if rows.start:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "f")
        yield numbers(split, rows)

    with pytest.raises(OSError, match="No space left"):
        open_features(tmp_path / "f", LAYOUT, full, quiet)
    assert not list((tmp_path / "f").glob("*.half"))  # it would keep the disk full
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    with pytest.raises(OSError, match="GB more are needed") as still:
        stored(tmp_path / "f")
    outage = diagnose(still.value)
    assert outage is not None
    assert outage.what.startswith(DISK)
    monkeypatch.undo()
    later = Maker()
    stored(tmp_path / "f", later)
    assert later.files == FILES[1:]


def test_rows_that_do_not_fit_are_a_fault_and_leave_no_shard(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows for a shard of 8"):
        open_features(tmp_path / "f", LAYOUT, lambda split, rows: iter([numbers(split, range(2))]), quiet)
    with pytest.raises(ValueError, match="for a store of"):
        open_features(tmp_path / "f", LAYOUT, lambda split, rows: iter([np.zeros((8, 2, 3))]), quiet)
    assert missing(tmp_path / "f", LAYOUT) == LAYOUT.shards


TWO = """
import sys, time
from pathlib import Path
import numpy as np
from workbench.data import cache
from workbench.data.features import Layout, open_features
cache.hear(lambda sentence: None)
home = Path(sys.argv[1])
def make(split, rows):
    with open(home.parent / "made", "a") as out:
        out.write(f"{rows.start}\\n")
    time.sleep(0.05)
    yield np.full((len(rows), 2, 2), rows.start, np.float16)
layout = Layout((2, 2), {"train": 40}, 8, "x")
print(open_features(home, layout, make, lambda *_: None)["train"][:].sum())
"""


def test_a_killed_process_leaves_its_shards_and_no_lock(tmp_path: Path) -> None:
    slow = TWO.replace("time.sleep(0.05)", "time.sleep(0.05 if rows.start < 16 else 600)")
    process = subprocess.Popen([sys.executable, "-c", slow, str(tmp_path / "f")])
    waited = time.monotonic() + 120
    while not (tmp_path / "made").exists() or "16" not in (tmp_path / "made").read_text().split():
        assert time.monotonic() < waited
        time.sleep(0.02)
    process.kill()
    process.wait(60)
    made: list[int] = []

    def make(split: str, rows: range) -> Iterator[np.ndarray]:
        made.append(rows.start)
        yield np.full((len(rows), 2, 2), rows.start, np.float16)

    features = open_features(tmp_path / "f", Layout((2, 2), {"train": 40}, 8, "x"), make, quiet)
    assert made == [16, 24, 32]
    assert features["train"][:][:, 0, 0].tolist() == [float(row // 8 * 8) for row in range(40)]


def test_two_processes_write_a_store_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TWO, str(tmp_path / "f")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = {process.communicate(timeout=120)[0].strip() for process in both}
    assert len(said) == 1
    assert (tmp_path / "made").read_text().split() == ["0", "8", "16", "24", "32"]


def test_shards_are_few_and_cut_where_blocks_end() -> None:
    small, large = (Layout.of((197, 768), {"train": rows, "val": 1}, "x") for rows in (1000, 4_000_000))
    assert [shard.rows for shard in small.shards] == [range(1000), range(1)]
    assert len(large.shards) <= SHARDS + 1
    assert large.shard % BLOCK == 0
    assert large.bytes == 4_000_001 * 197 * 768 * 2
    assert large.shards[-2].rows.stop == 4_000_000


def test_a_store_of_one_file_a_split_is_used_as_it_is(tmp_path: Path) -> None:
    for split, count in ROWS.items():
        np.save(tmp_path / f"{split}.npy", numbers(split, range(count)).astype(np.float16))
    old = open_of_one_file(tmp_path, ROWS)
    assert old is not None
    assert (old["train"][np.array([20, 3])] == numbers("train", range(23)).astype(np.float16)[[20, 3]]).all()
    assert open_of_one_file(tmp_path, ROWS | {"val": 6}) is None
    assert open_of_one_file(tmp_path / "nowhere", ROWS) is None
    (tmp_path / "val.npy").write_bytes(b"")
    assert open_of_one_file(tmp_path, ROWS) is None


def test_room_is_made_where_a_file_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that finds no room on the disk would end the process."""

    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert os.stat(cache.new_array(tmp_path / "a.npy", (100, 100)).filename or "").st_blocks * 512 >= 10_000
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device: .*b\.npy"):
        cache.new_array(tmp_path / "b.npy", (100, 100))
    assert not (tmp_path / "b.npy").exists()


def test_large_stores_are_announced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(features_module, "LARGE", 100)
    cache.hear(said.append)
    try:
        stored(tmp_path / "f")
    finally:
        cache.hear(to_stderr)
    assert len(said) == 1
    assert "GB of stored features" in said[0]
