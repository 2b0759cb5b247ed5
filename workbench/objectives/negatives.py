"""What an ITM negative is made of: a random picture, a caption that the language encoder wrote, or a true foil."""

import torch
from torch import Tensor

from workbench.data.text import SPECIAL


def synthesize(
    logits: Tensor, original: Tensor, positions: Tensor, temperature: float, banned: Tensor, rng: torch.Generator
) -> Tensor:
    """Hard negative captions (our reading of ViLTA): each masked position is sampled anew from the language model.

    `logits` [B, L, V] of the current language encoder at the masked caption, `original` int64 [B, L],
    `positions` bool [B, L], `banned` int64 [V, K]: the ids that must not replace each original token (at least
    itself; with the synonym filter, its synonyms as well). Special tokens are never sampled.
    """
    picked = logits[positions] / temperature
    picked[:, : len(SPECIAL)] = -torch.inf
    picked = picked.scatter(1, banned[original[positions]], -torch.inf)
    sampled = torch.multinomial(picked.softmax(dim=-1), 1, generator=rng).squeeze(1)
    written = original.clone()
    written[positions] = sampled
    return written
