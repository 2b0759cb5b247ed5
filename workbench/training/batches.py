"""What a step reads: its batch of captions and its images."""

import os
from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data.augment import augment
from workbench.data.corpus import Pairs
from workbench.data.loader import Order, read_ahead
from workbench.distributed import World
from workbench.errors import UserError
from workbench.objectives.batch import Batch, BatchKey, Weights, draw_batch
from workbench.objectives.teachers import Teachers
from workbench.randomness import generator
from workbench.training.features import read_features
from workbench.training.foils import FoilMaker, made_by_rules
from workbench.training.parallelize import local_size
from workbench.training.prepare import Prepared


def training_batch(
    settings: Settings,
    prepared: Prepared,
    teachers: Teachers,
    foils: "FoilTable | None",
    key: BatchKey,
    weigh: Callable[[np.ndarray], Weights],
) -> Batch:
    """What a step learns from; `weigh` says of captions int64 [B, L] which words are chosen."""
    corpus = prepared.corpus
    vocabulary = teachers.words.vocabulary
    token_ids, foil_ids = vocabulary.trim(corpus.train.texts(key.rows, key.seed, key.epoch)), None
    if foils is not None:
        foil_ids = vocabulary.trim(foils.draw(key.rows, token_ids, key.seed, key.step))
        length = max(token_ids.shape[1], foil_ids.shape[1])
        token_ids, foil_ids = (_widen(ids, length, vocabulary.pad) for ids in (token_ids, foil_ids))
    return draw_batch(
        token_ids,
        foil_ids,
        settings.objectives,
        vocabulary,
        key,
        weigh(token_ids),
    )


def read_images(
    settings: Settings, prepared: Prepared, order: Order, world: World, first: int
) -> Iterator[list[Tensor]]:
    """For each step from `first` on, what this process reads of each micro-batch: images uint8 [b, 3, S, S] as they
    are stored, or a frozen vision encoder's stored features float16 [b, N, C]."""
    count, device, workers = settings.optimisation.micro_batches, prepared.device, settings.data.workers
    parts = [world.part(order.size, micro_batch, count) for micro_batch in range(count)]
    steps, on_gpu = range(first, settings.optimisation.steps), device.type == "cuda"
    if prepared.features and workers is None:
        return read_features(prepared.features["train"], order, parts, steps, device)
    if workers is None:
        workers = min(4, (os.cpu_count() or 1) // local_size()) if on_gpu else 0
    images = prepared.features["train"] if prepared.features else prepared.corpus.train.images
    return read_ahead(images, order, parts, steps, workers, on_gpu)


def on_device(settings: Settings, prepared: Prepared, read: Tensor, key: BatchKey, part: slice) -> Tensor:
    """What was read of a `part` of the batch, as the model takes it: float features, or uint8 images of its size,
    augmented."""
    moved = read.to(prepared.device, non_blocking=True)
    if prepared.features:
        return moved.float()
    return augment(moved, settings.data.augment, settings.data.image_size, key.rows[part], key.seed, key.epoch)


def training_foils(settings: Settings, prepared: Prepared) -> Pairs:
    """The training pairs with their foils, made on first use where they are made by rules."""
    if not made_by_rules(settings, prepared.corpus.train):
        return prepared.corpus.train
    given = (prepared.corpus, prepared.weights, prepared.fingerprint, prepared.device, prepared.cache_dir)
    return FoilMaker(settings, *given).training(lambda *_: None)


class FoilTable:
    """The true foils of each training pair; one is drawn for every pair and step (the positive control)."""

    def __init__(self, pairs: Pairs) -> None:
        kinds = {kind: made for kind, made in pairs.variants.items() if kind != "paraphrase"}
        if not kinds:
            raise UserError(
                "`objectives.itm.negatives: foils` needs captions that are known to be false, and there are none: take"
                " `data.source: scenes`, a prepared corpus that brings foils, or `data.foils: words` with English"
                " captions, and more of them."
            )
        self.pad = pairs.tokeniser.pad
        length = max(pairs.token_ids.shape[1], *(ids.shape[1] for _, ids in kinds.values()))
        self.token_ids = np.full((len(kinds), len(pairs), length), self.pad, dtype=np.int32)
        self.present = np.zeros((len(kinds), len(pairs)), dtype=bool)
        for table, present, (rows, ids) in zip(self.token_ids, self.present, kinds.values(), strict=True):
            table[rows] = _widen(ids, length, self.pad)
            present[rows] = True

    def draw(self, rows: np.ndarray, captions: np.ndarray, seed: int, step: int) -> np.ndarray:
        """int64 [B, L]: a foil of a random kind for each of the pairs `rows`; its caption (int64 [B, K]) where it has
        none."""
        chance = generator("foil kinds", seed, step).random((len(self.present), len(rows)))
        kind = np.where(self.present[:, rows], chance, -1.0).argmax(axis=0)
        drawn = self.token_ids[kind, rows].astype(np.int64)
        own = _widen(captions, max(captions.shape[1], drawn.shape[1]), self.pad)
        has_one = self.present[kind, rows]
        return np.where(has_one[:, None], _widen(drawn, own.shape[1], self.pad), own)


def _widen(token_ids: np.ndarray, length: int, pad: int) -> np.ndarray:
    return np.pad(token_ids, ((0, 0), (0, length - token_ids.shape[1])), constant_values=pad)
