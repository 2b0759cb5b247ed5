"""`python -m tests.benchmarks.storage`, a part of `just bench`: how fast stored features and stored images are written and read."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from workbench.data.captions import read_source
from workbench.data.features import Features, Layout, open_features
from workbench.data.prepare import prepare_source
from workbench.data.store import Pictures

ROW = (197, 768)  # of a ViT-B/16 at 224 px
SHARD, SHARDS, BATCH = 512, 3, 128
IMAGES, SIDE = 192, 256
FALL = 1.5  # of the amplitude with the frequency, at which a JPEG is as large as that of a photograph


def features(home: Path) -> None:
    """The feature store at the size of a ViT-B/16: 1,536 rows of 0.3 MB."""
    layout = Layout(ROW, {"train": SHARD * SHARDS}, SHARD, "bench")
    block = np.random.default_rng(0).standard_normal((SHARD // 2, *ROW), np.float32).astype(np.float16)

    def make(split: str, rows: range) -> Iterator[np.ndarray]:
        for _ in range(rows.start, rows.stop, len(block)):
            yield block

    def write() -> int:
        open_features(home / "features", layout, make, lambda *_: None)
        return layout.rows["train"]

    print(f"stored features of {ROW[0]} x {ROW[1]}: {layout.row_bytes / 1e3:.0f} kB an image")
    told("... written, with checksums", write, layout.row_bytes)
    for where, cold in (("the disk", True), ("the page cache", False)):
        for order in ("in turn", "in random order"):
            stored = open_features(home / "features", layout, make, lambda *_: None)["train"]
            if cold:
                forget(stored)
            told(f"... read {order}, from {where}", lambda: read(stored, order == "in turn"), layout.row_bytes)  # noqa: B023


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


def told(what: str, action: Callable[[], int], size: int) -> None:
    began = time.perf_counter()
    rows = action()
    took = time.perf_counter() - began
    print(f"{what}: {rows / took:,.0f} rows/s, {rows * size / took / 1e9:.2f} GB/s")


def images(home: Path) -> None:
    """Images with the spectrum of photographs, stored in both forms and read back in random order."""
    source, rng = home / "images", np.random.default_rng(0)
    source.mkdir()
    for place in range(IMAGES):
        Image.fromarray(like_a_photograph(rng, SIDE)).save(source / f"{place}.png")
        (source / f"{place}.txt").write_text(f"image {place}")
    order = rng.permutation(IMAGES)
    for stored in ("raw", "jpeg"):
        began = time.process_time()
        store = prepare_source(read_source(source), home / stored, SIDE, "crop", 1, lambda *_: None, stored=stored)
        preparing = time.process_time() - began
        pictures = Pictures([store], [np.arange(IMAGES)], SIDE)
        began = time.process_time()
        for start in range(0, IMAGES, 64):
            pictures[order[start : start + 64]]
        took = time.process_time() - began
        size = sum(shard["bytes"] for shard in store.facts["shards"]) / IMAGES
        print(
            f"stored images of {SIDE} px, {store.how}: {size / 1e3:.0f} kB an image, "
            f"{IMAGES / preparing:,.0f} images prepared in a second of one core, {IMAGES / took:,.0f} read"
        )


def like_a_photograph(rng: np.random.Generator, side: int) -> np.ndarray:
    """uint8 [side, side, 3] whose amplitudes fall with the frequency, grey for the most part."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    noise = np.fft.rfft2(rng.standard_normal((4, side, side))) / np.maximum(frequency, 1 / side) ** FALL
    grey, *colours = np.fft.irfft2(noise, s=(side, side))
    made = np.stack([grey + 0.3 * colour for colour in colours], axis=-1)
    return (128 + 50 * made / made.std()).clip(0, 255).astype(np.uint8)


def storage(home: Path) -> None:
    features(home)
    images(home)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        storage(Path(folder))
