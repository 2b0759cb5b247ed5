"""The similarity of images and captions before the fusion."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from workbench.model.vilta import ViLTA


def late_interaction(image: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
    """[B_image, B_text]: the similarity of every image with every caption, each word's best image token, averaged
    (FILIP, Yao et al. 2022, eq. 4). `image` [B, N, D] and `text` [B, L, D] of unit length, `text_mask` bool [B, L]."""
    scores = torch.einsum("ind,tld->itln", image, text).amax(dim=-1)
    weights = text_mask.to(scores.dtype)
    return (scores * weights).sum(dim=-1) / weights.sum(dim=-1).clamp(min=1)


def aligned_similarity(model: ViLTA, image_tokens: Tensor, states: Tensor, token_ids: Tensor) -> Tensor:
    """[B_image, B_text]: late interaction of image tokens [B, N, D] with the words of captions whose `states` are [B,
    L, D]."""
    return late_interaction(
        F.normalize(image_tokens, dim=-1),
        F.normalize(model.text_projection(states), dim=-1),
        model.ordinary[token_ids],
    )


def unfused_similarity(
    model: ViLTA,
    image_tokens: Tensor,
    states: Tensor,
    token_ids: Tensor,
    gather: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> Tensor:
    """[B_image, B_text]: ITC's similarity if ITC is trained, else the late interaction that the warm start has trained.
    `gather` concatenates the rows of all processes; `token_ids` are the captions after gathering."""
    if hasattr(model, "itc_image"):
        image, text = (gather(features) for features in model.contrast_features(image_tokens, states))
        return image @ text.t()
    return aligned_similarity(model, gather(image_tokens), gather(states), token_ids)
