"""How likely the words of a training batch are to be masked and written over; what can be measured once is, and is kept."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data import cache
from workbench.objectives.companions import Companions
from workbench.objectives.plan import Weights
from workbench.objectives.words import asked, entropies, salience, weights_of
from workbench.randomness import key
from workbench.training.prepare import Prepared, precision
from workbench.world import World

VERSION = 1  # raise it whenever a change alters the cached entropies
CHUNK = 2048  # captions
NOTHING = torch.empty(0)
Pictures = Callable[[], Iterator[tuple[slice, Tensor]]]  # own rows of the batch, and their pictures or stored features


class WordChoice:
    """The weights of a batch's words, by what the objectives ask for."""

    def __init__(self, settings: Settings, prepared: Prepared, companions: Companions, world: World) -> None:
        self.settings, self.companions, self.world = settings, companions, world
        self.pairs, self.device = prepared.corpus.train, prepared.device
        self.surprise = _surprise(settings, prepared, companions) if asked(settings.objectives, "surprising") else None

    def weigh(self, rows: np.ndarray, seed: int, epoch: int, pictures: Pictures, token_ids: np.ndarray) -> Weights:
        """Weights of the captions int64 [B, L] that the pairs `rows` have in this epoch. Every process must call it."""
        known = {}
        if self.surprise is not None:
            captions = self.pairs.draw(rows, seed, epoch)
            known["surprising"] = self.surprise[captions, : token_ids.shape[1]].astype(np.float32)
        if asked(self.settings.objectives, "salient"):
            known["salient"] = self._salience(pictures, token_ids)
        return weights_of(self.settings.objectives, token_ids, self.companions, NOTHING, known)

    @torch.no_grad()
    def _salience(self, pictures: Pictures, token_ids: np.ndarray) -> np.ndarray:
        """Each process measures its own pairs, and tells the others."""
        model = self.companions.ema
        assert model is not None
        made = torch.zeros(token_ids.shape, device=self.device)
        for own, images in pictures():
            with precision(images.device, self.settings.optimisation.precision):
                features = images if images.is_floating_point() else model.image_features(images)
                made[own] = torch.from_numpy(salience(model, features, token_ids[own])).to(self.device)
        return self.world.sum(made).cpu().numpy()


def _surprise(settings: Settings, prepared: Prepared, companions: Companions) -> np.ndarray:
    """float16 [M, L]: the frozen language encoder's uncertainty of each word of each training caption, measured once."""
    assert companions.frozen is not None
    language, pairs = companions.frozen, prepared.corpus.train
    name = key(VERSION, prepared.fingerprint, prepared.corpus.fingerprint, str(settings.data.caption_noise))

    def make(target: Path) -> None:
        table = cache.new_array(
            target / "entropies.npy", (pairs.count, prepared.corpus.tokeniser.max_length), "float16"
        )
        for start in range(0, pairs.count, CHUNK):
            ids = pairs.captions_at(np.arange(start, min(start + CHUNK, pairs.count)))
            table[start : start + len(ids), : ids.shape[1]] = entropies(language, ids)
        table.flush()

    home = cache.entry(prepared.cache_dir / f"surprise-{name:016x}", make)
    table: np.ndarray = np.load(home / "entropies.npy", mmap_mode="r")
    return table
