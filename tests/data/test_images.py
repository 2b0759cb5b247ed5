"""Images of every kind of pixel, whole and broken."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.data.published import RED, jpeg, png
from workbench.data.images import BrokenImage, decode


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
