"""The sampling weights of a training batch's words for masking and rewriting; those that do not change are cached."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data import cache
from workbench.distributed import World
from workbench.objectives.batch import HARD_CAPTION, BatchKey, Weights, false_pairs
from workbench.objectives.teachers import Teachers
from workbench.objectives.words import asked, entropies, salience, weights_of
from workbench.randomness import key
from workbench.training.prepare import Prepared, precision

VERSION = 1  # increment whenever a change alters the cached entropies
CHUNK = 2048  # captions
NOTHING = torch.empty(0)
Shown = Callable[[], Iterator[tuple[slice, Tensor]]]  # this process's rows of the batch, and their images or features


class WordChoice:
    """The sampling weights of a batch's words, as the objectives define them."""

    def __init__(self, settings: Settings, prepared: Prepared, teachers: Teachers, world: World) -> None:
        self.settings, self.teachers, self.world = settings, teachers, world
        self.pairs, self.device = prepared.corpus.train, prepared.device
        self.surprise = _surprise(settings, prepared, teachers) if asked(settings.objectives, "surprising") else None

    def weigh(self, at: BatchKey, shown: Shown, token_ids: np.ndarray) -> Weights:
        """The weights of the batch's captions int64 [B, L]. Every process must call it."""
        known, objectives = {}, self.settings.objectives
        if self.surprise is not None:
            captions = self.pairs.draw(at.rows, at.seed, at.epoch)
            known["surprising"] = self.surprise[captions, : token_ids.shape[1]].astype(np.float32)
        if asked(objectives, "salient"):
            wanted = np.arange(len(at.rows))
            if objectives.mlm.mask_words != "salient":  # then only rewritten captions need weights
                chosen, _, negatives = false_pairs(objectives.itm, len(at.rows), at.seed, at.step)
                wanted = np.sort(chosen[negatives == HARD_CAPTION])
            known["salient"] = self._salience(shown, token_ids, at.rows + at.epoch, wanted)
        return weights_of(objectives, token_ids, self.teachers, NOTHING, known)

    @torch.no_grad()
    def _salience(self, shown: Shown, token_ids: np.ndarray, turns: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """The salience of the `wanted` rows int64 [K] of the batch, 0 for the others.

        Each process measures its own pairs, and all processes get the sum.
        """
        model = self.teachers.ema
        assert model is not None
        weights = torch.zeros(token_ids.shape, device=self.device)
        for part, images in shown():
            here = wanted[(wanted >= part.start) & (wanted < part.stop)]
            if not len(here):
                continue
            seen = images[torch.from_numpy(here - part.start).to(images.device)]
            with precision(images.device, self.settings.optimisation.precision):
                features = seen if seen.is_floating_point() else model.image_features(seen)
                part_weights = salience(model, features, token_ids[here], turns[here], self.teachers.words.vocabulary)
            weights[torch.from_numpy(here).to(self.device)] = torch.from_numpy(part_weights).to(self.device)
        return self.world.sum(weights).cpu().numpy()


def _surprise(settings: Settings, prepared: Prepared, teachers: Teachers) -> np.ndarray:
    """The frozen language encoder's entropy at each word of each training caption, float16 [M, L], measured once."""
    assert teachers.frozen is not None
    language, pairs = teachers.frozen, prepared.corpus.train
    name = key(VERSION, prepared.fingerprint, prepared.corpus.fingerprint, str(settings.data.caption_noise))

    def make(target: Path) -> None:
        table = cache.new_array(
            target / "entropies.npy", (pairs.count, prepared.corpus.tokeniser.max_length), "float16"
        )
        for start in range(0, pairs.count, CHUNK):
            ids = pairs.captions_at(np.arange(start, min(start + CHUNK, pairs.count)))
            table[start : start + len(ids), : ids.shape[1]] = entropies(language, ids, teachers.words.vocabulary)
        table.flush()

    home = cache.entry(prepared.cache_dir / f"surprise-{name:016x}", make)
    table: np.ndarray = np.load(home / "entropies.npy", mmap_mode="r")
    return table
