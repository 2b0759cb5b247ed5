"""The auxiliary models of training: they provide soft labels, negatives and contrastive features."""

from copy import deepcopy
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.config.schema import Objectives
from workbench.data.corpus import Corpus
from workbench.data.masking import Places
from workbench.distributed import whole
from workbench.model.language import text_states, word_logits
from workbench.model.vilta import ViLTA
from workbench.objectives.vocabulary import WordTables, word_tables

Module = TypeVar("Module", bound=nn.Module)


class Queue(nn.Module):
    """The momentum model's features of past pairs, a ring buffer of at most `size`: [size, P] for images and for
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
        """The stored features: [filled, P] of images, of captions.

        These are copies, since the ring buffer changes before the backward pass.
        """
        return self.image[: self.filled].clone(), self.text[: self.filled].clone()

    @torch.no_grad()
    def push(self, image: Tensor, text: Tensor) -> None:
        """Replaces the oldest features with those of a batch, [B, P]."""
        size = len(self.image)
        if size == 0:
            return
        image, text = image[-size:], text[-size:]
        places = (self.place + torch.arange(len(image), device=image.device)) % size
        self.image[places], self.text[places] = image.to(self.image.dtype), text.to(self.text.dtype)
        self.place.copy_((self.place + len(image)) % size)
        self.filled.copy_((self.filled + len(image)).clamp(max=size))


@dataclass(frozen=True)
class Teachers:
    """The auxiliary models and tables.

    `frozen`: the language encoder as the warm start left it (ViLTA's teacher; it sees no image). `ema`: the model's
    exponential moving average (ALBEF's momentum model; it sees the image). `queue`: the momentum model's features of
    past pairs (ITC). `words`: tables about the vocabulary.
    """

    frozen: PreTrainedModel | None
    ema: ViLTA | None
    queue: Queue | None
    words: WordTables

    @torch.no_grad()
    def follow(self, model: ViLTA, decay: float) -> None:
        """Updates the moving average: ema <- decay * ema + (1 - decay) * model. Call it after every optimiser step."""
        if self.ema is None:
            return
        for average, trained in zip(self.ema.parameters(), model.parameters(), strict=True):
            average.lerp_(whole(trained), 1 - decay)
        for kept, buffer in zip(self.ema.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)


def make_teachers(objectives: Objectives, model: ViLTA, corpus: Corpus) -> Teachers:
    """The teachers that the objectives ask for, copied from `model` before it is trained further."""
    mlm, itm, device = objectives.mlm, objectives.itm, model.text_type.device
    written = itm.negatives == "synthesized"
    words = {mlm.mask_words, itm.synthesis_words}  # evaluation rewrites captions whatever kind the negatives are
    frozen = (
        mlm.soft_labels == "frozen_lm"
        or (written and (itm.generator == "frozen" or itm.false_negative_filter == "teacher"))
        or "surprising" in words
    )
    itc = objectives.itc
    ema = mlm.soft_labels == "ema" or (written and itm.generator == "ema") or "salient" in words or itc.weight > 0
    return Teachers(
        frozen=_still(model.language) if frozen else None,
        ema=_still(model) if ema else None,
        queue=Queue(itc.queue, itc.width).to(device) if itc.weight > 0 else None,
        words=word_tables(corpus, device, content="content" in words),
    )


def _still(module: Module) -> Module:
    copy = deepcopy(module).eval()
    copy.requires_grad_(False)
    return copy


@torch.no_grad()
def language_logits(language: PreTrainedModel, token_ids: Tensor, places: Tensor | Places) -> Tensor:
    """Word logits [M, V] of a language encoder, without an image, at `places` of captions int64 [B, L].

    `places` may also be a mask, bool [B, L].
    """
    return word_logits(language, text_states(language, token_ids)[places])
