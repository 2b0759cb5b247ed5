"""Images are decoded before they are needed, side by side, and once as long as they do not change."""

import os
from pathlib import Path

import pytest
from PIL import Image

from workbench.data import image_check
from workbench.data.image_check import BATCH, broken_images
from workbench.data.images import decode
from workbench.stop import Stopped


def whole(path: Path, shade: int = 0) -> Path:
    Image.new("RGB", (40, 30), (shade, 0, 0)).save(path)
    return path


def page(path: Path) -> Path:
    """What a downloader leaves where a link is dead."""
    path.write_text("<html>404</html>")
    return path


def cut_short(path: Path) -> Path:
    Image.effect_noise((200, 200), 80).save(path)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is decoded."""
    names: list[str] = []

    def noting(path: Path, side: int) -> object:
        names.append(path.name)
        return decode(path, side)

    monkeypatch.setattr(image_check, "decode", noting)
    return names


def test_missing_and_broken_images_are_named_with_their_reason(tmp_path: Path) -> None:
    good = [whole(tmp_path / f"{k}.png") for k in range(3)]
    dead, half, gone = page(tmp_path / "dead.png"), cut_short(tmp_path / "half.jpg"), tmp_path / "gone.png"
    broken = broken_images([*good, dead, half, gone, gone])
    assert set(broken) == {dead, half, gone}
    assert broken[gone] == f"{gone} is missing"
    assert broken[dead].startswith(f"{dead}: ")
    assert "its format is unknown" in broken[dead]
    assert "cannot be read" in broken[half]


@pytest.mark.parametrize("quality", [5, 75, 100])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_cheap_look_finds_photographs_cut_short_anywhere(tmp_path: Path, quality: int, progressive: bool) -> None:
    full = tmp_path / "full.jpg"
    Image.effect_noise((640, 480), 60).convert("RGB").save(full, quality=quality, progressive=progressive)
    data = full.read_bytes()
    cut = []
    for k in range(1, 10):
        (tmp_path / f"{k}.jpg").write_bytes(data[: len(data) * k // 10])
        cut.append(tmp_path / f"{k}.jpg")
    assert sorted(broken_images([full, *cut])) == cut


def test_images_are_looked_at_once_until_they_change(tmp_path: Path, decoded: list[str]) -> None:
    good, dead, gone = whole(tmp_path / "good.png"), page(tmp_path / "dead.png"), tmp_path / "gone.png"
    cache = tmp_path / "cache"
    first = broken_images([good, dead, gone], cache)
    assert sorted(decoded) == ["dead.png", "good.png"]
    assert broken_images([good, dead, gone], cache) == first
    assert len(decoded) == 2
    whole(dead)
    whole(gone)
    assert broken_images([good, dead, gone], cache) == {}
    assert sorted(decoded[2:]) == ["dead.png", "gone.png"]
    facts = good.stat()
    page(good)
    os.utime(good, ns=(facts.st_atime_ns, facts.st_mtime_ns))  # another size alone
    assert set(broken_images([good], cache)) == {good}
    data = whole(good).read_bytes()
    broken_images([good], cache)
    good.write_bytes(b"x" * len(data))
    os.utime(good, ns=(0, 0))  # another time alone
    assert set(broken_images([good], cache)) == {good}


def test_a_fault_of_the_disk_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, cache = whole(tmp_path / "good.png"), tmp_path / "cache"

    def failing(path: Path, side: int) -> object:
        with monkeypatch.context() as patched:
            patched.setattr("PIL.Image.open", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            return decode(path, side)

    with monkeypatch.context() as patched:
        patched.setattr(image_check, "decode", failing)
        assert "Input/output error" in broken_images([good], cache)[good]
    assert broken_images([good], cache) == {}


def test_a_stopped_check_goes_on_where_it_was(tmp_path: Path, decoded: list[str]) -> None:
    images = [whole(tmp_path / f"{k}.png") for k in range(2 * BATCH + 5)]
    cache, shown = tmp_path / "cache", list[tuple[int, int]]()

    def show(done: int, total: int) -> None:
        shown.append((done, total))

    with pytest.raises(Stopped):
        broken_images(images, cache, show, stop=lambda: len(decoded) >= BATCH)
    assert len(decoded) == BATCH
    assert broken_images(images, cache, show) == {}
    assert len(decoded) == len(images)
    assert shown == [(BATCH, 2 * BATCH + 5), (BATCH, BATCH + 5), (BATCH + 5, BATCH + 5)]
