"""The likelihood of a caption under a language encoder, which sees no image."""

import numpy as np
import torch
from transformers import PreTrainedModel

from workbench.data.text import Vocabulary
from workbench.model.language import text_states, word_logits

ROWS = 1024  # captions per forward pass of the language encoder


@torch.no_grad()
def pseudo_log_likelihood(language: PreTrainedModel, token_ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The pseudo-log-likelihood (nats) of captions int64 [B, L] -> float64 [B].

    It is the sum of the tokens' log-probabilities, each token masked in turn (Salazar et al. 2020, arXiv 1910.14659).
    """
    device, ordinary = language.device, vocabulary.ordinary[token_ids]
    total = np.zeros(len(token_ids))
    rows, columns = np.nonzero(ordinary)
    # Captions of one length together, so that none is padded to a longer one.
    order = np.argsort(ordinary.sum(axis=1)[rows], kind="stable")
    rows, columns = rows[order], columns[order]
    for start in range(0, len(rows), ROWS):
        row, column = rows[start : start + ROWS], columns[start : start + ROWS]
        hidden = vocabulary.trim(token_ids[row].astype(np.int64))
        places, true = np.arange(len(row)), token_ids[row, column]
        hidden[places, column] = vocabulary.mask
        states = text_states(language, torch.from_numpy(hidden).to(device))
        picked = states[torch.from_numpy(places).to(device), torch.from_numpy(column).to(device)]
        log_p = word_logits(language, picked).float().log_softmax(dim=-1)
        np.add.at(total, row, log_p[torch.from_numpy(places), torch.from_numpy(true).to(device)].double().cpu().numpy())
    return total
