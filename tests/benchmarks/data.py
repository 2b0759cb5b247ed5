"""What images cost: rendered or from the cache, as JPEG files or prepared."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from tests.benchmarks.figures import CPU, Figure, by_turns, figure, ratio
from workbench.data.prepare import prepare_source
from workbench.data.scenes import render, sample_scene
from workbench.data.sources.detect import read_source
from workbench.data.store import Images, Store

SCENES, FILES, SIDE, BATCH = 100, 256, 256, 64


class Files(Dataset[Tensor]):
    """Image files, read as torchvision's ImageFolder does with the usual transforms."""

    def __init__(self, paths: list[Path], side: int) -> None:
        self.paths = paths
        self.transform = v2.Compose([v2.PILToTensor(), v2.Resize(side, antialias=True), v2.CenterCrop(side)])

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        with Image.open(self.paths[place]) as opened:
            made: Tensor = self.transform(opened.convert("RGB"))
        return made


def measure(repeats: int, home: Path) -> list[Figure]:
    return [*rendered(repeats, home), *files(repeats, home)]


def rendered(repeats: int, home: Path) -> list[Figure]:
    """Scenes, and the same from a memory-mapped file as the cache has them."""
    drawn = [sample_scene(0, "train", index) for index in range(SCENES)]
    np.save(home / "scenes.npy", np.stack([render(scene, 64) for scene in drawn]))
    stored = np.load(home / "scenes.npy", mmap_mode="r")

    def cached() -> None:
        for _ in range(100):
            np.array(stored)

    times = by_turns({"rendered": lambda: [render(scene, 64) for scene in drawn], "cached": cached}, repeats)
    return [ratio(f"{SCENES} scenes, rendered / read from the cache", times["rendered"], times["cached"] / 100)]


def files(repeats: int, home: Path) -> list[Figure]:
    """JPEG files of COCO's usual size: prepared anew in each repeat, and read in random order."""
    source, rng = home / "files", np.random.default_rng(0)
    source.mkdir()
    for place in range(FILES):
        coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
        coarse.resize((640, 480), Image.Resampling.BICUBIC).save(source / f"{place}.jpg", quality=90)
        (source / f"{place}.txt").write_text(f"image {place}")
    order, paths = rng.permutation(FILES), sorted(source.glob("*.jpg"))
    targets = (home / f"stored{number}" for number in range(repeats + 2))

    def prepared() -> Store:
        return prepare_source(read_source(source), next(targets), SIDE, "crop", 1, lambda *_: None)

    images = Images([prepared()], [np.arange(FILES)], SIDE)

    def from_files() -> None:
        for _ in DataLoader(Files([paths[place] for place in order], SIDE), batch_size=BATCH):
            pass

    def from_store() -> None:
        for _ in range(10):
            for start in range(0, FILES, BATCH):
                torch.from_numpy(images[order[start : start + BATCH]])

    times = by_turns({"files": from_files, "store": from_store, "preparing": prepared}, repeats)
    times["store"] /= 10
    about = f"{CPU}, in the page cache"
    return [
        ratio(f"{FILES} JPEG files of 640 x 480, ImageFolder-style loader / prepared", times["files"], times["store"]),
        ratio("... preparing them once / one pass of that loader", times["preparing"], times["files"]),
        figure("... read by that loader", "images/s", FILES / times["files"], about),
        figure("... read as prepared", "images/s", FILES / times["store"], about),
        figure("... prepared", "images/s", FILES / times["preparing"], about),
    ]
