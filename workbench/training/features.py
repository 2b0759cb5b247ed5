"""A frozen vision encoder's features, computed once for all trials and read by every training step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data.corpus import SPLITS, Corpus, Pairs, split_sizes
from workbench.data.features import BLOCK, Features, Layout, missing, open_features, open_of_one_file
from workbench.data.loader import Order, StepImages, in_background
from workbench.data.store import Images
from workbench.model.encoders import feature_shape
from workbench.model.vilta import ViLTA
from workbench.randomness import key
from workbench.training.warm_start import new_model, vision_digest

RESIDENT = 0.3  # fraction of a GPU's free memory that resident features may take; the rest is for training
Show = Callable[[int, int, dict[str, float]], None]  # (images done, images in total, figures)


@dataclass(frozen=True)
class Room:
    """The disk space of stored features in the folder `home`.

    `images`: their number over all splits. `row`: the shape [T, C] of an image's features. `missing` of the `bytes` are
    not written yet.
    """

    home: Path
    images: int
    row: tuple[int, int]
    bytes: int
    missing: int


def known_before_training(settings: Settings) -> bool:
    """Whether the vision encoder is frozen in its initial or loaded state, so that the warm start may read its
    features."""
    start = settings.warm_start
    changed = start.train_vision or settings.model.weights or start.source == "package"
    return settings.model.vision.frozen and not changed


def features_name(settings: Settings, data: str, start: str) -> str:
    """The name of a frozen vision encoder's stored features, from the fingerprints of their data and of the trials'
    start."""
    if not known_before_training(settings):
        return f"features-{start}"
    side = [settings.data.image_size] if settings.data.source == "prepared" else []
    vision = settings.model.vision.model_dump_json()
    return f"features-{key(vision, vision_digest(settings), settings.warm_start.seed, data, *side):016x}"


def room_of(settings: Settings, home: Path) -> Room:
    """The disk space that the features of these settings need in the folder `home`, computed from shapes alone.

    Raises UserError if the data cannot be read, or timm cannot build the encoder.
    """
    sizes, row = split_sizes(settings.data, home.parent), feature_shape(settings.model.vision, settings.data.image_size)
    layout = Layout.read(home) or Layout.of(row, sizes, "")
    missing_rows = 0 if open_of_one_file(home, sizes) else sum(len(shard.rows) for shard in missing(home, layout))
    return Room(home, sum(sizes.values()), row, layout.bytes, missing_rows * layout.row_bytes)


def stored_features(
    settings: Settings, corpus: Corpus, weights: dict[str, Tensor], device: torch.device, home: Path, show: Show
) -> dict[str, Features]:
    """The features of every split, computed once with the `weights`, and memory-mapped from `home`.

    Raises UserError and OSError like `open_features`.
    """
    rows = {split: len(getattr(corpus, split)) for split in SPLITS}
    if old := open_of_one_file(home, rows):
        return old

    @cache
    def model() -> ViLTA:
        encoder = new_model(settings, corpus, settings.warm_start.seed)
        encoder.load_state_dict(weights, strict=False)
        return encoder.to(device).eval()

    def make(split: str, wanted: range) -> Iterator[np.ndarray]:
        return encoded(model(), getattr(corpus, split), wanted, device)

    layout = Layout.read(home)
    if layout is None or layout.rows != rows:
        vision = settings.model.vision
        about = f"{vision.name}, {vision.tokens} {vision.stage}, {settings.data.image_size} px, {corpus.fingerprint}"
        layout = Layout.of((model().vision.tokens, model().vision.channels), rows, about)
    return open_features(home, layout, make, show)


@torch.no_grad()
def image_features(model: ViLTA, images: np.ndarray | Tensor, device: torch.device, batch_size: int = 256) -> Tensor:
    """The features of images uint8 [N, 3, H, W] -> float32 [N, T, C] on the device."""
    batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
    return torch.cat([model.image_features(_tensor(batch).to(device)).float() for batch in batches])


def _tensor(images: np.ndarray | Tensor) -> Tensor:
    return images if isinstance(images, Tensor) else torch.from_numpy(np.array(images))


def encoded(model: ViLTA, pairs: Pairs, rows: range, device: torch.device) -> Iterator[np.ndarray]:
    """Yields the features of a split's images, float32 [n, T, C], one block at a time."""
    blocks = range(rows.start, rows.stop, BLOCK)
    read = partial(_images, pairs, rows.stop, device)
    # With a GPU, a thread reads the next block; without one, the CPU cores are already busy.
    for images in in_background(read, blocks, 1) if device.type == "cuda" else map(read, blocks):
        yield image_features(model, images, device).cpu().numpy()


def _images(pairs: Pairs, stop: int, device: torch.device, start: int) -> np.ndarray | Tensor:
    """The images of a block, uint8 [n, 3, H, W]."""
    end = min(start + BLOCK, stop)
    if device.type == "cuda" and isinstance(pairs.images, Images):
        return pairs.images.on(np.arange(start, end), device)
    return pairs.images[start:end]


def read_features(
    features: Features, order: Order, parts: Sequence[slice], steps: range, device: torch.device
) -> Iterator[list[Tensor]]:
    """The features float16 [b, T, C] of each part of the batch, for each of the steps.

    They come from the GPU's memory if all features fit there; otherwise a thread reads ahead.
    """
    if features.nbytes <= RESIDENT * free_memory(device):
        try:
            return _gathered(on_gpu(features, device), order, parts, steps)
        except torch.OutOfMemoryError:  # another process was faster
            torch.cuda.empty_cache()
    batches = StepImages(features, order, parts)
    pin = device.type == "cuda"
    return in_background(lambda step: [part.pin_memory() if pin else part for part in batches[step]], steps)


def free_memory(device: torch.device) -> int:
    """Free bytes of a GPU's memory; 0 for a CPU, where the operating system's file cache is as fast."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def on_gpu(features: Features, device: torch.device) -> Tensor:
    """All features [N, T, C] on the device, copied one block at a time."""
    table = torch.empty(features.shape, dtype=torch.float16, device=device)
    for start in range(0, len(features), BLOCK):
        part = torch.from_numpy(features[start : start + BLOCK])
        table[start : start + len(part)] = part.to(device)
    return table


def _gathered(table: Tensor, order: Order, parts: Sequence[slice], steps: range) -> Iterator[list[Tensor]]:
    for step in steps:
        _, rows = order.at(step)
        places = torch.from_numpy(rows).to(table.device)
        yield [table[places[part]] for part in parts]
