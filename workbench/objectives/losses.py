"""The losses: pure functions of tensors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def mlm_loss(logits: Tensor, labels: Tensor, teacher_logits: Tensor | None, alpha: float, temperature: float) -> Tensor:
    """The masked language modelling loss over M masked positions, our reading of ViLTA's cross-distillation:

    (1 - alpha) * CE(labels, p) + alpha * T^2 * KL(softmax(teacher / T) || softmax(logits / T)), averaged over M.

    `logits`, `teacher_logits` [M, V], `labels` int64 [M]. Without a teacher, or at alpha 0, it is exactly the one-hot
    loss.
    """
    if labels.numel() == 0:
        return logits.sum() * 0.0
    one_hot = F.cross_entropy(logits, labels)
    if teacher_logits is None or alpha == 0.0:
        return one_hot
    # The target is probabilities, not log-probabilities: a truncated teacher assigns most words a probability of 0.
    soft = F.kl_div(
        F.log_softmax(logits / temperature, dim=-1),
        F.softmax(teacher_logits / temperature, dim=-1),
        reduction="batchmean",
    )
    return (1 - alpha) * one_hot + alpha * temperature**2 * soft


def likeliest(logits: Tensor, k: int) -> Tensor:
    """`logits` [..., V] with all except the k largest of each row set to minus infinity."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def itm_loss(logits: Tensor, is_match: Tensor, valid: Tensor) -> Tensor:
    """The image-text matching loss: binary cross-entropy over the valid rows.

    `logits` [B, 2], `is_match`, `valid` bool [B].
    """
    losses = F.cross_entropy(logits, is_match.long(), reduction="none")
    return torch.where(valid, losses, 0.0).sum() / valid.sum().clamp(min=1)


def contrastive_loss(similarity: Tensor, scale: Tensor) -> Tensor:
    """The symmetric InfoNCE loss of a square similarity matrix whose diagonal holds the pairs."""
    logits = similarity * scale
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


def queue_contrast(
    image: Tensor,
    text: Tensor,
    image_keys: Tensor,
    text_keys: Tensor,
    soft: tuple[Tensor, Tensor] | None,
    alpha: float,
    first: int = 0,
) -> Tensor:
    """The image-text contrastive loss against a queue of keys (ALBEF, Li et al. 2021, eq. 2 and 6).

    Row i's positive is key `first` + i; all other keys are negatives. `image`, `text` [B, P] are already divided by the
    temperature; keys are [K, P] with K >= B. `soft`: the momentum model's logits [B, K] of images and of captions,
    which make up a fraction `alpha` of the targets.
    """
    loss = image.new_zeros(())
    for place, (queries, keys) in enumerate(((image, text_keys), (text, image_keys))):
        logits = queries @ keys.t()
        targets = torch.zeros(logits.shape, device=logits.device)
        targets.diagonal(first)[: len(queries)] = 1.0
        if soft is not None and alpha > 0:
            targets = (1 - alpha) * targets + alpha * soft[place].softmax(dim=-1)
        loss = loss - (targets * logits.log_softmax(dim=-1)).sum(dim=-1).mean() / 2
    return loss


def words_loss(logits: Tensor, token_ids: Tensor, ordinary: Tensor) -> Tensor:
    """The loss of predicting a caption's words as classes of its image (like SuperClass, Huang et al. 2024).

    Binary cross-entropy of every word of the vocabulary, summed over words. `logits` [B, V], `token_ids` int64 [B, L],
    `ordinary` bool [V]: the tokens that are words.
    """
    present = torch.zeros_like(logits).scatter_(1, token_ids, 1.0)
    present[:, ~ordinary] = 0.0
    return F.binary_cross_entropy_with_logits(logits, present, reduction="sum") / len(logits)
