"""The input of a training step: its batch of captions and its images."""

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from workbench.config.schema import Settings
from workbench.cores import allowed_cores
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
    """The batch of a step; `weigh` returns the sampling weights of the words of captions int64 [B, L]."""
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
    """This process's images of each micro-batch, for each step from `first` on.

    They are stored images uint8 [b, 3, S, S], or a frozen vision encoder's stored features float16 [b, N, C].
    """
    count, device, workers = settings.optimisation.micro_batches, prepared.device, settings.data.workers
    parts = [world.part(order.size, micro_batch, count) for micro_batch in range(count)]
    steps, on_gpu = range(first, settings.optimisation.steps), device.type == "cuda"
    if prepared.features and workers is None:
        return read_features(prepared.features["train"], order, parts, steps, device)
    if workers is None:
        workers = min(4, allowed_cores() // local_size()) if on_gpu else 0
    images = prepared.features["train"] if prepared.features else prepared.corpus.train.images
    return read_ahead(images, order, parts, steps, workers, on_gpu)


def on_device(settings: Settings, prepared: Prepared, read: Tensor, key: BatchKey, part: slice) -> Tensor:
    """The model's input for a `part` of the batch: float features, or augmented uint8 images of the model's size."""
    moved = read.to(prepared.device, non_blocking=True)
    if prepared.features:
        return moved.float()
    return augment(moved, settings.data.augment, settings.data.image_size, key.rows[part], key.seed, key.epoch)


def training_foils(settings: Settings, prepared: Prepared) -> Pairs:
    """The training pairs with their foils; foils made by rules are made on first use."""
    if not made_by_rules(settings, prepared.corpus.train):
        return prepared.corpus.train
    maker = FoilMaker(
        settings, prepared.corpus, prepared.weights, prepared.fingerprint, prepared.device, prepared.cache_dir
    )
    return maker.training(lambda *_: None)


class FoilTable:
    """The true foils of each training pair, of which one is drawn per pair and step (the positive control)."""

    def __init__(self, pairs: Pairs) -> None:
        kinds = {kind: foils for kind, foils in pairs.variants.items() if kind != "paraphrase"}
        if not kinds:
            raise UserError(
                "`objectives.itm.negatives: foils` needs captions that are known to be false, and there are none: use"
                " `data.source: scenes`, a prepared corpus with foils, or `data.foils: words` with more English"
                " captions."
            )
        self.pad = pairs.tokeniser.pad
        length = max(pairs.token_ids.shape[1], *(ids.shape[1] for _, ids in kinds.values()))
        self.token_ids = np.full((len(kinds), len(pairs), length), self.pad, dtype=np.int32)
        self.present = np.zeros((len(kinds), len(pairs)), dtype=bool)
        for table, present, (rows, ids) in zip(self.token_ids, self.present, kinds.values(), strict=True):
            table[rows] = _widen(ids, length, self.pad)
            present[rows] = True

    def draw(self, rows: np.ndarray, captions: np.ndarray, seed: int, step: int) -> np.ndarray:
        """A foil of a random kind for each of the pairs `rows`, int64 [B, L]; the caption itself if it has none.

        `captions` int64 [B, K]: the captions of the pairs.
        """
        chance = generator("foil kinds", seed, step).random((len(self.present), len(rows)))
        kind = np.where(self.present[:, rows], chance, -1.0).argmax(axis=0)
        drawn = self.token_ids[kind, rows].astype(np.int64)
        unchanged = _widen(captions, max(captions.shape[1], drawn.shape[1]), self.pad)
        has_one = self.present[kind, rows]
        return np.where(has_one[:, None], _widen(drawn, unchanged.shape[1], self.pad), unchanged)


def _widen(token_ids: np.ndarray, length: int, pad: int) -> np.ndarray:
    return np.pad(token_ids, ((0, 0), (0, length - token_ids.shape[1])), constant_values=pad)
