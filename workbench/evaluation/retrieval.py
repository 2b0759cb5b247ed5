"""Retrieval: captions for images and images for captions, shortlisted by the unfused encoders and ranked by ITM."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.data.corpus import Corpus
from workbench.data.store import Images, Store
from workbench.errors import UserError
from workbench.evaluation.contract import Made, Part
from workbench.evaluation.matching import match_scores
from workbench.model.similarity import unfused_similarity
from workbench.model.vilta import ViLTA

AT = (1, 5, 10)
CHUNK = 64


@dataclass(frozen=True)
class Gallery:
    """Images' features float [N, T, C], captions' tokens int64 [M, L], and the image of each caption int64 [M]."""

    features: Tensor
    token_ids: np.ndarray
    image_of: np.ndarray


@dataclass(frozen=True)
class Shown:
    """Images, their captions' tokens int64 [M, L], and the image of each caption int64 [M]."""

    images: Any
    token_ids: np.ndarray
    image_of: np.ndarray


def gallery(corpus: Corpus, stores: Sequence[Store], side: int, split: str, limit: int | None) -> Shown:
    """The images of a split: with all captions of prepared corpora as published (five at most), else with one
    each."""
    if stores:
        rows = [np.flatnonzero(s.pairs["split"].to_numpy() == split)[: limit or None] for s in stores]
        if not any(map(len, rows)):
            raise UserError(
                f"`data.mix`: none of the corpora has a published {split} split, which Karpathy's protocol needs."
            )
        images: Any = Images(stores, rows, side)
        texts = [
            list(row)[:5] for s, chosen in zip(stores, rows, strict=True) for row in s.pairs["captions"].gather(chosen)
        ]
    else:
        pairs = getattr(corpus, split)
        images = pairs.images
        texts = [[caption] for caption in pairs.captions["caption"].to_list()[: limit or None]]
    token_ids = corpus.tokeniser.encode([text for row in texts for text in row])
    return Shown(images, token_ids, np.repeat(np.arange(len(texts)), [len(row) for row in texts]))


@torch.no_grad()
def similarities(model: ViLTA, features: Tensor, token_ids: np.ndarray) -> np.ndarray:
    """float [N, M] of images (features [N, T, C]) and captions (int64 [M, L]) before the fusion: ITC's similarity
    where it is trained, else the late interaction that the warm start trained."""
    device = features.device
    texts = [torch.from_numpy(token_ids[at : at + CHUNK]).to(device) for at in range(0, len(token_ids), CHUNK)]
    states = [model.encode_text(ids) for ids in texts]
    rows = []
    for part in features.split(CHUNK):
        image = model.adapt_image(part)
        made = [unfused_similarity(model, image, state, ids) for ids, state in zip(texts, states, strict=True)]
        rows.append(torch.cat(made, dim=1))
    return torch.cat(rows).float().cpu().numpy()


class Retrieval:
    """`text_r<k>` (captions for an image: is one of its own among the first k?) and `image_r<k>` (images for a
    caption), in Karpathy's protocol. `image_of` int64 [M]: the image of each caption.

    The `shortlist` most similar candidates of each query are ranked by ITM; all others come after them.
    """

    def __init__(self, model: ViLTA, shown: Gallery, shortlist: int, batch_size: int) -> None:
        self.model, self.shown, self.batch_size = model, shown, batch_size
        near = similarities(model, shown.features, shown.token_ids)
        self.shape = images, captions = near.shape
        for_image = np.argsort(-near, axis=1, kind="stable")[:, : min(shortlist, captions)]
        for_caption = np.argsort(-near.T, axis=1, kind="stable")[:, : min(shortlist, images)]
        wanted = {(row, int(text)) for row in range(images) for text in for_image[row]}
        wanted |= {(int(row), text) for text in range(captions) for row in for_caption[text]}
        self.pairs = np.array(sorted(wanted))
        # Kept scores are those of these pairs and no others.
        self.digest = hashlib.sha256(self.pairs.tobytes()).hexdigest()[:16]

    def parts(self) -> list[Part]:
        step = self.batch_size * 8
        return [
            Part(f"pairs {self.digest} from {start}", partial(self._rank, start, step))
            for start in range(0, len(self.pairs), step)
        ]

    def metrics(self, made: Mapping[str, Made]) -> Iterator[tuple[str, float]]:
        scores = np.full(self.shape, -np.inf)
        rows, texts = self.pairs.T
        scores[rows, texts] = np.concatenate([np.array(part) for part in made.values()])
        yield from recalls(scores, self.shown.image_of).items()

    def _rank(self, start: int, step: int) -> Made:
        rows, texts = self.pairs[start : start + step].T
        token_ids = self.shown.token_ids[texts]
        return match_scores(self.model, self.shown.features, rows, token_ids, self.batch_size).tolist()


def recalls(scores: np.ndarray, image_of: np.ndarray) -> dict[str, float]:
    """Recall of `scores` [N, M], minus infinity where a candidate was not ranked. Exact ties count against the true
    one."""
    images, captions = scores.shape
    own = image_of[None, :] == np.arange(images)[:, None]
    best = np.where(own, scores, -np.inf).max(axis=1)
    # What is not the image's own and scores as high stands before it.
    text_rank = ((scores >= best[:, None]) & ~own).sum(axis=1)
    true = scores[image_of, np.arange(captions)]
    image_rank = ((scores >= true[None, :]) & ~own).sum(axis=0)
    ranks = (("text", text_rank, np.isfinite(best)), ("image", image_rank, np.isfinite(true)))
    return {f"{way}_r{k}": float(np.mean((rank < k) & ranked)) for way, rank, ranked in ranks for k in AT}
