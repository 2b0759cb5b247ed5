"""Functions that need a language model supplied by the user: a filter of meaning for perturbed captions, and a
rewriter of whole sentences."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from workbench.errors import UserError, first_line

LEAST = 0.9  # least cosine, as in MM_Robustness: a caption whose meaning changed more is drawn again
Accept = Callable[[Sequence[str], Sequence[str]], list[bool]]


def _load(kind: str, where: str, option: str) -> tuple[Any, Any]:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(where), getattr(transformers, kind).from_pretrained(
            where
        ).eval()
    except (OSError, ValueError) as error:
        raise UserError(
            f"{option} {where}: the model cannot be read ({first_line(error)}); give the folder of a model."
        ) from error


def meaning_kept(where: str, device: torch.device) -> Accept:
    """A test of whether captions keep their meaning: mean-pooled states of a sentence encoder have a cosine of at least
    0.9.

    `where`: a model that transformers can load. Raises UserError if it cannot be read.
    """
    tokeniser, encoder = _load("AutoModel", where, "--sentence-encoder")
    encoder.to(device)

    @torch.no_grad()
    def vectors(texts: Sequence[str]) -> torch.Tensor:
        parts = []
        for start in range(0, len(texts), 64):
            batch = tokeniser(list(texts[start : start + 64]), padding=True, truncation=True, return_tensors="pt").to(
                device
            )
            mask = batch["attention_mask"].unsqueeze(-1).float()
            states = encoder(**batch).last_hidden_state
            parts.append(F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1))
        return torch.cat(parts)

    def accept(before: Sequence[str], after: Sequence[str]) -> list[bool]:
        kept: list[bool] = ((vectors(before) * vectors(after)).sum(dim=-1) >= LEAST).tolist()
        return kept

    return accept


def rewriter(where: str, prompt: str, device: torch.device) -> Callable[[Sequence[str]], list[str]]:
    """A function that rewrites captions with a sequence-to-sequence model, greedily; `prompt` precedes each caption.

    `where`: a model that transformers can load. Raises UserError if it cannot be read.
    """
    tokeniser, model = _load("AutoModelForSeq2SeqLM", where, "--rewriter")
    model.to(device)

    @torch.no_grad()
    def rewrite(captions: Sequence[str]) -> list[str]:
        rewritten: list[str] = []
        for start in range(0, len(captions), 32):
            batch = tokeniser(
                [prompt + text for text in captions[start : start + 32]], padding=True, return_tensors="pt"
            )
            output = model.generate(**batch.to(device), max_new_tokens=64, do_sample=False)
            rewritten += [text.strip() for text in tokeniser.batch_decode(output, skip_special_tokens=True)]
        # Where the model's output is empty, the caption stays unchanged.
        return [new or old for new, old in zip(rewritten, captions, strict=True)]

    return rewrite
