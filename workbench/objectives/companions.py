"""What stands beside the model in training and is not trained itself: teachers, generators, and facts of the
vocabulary."""

from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.config.schema import Objectives
from workbench.data.corpus import Corpus
from workbench.data.masking import Places
from workbench.data.text import Vocabulary
from workbench.data.word_classes import ContentWords
from workbench.model.language import text_states, word_logits
from workbench.model.vilta import ViLTA
from workbench.world import whole

Module = TypeVar("Module", bound=nn.Module)


class Queue(nn.Module):
    """The momentum model's features of past pairs, a ring of at most `size`; [size, P] for images and for
    captions."""

    image: Tensor
    text: Tensor
    place: Tensor
    filled: Tensor

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        for name in ("image", "text"):
            self.register_buffer(name, torch.zeros(size, width))
        for name in ("place", "filled"):
            self.register_buffer(name, torch.zeros((), dtype=torch.long))

    def past(self) -> tuple[Tensor, Tensor]:
        """What is there: [filled, P] of images, of captions; copies, since the ring moves on before the backward
        pass."""
        return self.image[: self.filled].clone(), self.text[: self.filled].clone()

    @torch.no_grad()
    def push(self, image: Tensor, text: Tensor) -> None:
        """Puts the features [B, P] of a batch in the place of the oldest ones."""
        size = len(self.image)
        if size == 0:
            return
        image, text = image[-size:], text[-size:]
        places = (self.place + torch.arange(len(image), device=image.device)) % size
        self.image[places], self.text[places] = image.to(self.image.dtype), text.to(self.text.dtype)
        self.place.copy_((self.place + len(image)) % size)
        self.filled.copy_((self.filled + len(image)).clamp(max=size))


@dataclass(frozen=True)
class Companions:
    """`frozen`: the language encoder as the warm start left it (ViLTA's teacher; it sees no image). `ema`: the
    model's exponential moving average (ALBEF's momentum model; it sees the image). `queue`: its features of past
    pairs (ITC). `unigram` [V]: log-probabilities of the training captions' words. `synonyms` int64 [V, K]: each token
    and what means the same. `special` int64: the tokens that are no words. `content`: those of content words."""

    frozen: PreTrainedModel | None
    ema: ViLTA | None
    queue: Queue | None
    unigram: Tensor
    synonyms: Tensor
    vocabulary: Vocabulary
    special: Tensor
    content: ContentWords | None = None

    @torch.no_grad()
    def follow(self, model: ViLTA, decay: float) -> None:
        """ema <- decay * ema + (1 - decay) * model; to be called after every optimiser step."""
        if self.ema is None:
            return
        for own, trained in zip(self.ema.parameters(), model.parameters(), strict=True):
            own.lerp_(whole(trained), 1 - decay)
        for kept, buffer in zip(self.ema.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)


def make_companions(objectives: Objectives, model: ViLTA, corpus: Corpus) -> Companions:
    """The companions that the objectives ask for, copied from `model` before it is trained further."""
    mlm, itm, device = objectives.mlm, objectives.itm, model.text_type.device
    written = itm.negatives == "synthesized"
    words = {mlm.mask_words, itm.synthesis_words}  # evaluation writes whatever the negatives are
    frozen = (
        mlm.soft_labels == "frozen_lm"
        or (written and (itm.generator == "frozen" or itm.false_negative_filter == "teacher"))
        or "surprising" in words
    )
    itc, vocabulary = objectives.itc, corpus.tokeniser.vocabulary
    ema = mlm.soft_labels == "ema" or (written and itm.generator == "ema") or "salient" in words or itc.weight > 0
    return Companions(
        frozen=_still(model.language) if frozen else None,
        ema=_still(model) if ema else None,
        queue=Queue(itc.queue, itc.width).to(device) if itc.weight > 0 else None,
        unigram=unigram(corpus.train.firsts(), vocabulary).to(device),
        synonyms=torch.from_numpy(corpus.synonyms).to(device),
        vocabulary=vocabulary,
        special=torch.tensor(vocabulary.special, device=device),
        content=corpus.content if "content" in words else None,
    )


def unigram(token_ids: np.ndarray, vocabulary: Vocabulary) -> Tensor:
    """Log-probabilities [V] of ordinary tokens, each counted once more than it occurs; special tokens have none."""
    counts = np.bincount(token_ids.ravel(), minlength=vocabulary.size)[: vocabulary.size] + 1.0
    counts[~vocabulary.ordinary] = 0.0
    return torch.from_numpy(counts / counts.sum()).log().float()


def _still(module: Module) -> Module:
    copy = deepcopy(module).eval()
    copy.requires_grad_(False)
    return copy


@torch.no_grad()
def language_logits(language: PreTrainedModel, token_ids: Tensor, places: Tensor | Places) -> Tensor:
    """Word logits [M, V] of a language encoder at `places` (or where a bool [B, L] says) of captions int64 [B, L]; no
    image."""
    return word_logits(language, text_states(language, token_ids)[places])
