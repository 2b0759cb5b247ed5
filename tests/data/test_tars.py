"""Tars: where they lie, how they are packed, and how often they are opened."""

import bz2
import gzip
import io
import lzma
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image

from workbench.data import prepare as prepare_module
from workbench.data.prepare import prepare_source
from workbench.data.sources.detect import read_source
from workbench.data.store import Images, Store
from workbench.errors import UserError

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".tar.gz": gzip.compress,
    ".tgz": gzip.compress,
    ".tar.bz2": bz2.compress,
    ".tar.xz": lzma.compress,
}


def shade(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (20, 20), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


def tar_bytes(count: int, text: str = "number {}") -> bytes:
    """Samples whose captions tell the shade of red of their images."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for place in range(count):
            texts = {"txt": text.format(place).encode(), "json": b'{"status": "success"}'}
            for suffix, content in {"png": shade(10 * place), **texts}.items():
                info = tarfile.TarInfo(f"{place:04d}.{suffix}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def prepared(path: Path, home: Path, in_place: bool = False) -> Store:
    return prepare_source(read_source(path), home, 16, "crop", 1, lambda *_: None, in_place=in_place)


def shades(store: Store) -> dict[str, int]:
    pixels = Images([store], [np.arange(len(store.pairs))], 16)[np.arange(len(store.pairs))]
    return dict(zip(store.pairs["id"], (pixels[:, 0, 5, 5] // 10).tolist(), strict=True))


def test_tars_of_subfolders_are_read(tmp_path: Path) -> None:
    for name in ("b/00000.tar", "a/deep/00000.tar", "__MACOSX/00000.tar", "a/._x.tar"):
        write(tmp_path / name, tar_bytes(2))
    pairs = read_source(tmp_path).found
    assert [pair.id for pair in pairs] == [f"{name}/000{k}" for name in ("a/deep/00000", "b/00000") for k in (0, 1)]
    write(tmp_path / "z.tar", tar_bytes(1))
    assert [pair.id for pair in read_source(tmp_path).found][-1] == "z/0000"
    assert len(prepared(tmp_path, tmp_path / "out").pairs) == 5


def test_a_tar_deep_below_leaves_other_forms_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "downloads" / "all.tar", tar_bytes(2))
    write(tmp_path / "all.tar.gz", gzip.compress(tar_bytes(2)))
    write(tmp_path / "a.png", shade(1))
    write(tmp_path / "a.txt", b"one")
    assert [pair.id for pair in read_source(tmp_path).found] == ["a.png"]
    write(tmp_path / "captions.csv", b"file,caption\na.png,of the table\n")
    assert [pair.captions for pair in read_source(tmp_path).found] == [("of the table",)]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_compressed_tar_is_prepared_as_a_plain_one(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "SHARD", 3)
    plain = prepared(write(tmp_path / "plain" / "x.tar", tar_bytes(8)), tmp_path / "one")
    packed = write(tmp_path / "packed" / f"x{suffix}", PACKERS[suffix](tar_bytes(8)))
    for source, home in ((packed, "two"), (packed.parent, "three")):
        store = prepared(source, tmp_path / home)
        assert store.pairs.drop("path").equals(plain.pairs.drop("path"))
        assert shades(store) == shades(plain) == {f"x/000{k}": k for k in range(8)}
    with pytest.raises(UserError, match=rf"x{suffix}: single images of a compressed archive .* omit --in-place"):
        prepared(packed, tmp_path / "four", in_place=True)
    assert not (tmp_path / "four").exists()


def test_a_compressed_tar_may_lack_its_suffix(tmp_path: Path) -> None:
    write(tmp_path / "x.tar", gzip.compress(tar_bytes(2)))
    write(tmp_path / "y.tgz", tar_bytes(2))
    assert list(shades(prepared(tmp_path, tmp_path / "out"))) == ["x/0000", "x/0001", "y/0000", "y/0001"]


@pytest.mark.parametrize("suffix", PACKERS)
def test_of_a_compressed_tar_that_is_cut_short_the_whole_members_are_taken(tmp_path: Path, suffix: str) -> None:
    rng = np.random.default_rng(0)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for place in range(18):
            noise = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (250, 250, 3), dtype=np.uint8)).save(noise, "PNG")
            for name, content in ((f"{place}.txt", b"noise"), (f"{place}.png", noise.getvalue())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    whole = PACKERS[suffix](out.getvalue())
    path = write(tmp_path / f"x{suffix}", whole[: len(whole) * 3 // 4])
    store = prepared(path, tmp_path / "out")
    assert 0 < len(store.pairs) < 18
    assert any(f"x{suffix}" in what for what in store.broken["what"])
    assert not any(why.startswith("the image cannot be read") for why in store.broken["why"])


class Opens:
    """Counts how often each file is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        real = open

        def counting(file: Any, *args: Any, **options: Any) -> IO[Any]:
            self.counts[Path(str(file)).name] += 1
            return real(file, *args, **options)

        for target in ("builtins.open", "io.open", "tarfile.bltn_open"):
            monkeypatch.setattr(target, counting)


def test_each_tar_is_opened_once_to_read_and_once_for_a_shard_of_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare_module, "SHARD", 5)
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, tar_bytes(12))
    opens = Opens(monkeypatch)
    reading = read_source(tmp_path)
    assert {name: opens.counts[name] for name in ("a.tar", "b.tar")} == {"a.tar": 1, "b.tar": 1}
    assert len(reading.found) == 24
    opens.counts.clear()
    store = prepare_source(reading, tmp_path / "out", 16, "crop", 1, lambda *_: None)
    assert opens.counts["a.tar"] <= 3  # of its shards of work: 0-4, 5-9, 10-14
    assert opens.counts["b.tar"] <= 3
    assert shades(store) == {f"{name}/{k:04d}": k for name in "ab" for k in range(12)}


def test_images_that_are_listed_in_another_order_are_read_as_they_lie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, tar_bytes(6))
    reading = read_source(tmp_path)
    mixed = [reading.found[k] for k in np.random.default_rng(0).permutation(12)]
    reading.found = mixed
    opens = Opens(monkeypatch)
    store = prepare_source(reading, tmp_path / "out", 16, "crop", 1, lambda *_: None)
    assert {name: opens.counts[name] for name in ("a.tar", "b.tar")} == {"a.tar": 1, "b.tar": 1}
    assert list(shades(store)) == [pair.id for pair in mixed]
    assert all(shade == int(id[-4:]) for id, shade in shades(store).items())


def test_a_tar_that_is_gone_is_listed_and_another_goes_on(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write(tmp_path / name, tar_bytes(2))
    reading = read_source(tmp_path)
    (tmp_path / "a.tar").unlink()
    store = prepare_source(reading, tmp_path / "out", 16, "crop", 1, lambda *_: None)
    assert store.pairs["id"].to_list() == ["b/0000", "b/0001"]
    assert store.broken["what"].to_list() == ["a/0000", "a/0001"]
