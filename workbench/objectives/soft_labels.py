"""Teachers of soft labels for masked language modelling."""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import RobertaForMaskedLM

from workbench.config.schema import Objectives
from workbench.data.text import PAD


@dataclass(frozen=True)
class Teacher:
    """Cross-distillation (ViLTA): the language encoder as the warm start left it, frozen; it sees no picture."""

    language: RobertaForMaskedLM

    @torch.no_grad()
    def logits(self, masked_ids: Tensor, positions: Tensor) -> Tensor:
        """Word logits [M, V] at the masked positions (bool [B, L]) of the masked captions int64 [B, L]."""
        states = self.language.roberta(masked_ids, attention_mask=(masked_ids != PAD).long()).last_hidden_state
        predicted: Tensor = self.language.lm_head(states[positions])
        return predicted


def make_teacher(objectives: Objectives, language: RobertaForMaskedLM) -> Teacher | None:
    """The teacher that the objectives ask for, copied from `language` before it is trained further."""
    if objectives.mlm.soft_labels == "none":
        return None
    frozen = deepcopy(language).eval()
    frozen.requires_grad_(False)
    return Teacher(frozen)
