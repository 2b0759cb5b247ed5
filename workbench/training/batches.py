"""What a step reads: its plan and its pictures."""

import numpy as np
import torch
from torch import Tensor

from workbench.config.schema import Settings
from workbench.data.corpus import Pairs
from workbench.data.text import PAD, trim
from workbench.errors import UserError
from workbench.objectives.companions import Companions
from workbench.objectives.plan import Plan, plan_step
from workbench.randomness import generator
from workbench.training.prepare import Prepared


def plan_batch(
    settings: Settings,
    prepared: Prepared,
    companions: Companions,
    foils: "FoilTable | None",
    rows: np.ndarray,
    seed: int,
    step: int,
) -> Plan:
    """The plan of the pairs `rows` int64 [B] of `step`."""
    corpus = prepared.corpus
    token_ids, foil_ids = trim(corpus.train.token_ids[rows]), None
    if foils is not None:
        foil_ids = trim(foils.draw(rows, seed, step))
        length = max(token_ids.shape[1], foil_ids.shape[1])
        token_ids, foil_ids = _widen(token_ids, length), _widen(foil_ids, length)
    vocabulary = corpus.tokeniser.vocabulary
    return plan_step(token_ids, foil_ids, settings.objectives, vocabulary, companions.word_starts, seed, step)


def load_images(prepared: Prepared, rows: np.ndarray) -> Tensor:
    """The pictures of training pairs, uint8 [b, 3, H, W]; with a frozen vision encoder its stored features [b, N, C]."""
    if prepared.features:
        return torch.from_numpy(prepared.features["train"][rows]).to(prepared.device).float()
    return torch.from_numpy(np.array(prepared.corpus.train.images[rows])).to(prepared.device)


class FoilTable:
    """The true foils of each training pair; one is drawn for every pair and step (the positive control)."""

    def __init__(self, pairs: Pairs) -> None:
        kinds = {kind: made for kind, made in pairs.variants.items() if kind != "paraphrase"}
        if not kinds:
            raise UserError(
                "`objectives.itm.negatives: foils` needs pairs whose facts are known: `data.source: scenes`."
            )
        length = max(pairs.token_ids.shape[1], *(ids.shape[1] for _, ids in kinds.values()))
        self.token_ids = np.empty((len(kinds), len(pairs), length), dtype=np.int32)
        self.present = np.zeros((len(kinds), len(pairs)), dtype=bool)
        for table, present, (rows, ids) in zip(self.token_ids, self.present, kinds.values(), strict=True):
            table[:] = _widen(pairs.token_ids, length)
            table[rows] = _widen(ids, length)
            present[rows] = True

    def draw(self, rows: np.ndarray, seed: int, step: int) -> np.ndarray:
        """int64 [B, L]: a foil of a random kind for each row; the caption itself where it has none."""
        chance = generator("foil kinds", seed, step).random((len(self.present), len(rows)))
        kind = np.where(self.present[:, rows], chance, -1.0).argmax(axis=0)
        return self.token_ids[kind, rows].astype(np.int64)


def _widen(token_ids: np.ndarray, length: int) -> np.ndarray:
    return np.pad(token_ids, ((0, 0), (0, length - token_ids.shape[1])), constant_values=PAD)
