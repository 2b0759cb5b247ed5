"""Sampling weights for masking and rewriting: how likely each token of a caption is to be chosen."""

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from workbench.config.schema import Objectives, Words
from workbench.data.text import Vocabulary
from workbench.model.fusion import NONE
from workbench.model.language import text_states, word_logits
from workbench.model.vilta import ViLTA
from workbench.objectives.batch import Weights
from workbench.objectives.teachers import Teachers

ROWS = 1024  # captions per forward pass of the language encoder
PAIRS = 256  # pairs per forward pass for salience
STEPS = 64  # per nat: finer differences may depend on how the batch was split
GRAY = 128
# Every word keeps some chance of being chosen, however certain the models are of it.
LEAST_ENTROPY, LEAST_DROP = 0.01, 0.05


def asked(objectives: Objectives, kind: Words) -> bool:
    """Whether words of this kind are to be masked or rewritten."""
    written = objectives.itm.negatives == "synthesized"
    return objectives.mlm.mask_words == kind or (written and objectives.itm.synthesis_words == kind)


def word_weights(
    kind: Words, token_ids: np.ndarray, teachers: Teachers, features: Tensor, turns: np.ndarray | None = None
) -> np.ndarray | None:
    """Weights float [B, L] of the tokens of captions int64 [B, L], whose images have the `features` [B, N, C].

    None: all tokens have the same weight. `turns` int64 [B]: see `salience`; by default the captions' indices.
    """
    if kind == "any":
        return None
    if kind == "content":
        assert teachers.words.content is not None
        return teachers.words.content.of_captions(token_ids).astype(np.float32)
    if kind == "surprising":
        assert teachers.frozen is not None
        return entropies(teachers.frozen, token_ids, teachers.words.vocabulary)
    assert teachers.ema is not None
    turns = np.arange(len(token_ids)) if turns is None else turns
    parts = [slice(start, start + PAIRS) for start in range(0, len(token_ids), PAIRS)]
    return np.concatenate(
        [
            salience(teachers.ema, features[rows], token_ids[rows], turns[rows], teachers.words.vocabulary)
            for rows in parts
        ]
    )


def weights_of(
    objectives: Objectives,
    token_ids: np.ndarray,
    teachers: Teachers,
    features: Tensor,
    known: dict[str, np.ndarray] | None = None,
    turns: np.ndarray | None = None,
) -> Weights:
    """The weights with which a batch of captions is masked and rewritten.

    `known`: weights of some kinds that are already computed. `turns`: see `salience`.
    """
    by_kind = {} if known is None else dict(known)

    def of(kind: Words) -> np.ndarray | None:
        if kind not in by_kind:
            weights = word_weights(kind, token_ids, teachers, features, turns)
            if weights is None:
                return None
            by_kind[kind] = weights
        return by_kind[kind]

    writes = objectives.itm.negatives == "synthesized"
    return Weights(of(objectives.mlm.mask_words), of(objectives.itm.synthesis_words) if writes else None)


@torch.no_grad()
def entropies(language: PreTrainedModel, token_ids: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
    """The language encoder's entropy (nats) at each masked token of captions int64 [B, L] -> float32 [B, L].

    One token is masked at a time. Special tokens have 0.
    """
    device = language.device
    uncertainty = np.zeros(token_ids.shape, dtype=np.float32)
    rows, columns = np.nonzero(vocabulary.ordinary[token_ids])
    for start in range(0, len(rows), ROWS):
        row, column = rows[start : start + ROWS], columns[start : start + ROWS]
        hidden = vocabulary.trim(token_ids[row].astype(np.int64))
        hidden[np.arange(len(row)), column] = vocabulary.mask
        states = text_states(language, torch.from_numpy(hidden).to(device))
        picked = states[torch.arange(len(row), device=device), torch.from_numpy(column).to(device)]
        log_p = word_logits(language, picked).float().log_softmax(dim=-1)
        entropy = -(log_p.exp() * log_p).sum(dim=-1)
        uncertainty[row, column] = entropy.clamp(min=LEAST_ENTROPY).cpu().numpy()
    return uncertainty


@torch.no_grad()
def salience(
    model: ViLTA, features: Tensor, token_ids: np.ndarray, turns: np.ndarray, vocabulary: Vocabulary
) -> np.ndarray:
    """How much the image helps to predict each token of captions int64 [B, L] -> float32 [B, L].

    It is the log-probability (nats) of the masked word with the image, minus that with a gray image. Special tokens
    have 0. EPIC (CVPR 2023, arXiv 2211.15398) is similar, but reads it off the momentum model's attention to the image.
    One forward pass masks every second word: those at even or at odd positions, by the parity of the caption's number
    in `turns` int64 [B]. The other words get the least weight, that of a word to which the image contributes nothing.
    """
    ids = torch.from_numpy(np.asarray(token_ids, dtype=np.int64)).to(features.device)
    ordinary = model.ordinary[ids]
    turn = torch.from_numpy(turns).to(features.device)
    hidden = ordinary & ((ordinary.cumsum(dim=1) + turn[:, None]) % 2 == 0)
    read = torch.where(hidden, vocabulary.mask, ids)
    states = model.encode_text(read)
    side = model.image_side
    gray = torch.full((1, 3, side, side), GRAY, dtype=torch.uint8, device=features.device)
    log_probabilities = []
    for seen in (features, model.image_features(gray)):
        image = model.adapt_image(seen.float()).expand(len(ids), -1, -1)
        fused, _ = model.fuse(states, image, read, NONE)
        log_p = model.mlm_logits(fused[hidden]).float().log_softmax(dim=-1)
        log_probabilities.append(log_p.gather(1, ids[hidden][:, None]).squeeze(1))
    weights = torch.where(ordinary, LEAST_DROP, 0.0)
    with_image, without = log_probabilities
    weights[hidden] = ((with_image - without) * STEPS).round().div(STEPS).clamp(min=LEAST_DROP)
    return weights.cpu().numpy()
