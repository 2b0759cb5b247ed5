"""Tables about the words of the vocabulary: their frequencies, their synonyms, and which are content words."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.data.corpus import Corpus
from workbench.data.text import Vocabulary
from workbench.data.word_classes import ContentWords


@dataclass(frozen=True)
class WordTables:
    """The tables.

    `unigram` float [V]: log-probabilities of the training captions' words. `synonyms` int64 [V, K]: each token and its
    synonyms. `special` int64: the tokens that are not words. `content`: the content words.
    """

    unigram: Tensor
    synonyms: Tensor
    vocabulary: Vocabulary
    special: Tensor
    content: ContentWords | None = None


def word_tables(corpus: Corpus, device: torch.device, content: bool) -> WordTables:
    """The tables of a corpus, on `device`, with content words only if `content`."""
    vocabulary = corpus.tokeniser.vocabulary
    return WordTables(
        unigram=unigram(corpus.train.firsts(), vocabulary).to(device),
        synonyms=torch.from_numpy(corpus.synonyms).to(device),
        vocabulary=vocabulary,
        special=torch.tensor(vocabulary.special, device=device),
        content=corpus.content if content else None,
    )


def unigram(token_ids: np.ndarray, vocabulary: Vocabulary) -> Tensor:
    """Log-probabilities [V] of ordinary tokens, from counts plus one; special tokens have minus infinity."""
    counts = np.bincount(token_ids.ravel(), minlength=vocabulary.size)[: vocabulary.size] + 1.0
    counts[~vocabulary.ordinary] = 0.0
    return torch.from_numpy(counts / counts.sum()).log().float()
