"""A corpus is prepared: its report, what is broken in it, and preparations that were stopped."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.data.published import jpeg, png, prepared, reasons, tar_of
from workbench.data import prepare as prepare_module
from workbench.data.prepare import prepare_source
from workbench.data.report import describe
from workbench.data.sources.detect import read_source
from workbench.data.store import Images, open_store
from workbench.errors import UserError

LONG = "word " * 400


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
    with pytest.raises(UserError, match="already holds something else"):
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
