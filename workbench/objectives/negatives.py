"""How ITM negatives are drawn: captions that a language model writes, and hard pairs within a batch."""

import math

import torch
from torch import Tensor

from workbench.data.masking import Places
from workbench.objectives.losses import likeliest


def synthesize(
    logits: Tensor,
    original: Tensor,
    places: Places,
    temperature: float,
    banned: Tensor,
    special: Tensor,
    draws: Tensor,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Hard negative captions (our reading of ViLTA): each masked position is resampled from the language model.

    `logits` [M, V] of the generator at the M masked positions, `original` int64 [B, L], `places`: the
    positions. `banned` int64 [V, K]: the ids that must not replace each original token (at least itself; with the
    synonym filter, its synonyms as well). `special` int64: ids that are never sampled. `draws` [M] uniform in [0, 1).
    """
    picked = logits.float() / temperature
    picked[:, special] = -torch.inf
    picked = picked.scatter(1, banned[original[places]], -torch.inf)
    if top_k is not None:
        picked = likeliest(picked, top_k)
    if top_p < 1:
        picked = nucleus(picked, top_p)
    written = original.clone()
    written[places] = choose(picked.softmax(dim=-1), draws)
    return written


def choose(probabilities: Tensor, draws: Tensor) -> Tensor:
    """One index per row of `probabilities` [M, V], by inverse transform sampling with `draws` [M] in [0, 1).

    Each row has its own random number, so the choice depends neither on the rest of the batch nor on the device.
    """
    edges = probabilities.cumsum(dim=-1)
    last = edges[:, -1:]
    # Rounding must not reach the end: words of probability 0 may follow it.
    places = torch.minimum(draws[:, None] * last, torch.nextafter(last, torch.zeros_like(last)))
    # A row without a distribution, which `drawable` reports, still gets some index, never one out of range.
    return torch.searchsorted(edges, places, right=True).squeeze(1).clamp(max=probabilities.shape[1] - 1)


def drawable(logits: Tensor, temperature: float) -> Tensor:
    """Whether every row of `logits` [M, V] has a distribution at this temperature -> bool scalar, on the device.

    A row has none if it holds a NaN or overflows.
    """
    return (logits.float() / temperature).amax(dim=-1).isfinite().all()


def nucleus(logits: Tensor, p: float) -> Tensor:
    """`logits` [M, V] restricted to the nucleus; all other words are set to minus infinity (Holtzman et al. 2020).

    The nucleus is the smallest set of the most likely words whose total probability reaches `p`.
    """
    ordered, places = logits.sort(dim=-1, descending=True)
    before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
    return logits.masked_fill((before >= p).gather(1, places.argsort(dim=-1)), -torch.inf)


def take_back(written: Tensor, original: Tensor, places: Places, judge_logits: Tensor, ratio: float) -> Tensor:
    """`written` with the original word restored wherever the judge rates the new one at least `ratio` times as likely.

    `judge_logits` [M, V] at the M masked `places`; `written`, `original` int64 [B, L].
    """
    log_p = judge_logits.log_softmax(dim=-1)
    new, old = written[places], original[places]
    plausible = log_p.gather(1, new[:, None]) >= log_p.gather(1, old[:, None]) + math.log(ratio)
    kept = written.clone()
    kept[places] = torch.where(plausible.squeeze(1), old, new)
    return kept


def hard_pairs(
    similarity: Tensor, token_ids: Tensor, temperature: float, text_draws: Tensor, image_draws: Tensor
) -> tuple[Tensor, Tensor]:
    """In-batch hard negatives (ALBEF): a similar but wrong caption, and a similar but wrong image, for every pair.

    `similarity` [B_image, B_text], `token_ids` int64 [B, L], `text_draws`, `image_draws` [B] uniform in [0, 1). Drawn
    from softmax(similarity / temperature), excluding the pair itself and all pairs with the same caption. -> indices
    int64 [B] of captions, of images.
    """
    same = (token_ids[:, None] == token_ids[None, :]).all(dim=-1)
    scores = (similarity / temperature).masked_fill(same, -torch.inf)
    # If all captions of the batch are equal there is no negative. Any other will do: it is dropped from the loss.
    scores = torch.where(same.all(dim=1, keepdim=True), 0.0, scores)
    return choose(scores.softmax(dim=1), text_draws), choose(scores.t().softmax(dim=1), image_draws)
