"""What stands beside the model in training and is not trained itself: teachers, generators, and facts of the vocabulary."""

from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import RobertaForMaskedLM

from workbench.config.schema import Objectives
from workbench.data.text import PAD, SPECIAL, Tokeniser
from workbench.model.vilta import ViLTA

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Companions:
    """`frozen`: the language encoder as the warm start left it (ViLTA's teacher; it sees no picture). `ema`: the model's
    exponential moving average (ALBEF's momentum model; it sees the picture). `unigram` [V]: log-probabilities of the
    training captions' words. `synonyms` int64 [V, K]: each token and what means the same. `word_starts` bool [V]: the
    tokens that begin a word."""

    frozen: RobertaForMaskedLM | None
    ema: ViLTA | None
    unigram: Tensor
    synonyms: Tensor
    word_starts: np.ndarray

    @torch.no_grad()
    def follow(self, model: ViLTA, decay: float) -> None:
        """ema <- decay * ema + (1 - decay) * model; to be called after every optimiser step."""
        if self.ema is None:
            return
        for own, trained in zip(self.ema.parameters(), model.parameters(), strict=True):
            own.lerp_(trained, 1 - decay)
        for kept, buffer in zip(self.ema.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)


def make_companions(
    objectives: Objectives, model: ViLTA, train_ids: np.ndarray, synonyms: np.ndarray, tokeniser: Tokeniser
) -> Companions:
    """The companions that the objectives ask for, copied from `model` before it is trained further."""
    mlm, itm, device = objectives.mlm, objectives.itm, model.text_type.device
    written = itm.negatives == "synthesized"
    frozen = mlm.soft_labels == "frozen_lm" or (
        written and (itm.generator == "frozen" or itm.false_negative_filter == "teacher")
    )
    ema = mlm.soft_labels == "ema" or (written and itm.generator == "ema")
    return Companions(
        frozen=_still(model.language) if frozen else None,
        ema=_still(model) if ema else None,
        unigram=unigram(train_ids, tokeniser.vocabulary).to(device),
        synonyms=torch.from_numpy(synonyms).to(device),
        word_starts=tokeniser.word_starts(),
    )


def unigram(token_ids: np.ndarray, vocabulary: int) -> Tensor:
    """Log-probabilities [V] of ordinary tokens, each counted once more than it occurs; special tokens have none."""
    counts = np.bincount(token_ids.ravel(), minlength=vocabulary)[:vocabulary] + 1.0
    counts[: len(SPECIAL)] = 0.0
    return torch.from_numpy(counts / counts.sum()).log().float()


def _still(module: Module) -> Module:
    copy = deepcopy(module).eval()
    copy.requires_grad_(False)
    return copy


@torch.no_grad()
def language_logits(language: RobertaForMaskedLM, token_ids: Tensor, positions: Tensor) -> Tensor:
    """Word logits [M, V] of a language encoder at `positions` (bool [B, L]) of captions int64 [B, L]; no picture."""
    states = language.roberta(token_ids, attention_mask=(token_ids != PAD).long()).last_hidden_state
    predicted: Tensor = language.lm_head(states[positions])
    return predicted
