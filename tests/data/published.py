"""Miniatures of published corpora, and what is prepared from them."""

import io
import tarfile
from pathlib import Path
from typing import Any

from PIL import Image

from workbench.data.prepare import prepare_source
from workbench.data.sources.detect import read_source
from workbench.data.store import Store

RED = (200, 30, 30)
RIGHT_TO_LEFT = "قطة حمراء 🐈 fun"


def jpeg(path: Path, size: tuple[int, int] = (60, 40), mode: str = "RGB", **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, RED).convert(mode).save(path, "JPEG", **options)
    return path


def prepared(path: Path, home: Path, **options: Any) -> Store:
    reading = read_source(path, **options)
    return prepare_source(reading, home, 32, "crop", 1, lambda *_: None)


def captions(store: Store) -> dict[str, tuple[str, list[str]]]:
    return {id: (split, list(texts)) for id, split, texts in store.pairs.select("id", "split", "captions").iter_rows()}


def reasons(store: Store) -> dict[str, str]:
    return dict(store.broken.iter_rows())


def found_at(path: Path, **options: Any) -> dict[str, Path]:
    return {pair.id: pair.place.path for pair in read_source(path, **options).found}


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def png(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", **options)
    return out.getvalue()
