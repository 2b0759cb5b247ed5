"""How fast stored features and stored images are written and read: `python -m tests.benchmarks.storage`."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from tests.benchmarks.figures import CPU, WALL, Figure, figure, seconds, told
from workbench.data.features import Features, Layout, open_features
from workbench.data.prepare import prepare_source
from workbench.data.sources.detect import read_source
from workbench.data.store import Images, open_store

ROW = (197, 768)  # of a ViT-B/16 at 224 px
SHARD, SHARDS, BATCH = 512, 3, 128
IMAGES, SIDE = 192, 256
FALL = 1.5  # of the amplitude with the frequency, at which a JPEG is as large as that of a photograph


def measure(repeats: int, home: Path) -> list[Figure]:
    return [*features(repeats, home), *images(repeats, home)]


def features(repeats: int, home: Path) -> list[Figure]:
    """The feature store at the size of a ViT-B/16: 1,536 rows of 0.3 MB, written anew in each repeat."""
    layout = Layout(ROW, {"train": SHARD * SHARDS}, SHARD, "bench")
    block = np.random.default_rng(0).standard_normal((SHARD // 2, *ROW), np.float32).astype(np.float16)
    place = home / "features"

    def make(split: str, rows: range) -> Iterator[np.ndarray]:
        for _ in range(rows.start, rows.stop, len(block)):
            yield block

    def opened() -> Features:
        return open_features(place, layout, make, lambda *_: None)["train"]

    rates: dict[str, list[float]] = {}
    rows = layout.rows["train"]
    for _ in range(repeats):
        shutil.rmtree(place, ignore_errors=True)
        rates.setdefault("written, with checksums", []).append(rows / seconds(opened))
        for where, cold in (("the disk", True), ("the page cache", False)):
            for order in ("in turn", "in random order"):
                stored = opened()
                if cold:
                    forget(stored)
                taken = seconds(partial(read, stored, order == "in turn"))
                rates.setdefault(f"read {order}, from {where}", []).append(rows / taken)
    size = f"{ROW[0]} x {ROW[1]}, {layout.row_bytes / 1e3:.0f} kB a row"
    return [
        made
        for name, each in rates.items()
        for made in (
            figure(f"stored features {name}", "rows/s", each, f"{WALL}; {size}"),
            figure(f"stored features {name}, bytes", "GB/s", [rate * layout.row_bytes / 1e9 for rate in each], WALL),
        )
    ]


def read(stored: Features, in_turn: bool) -> int:
    """Every row once, a batch at a time."""
    rows = np.arange(len(stored)) if in_turn else np.random.default_rng(1).permutation(len(stored))
    for start in range(0, len(rows), BATCH):
        stored[rows[start : start + BATCH]]
    return len(rows)


def forget(stored: Features) -> None:
    """Has the operating system drop the files from its cache, so that they are read from the disk."""
    for file in stored.files:
        with open(file, "rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def photographs(home: Path, count: int, side: int, rng: np.random.Generator) -> Path:
    """A folder of images with the spectrum of photographs, each with a caption beside."""
    source = home / "images"
    source.mkdir()
    for place in range(count):
        Image.fromarray(like_a_photograph(rng, side)).save(source / f"{place}.png")
        (source / f"{place}.txt").write_text(f"image {place}")
    return source


def images(repeats: int, home: Path) -> list[Figure]:
    """Images with the spectrum of photographs, stored in both forms and read back in random order."""
    rng = np.random.default_rng(0)
    source = photographs(home, IMAGES, SIDE, rng)
    order = rng.permutation(IMAGES)
    forms: tuple[Literal["raw", "jpeg"], ...] = ("raw", "jpeg")
    prepared: dict[str, list[float]] = {form: [] for form in forms}
    reading: dict[str, list[float]] = {form: [] for form in forms}
    made = []
    for number in range(repeats):
        for form in forms:
            target = home / f"{form}{number}"
            prepare = partial(prepare_source, read_source(source), target, SIDE, "crop", 1, lambda *_: None)
            prepared[form].append(IMAGES / seconds(partial(prepare, stored=form), time.process_time))
            stored = Images([prepare(stored=form)], [np.arange(IMAGES)], SIDE)
            reading[form].append(IMAGES / seconds(partial(in_batches, stored, order), time.process_time))
    for form in forms:
        size = sum(shard["bytes"] for shard in open_store(home / f"{form}0").facts["shards"]) / IMAGES
        made += [
            figure(f"stored images of {SIDE} px, {form}", "kB", [size / 1e3], "an image"),
            figure(f"stored images of {SIDE} px, {form}, prepared", "images/s", prepared[form], CPU),
            figure(f"stored images of {SIDE} px, {form}, read in random order", "images/s", reading[form], CPU),
        ]
    return made


def in_batches(stored: Images, order: np.ndarray) -> None:
    for start in range(0, len(order), 64):
        stored[order[start : start + 64]]


def like_a_photograph(rng: np.random.Generator, side: int) -> np.ndarray:
    """uint8 [side, side, 3] whose amplitudes fall with the frequency, grey for the most part."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    noise = np.fft.rfft2(rng.standard_normal((4, side, side))) / np.maximum(frequency, 1 / side) ** FALL
    grey, *colours = np.fft.irfft2(noise, s=(side, side))
    made = np.stack([grey + 0.3 * colour for colour in colours], axis=-1)
    return (128 + 50 * made / made.std()).clip(0, 255).astype(np.uint8)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(*told(measure(5, Path(folder))), sep="\n")
