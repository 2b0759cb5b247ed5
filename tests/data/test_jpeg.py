"""Corpora whose images are stored as JPEG."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from typer.testing import CliRunner

from workbench.cli.options import app
from workbench.data import prepare as prepare_module
from workbench.data import store as store_module
from workbench.data.jpeg import JpegShard, decode, decode_all, encode, shard_parts
from workbench.data.prepare import prepare_source
from workbench.data.report import describe
from workbench.data.sources.detect import read_source
from workbench.data.store import Images, Store, open_store, write_parts
from workbench.errors import UserError

SIDE = 48


def smooth(seed: int, side: int = SIDE) -> np.ndarray:
    """uint8 [3, side, side] with the soft colours of a photograph."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def folder(home: Path, images: int, broken: tuple[int, ...] = ()) -> Path:
    home.mkdir(parents=True)
    for place in range(images):
        if place in broken:
            (home / f"{place}.png").write_bytes(b"broken")
        else:
            Image.fromarray(smooth(place, 60).transpose(1, 2, 0)).save(home / f"{place}.png")
        (home / f"{place}.txt").write_text(f"number {place}")
    return home


def prepared(source: Path, home: Path, workers: int = 1, **options: Any) -> Store:
    given: dict[str, Any] = {"stored": "jpeg"} | options
    return prepare_source(read_source(source), home, SIDE, "crop", workers, lambda *_: None, **given)


def pixels(store: Store) -> np.ndarray:
    rows = np.arange(len(store.pairs))
    return Images([store], [rows], SIDE)[rows]


@pytest.mark.parametrize(("quality", "least"), [(95, 38.0), (75, 32.0)])
def test_an_image_survives_within_a_bound(quality: int, least: float) -> None:
    for seed in range(4):
        image = smooth(seed)
        blob = encode(image, quality)
        assert len(blob) < image.size
        assert psnr(image, decode(blob, SIDE)) > least


def test_a_small_thing_keeps_its_colour() -> None:
    """With colours at half of the resolution a red line of one pixel on grey would lose most of its red."""
    image = np.full((3, SIDE, SIDE), 128, np.uint8)
    image[:, :, 20] = np.array([[220], [30], [30]])
    seen = decode(encode(image, 95), SIDE)[:, :, 20].mean(axis=1)
    assert np.abs(seen - [220, 30, 30]).max() < 12


def test_jpegs_read_like_raw_pixels(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", 9, broken=(4,))
    raw, small = prepared(source, tmp_path / "raw", stored="raw"), prepared(source, tmp_path / "small")
    assert small.stored == "jpeg"
    assert raw.stored == "raw"
    assert (small.pairs["id"] == raw.pairs["id"]).all()
    assert len(small.broken) == 1
    assert psnr(pixels(raw), pixels(small)) > 38
    rows = np.array([7, 1, 0])
    read = Images([small], [rows], SIDE)
    assert (read[np.array([2, 0])] == pixels(small)[[0, 7]]).all()
    assert read[1].shape == (3, SIDE, SIDE)
    both = Images([raw, small], [rows, rows], SIDE)
    assert (both[np.array([0, 3])] == np.stack([pixels(raw)[7], pixels(small)[7]])).all()
    assert Images([small], [rows], 16)[:].shape == (3, 3, 16, 16)
    assert sum(shard["bytes"] for shard in small.facts["shards"]) < raw.facts["shards"][0]["bytes"] / 2


def test_side_by_side_work_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "SHARD", 3)
    source = folder(tmp_path / "in", 7)
    one, two = prepared(source, tmp_path / "one"), prepared(source, tmp_path / "two", workers=2)
    assert one.fingerprint == two.fingerprint
    assert one.damaged() == []


def test_a_stopped_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare_module, "SHARD", 2)
    source, counted = folder(tmp_path / "in", 7), list[int]()

    def stopping(done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    reading = read_source(source)
    with pytest.raises(KeyboardInterrupt):
        prepare_source(reading, tmp_path / "out", SIDE, "crop", 1, stopping, stored="jpeg")
    assert not (tmp_path / "out").exists()
    prepare_source(reading, tmp_path / "out", SIDE, "crop", 1, lambda done, _: counted.append(done), stored="jpeg")
    assert counted == [4, 6, 7]
    assert open_store(tmp_path / "out").fingerprint == prepared(source, tmp_path / "again").fingerprint
    for other in ({"stored": "raw"}, {"quality": 80}):
        with pytest.raises(UserError, match="JPEG of quality 95"):
            prepared(source, tmp_path / "out", **other)


def test_damage_is_noticed(tmp_path: Path) -> None:
    store = prepared(folder(tmp_path / "in", 3), tmp_path / "out")
    file = tmp_path / "out" / "pictures-00000.jpegs"
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes(40) + content[middle + 40 :])
    assert open_store(tmp_path / "out").damaged() == [file.name]
    file.write_bytes(content[:-8])
    with pytest.raises(UserError, match="cut short"):
        open_store(tmp_path / "out")
    file.write_bytes(bytes(len(content)))
    with pytest.raises(UserError, match="cannot be decoded"):
        pixels(store)


@pytest.mark.parametrize("index", [[0, 10**6], [-3, 2], [5, 4], [0, 2**62], [-(2**63), 2**63 - 1]])
def test_an_index_never_leads_outside_of_its_images(tmp_path: Path, index: list[int]) -> None:
    blob = encode(smooth(0), 95)
    file = tmp_path / "x.jpegs"
    write_parts(file, shard_parts(2, [(1, blob), (0, blob)]))
    shard = JpegShard(file, 2, SIDE)
    assert shard.blob(0) == shard.blob(1) == blob
    content = file.read_bytes()[:-16] + np.array(index, "<i8").tobytes()
    file.write_bytes(content)
    with pytest.raises(UserError, match="its index points outside of it"):
        JpegShard(file, 2, SIDE)
    file.write_bytes(content[:20])
    with pytest.raises(UserError, match="cut short"):
        JpegShard(file, 2, SIDE)


@pytest.mark.parametrize("side", [SIDE - 8, 4000])
def test_a_jpeg_of_another_size_is_refused_before_it_is_decoded(side: int) -> None:
    with pytest.raises(ValueError, match=f"{side} x {side} px"):
        decode(encode(smooth(0, side), 20), SIDE)


def test_the_processor_decodes_where_no_gpu_does(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = [encode(smooth(seed), 95) for seed in range(3)]
    decoded = decode_all(blobs, SIDE, torch.device("cpu"))
    assert (decoded.numpy() == np.stack([decode(blob, SIDE) for blob in blobs])).all()
    asked: list[torch.device] = []

    def on_gpu(encoded: list[torch.Tensor], mode: object, device: torch.device) -> list[torch.Tensor]:
        asked.append(device)
        return [torch.from_numpy(decode(one.numpy().tobytes(), SIDE).copy()) for one in encoded]

    monkeypatch.setattr(torchvision.io, "decode_jpeg", on_gpu)
    assert (decode_all(blobs, SIDE, torch.device("cuda")) == decoded).all()
    assert asked == [torch.device("cuda")]


def test_images_on_a_device_are_those_that_are_read(tmp_path: Path) -> None:
    source = folder(tmp_path / "in", 4)
    for stored in ("raw", "jpeg"):
        store = prepared(source, tmp_path / stored, stored=stored)
        images, rows = Images([store], [np.arange(4)], 24), np.array([2, 0])
        assert (images.on(rows, torch.device("cpu")).numpy() == images[rows]).all()


def test_a_gpu_is_given_the_jpegs_of_the_rows_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it decodes them, only a GPU can tell; here the processor stands in for it."""
    small = prepared(folder(tmp_path / "in", 5), tmp_path / "small")
    images, rows = Images([small], [np.arange(5)], 24), np.array([4, 0, 3])
    monkeypatch.setattr(store_module, "decode_all", lambda blobs, side, _: decode_all(blobs, side, torch.device("cpu")))
    assert (images.on(rows, torch.device("cuda")).numpy() == images[rows]).all()
    monkeypatch.setattr(
        store_module, "decode_all", lambda blobs, side, _: decode_all([b"x"], side, torch.device("cpu"))
    )
    with pytest.raises(UserError, match="wb data list --verify"):
        images.on(rows, torch.device("cuda"))


def test_a_small_disk_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder(tmp_path / "in", 8)
    raw = 8 * 3 * SIDE**2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=raw // 2))
    with pytest.raises(UserError, match="take --store jpeg, a smaller --side, or --in-place"):
        prepared(source, tmp_path / "raw", stored="raw")
    assert prepared(source, tmp_path / "small").stored == "jpeg"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=raw // 5))
    with pytest.raises(UserError, match="make room, take a smaller --side"):
        prepared(source, tmp_path / "other", quality=90)


def test_the_command_tells_what_it_stored(tmp_path: Path) -> None:
    source, run = folder(tmp_path / "in", 4), CliRunner().invoke
    given = ["data", "prepare", "some", "--from", str(source), "--workspace", str(tmp_path), "--side", str(SIDE)]
    prepared = run(app, [*given, "--workers", "1", "--store", "jpeg", "--quality", "90"])
    assert prepared.exit_code == 0, prepared.output
    assert "JPEG of quality 90" in prepared.stdout
    assert "kB per image" in prepared.stdout
    listed = run(app, ["data", "list", "--verify", "--workspace", str(tmp_path)])
    assert "crop   jpeg 0 left out" in listed.stdout
    assert listed.exit_code == 0
    facts = describe(open_store(tmp_path / "data" / "some")).facts
    assert (facts["store"], facts["quality"]) == ("jpeg", 90)
    both = run(app, [*given, "--store", "jpeg", "--in-place"])
    assert isinstance(both.exception, UserError)
    sheet = run(app, ["data", "inspect", "some", "--workspace", str(tmp_path), "--out", str(tmp_path / "sheet.png")])
    assert sheet.exit_code == 0, sheet.output
