"""Image-text retrieval in both directions: shortlisted by the unfused encoders, then ranked by ITM."""

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
from workbench.evaluation.contract import Part, PartResult
from workbench.evaluation.matching import match_scores
from workbench.model.similarity import unfused_similarity
from workbench.model.vilta import ViLTA

AT = (1, 5, 10)
CHUNK = 64


@dataclass(frozen=True)
class Gallery:
    """Encoded images float [N, T, C], their captions' tokens int64 [M, L], and the image of each caption int64 [M]."""

    features: Tensor
    token_ids: np.ndarray
    image_of: np.ndarray


@dataclass(frozen=True)
class Shown:
    """Images and their captions: tokens int64 [M, L], and the image of each caption int64 [M]."""

    images: Any
    token_ids: np.ndarray
    image_of: np.ndarray


def gallery(corpus: Corpus, stores: Sequence[Store], side: int, split: str, limit: int | None) -> Shown:
    """The images of a split with their captions: up to five published ones for prepared corpora, else one per image.

    Raises UserError if no prepared corpus has this split.
    """
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
    """The similarities float [N, M] of images (features [N, T, C]) and captions (int64 [M, L]) before the fusion.

    They are ITC's similarity where it is trained, else the late interaction that the warm start trained.
    """
    device = features.device
    texts = [torch.from_numpy(token_ids[at : at + CHUNK]).to(device) for at in range(0, len(token_ids), CHUNK)]
    states = [model.encode_text(ids) for ids in texts]
    rows = []
    for part in features.split(CHUNK):
        image = model.adapt_image(part)
        blocks = [unfused_similarity(model, image, state, ids) for ids, state in zip(texts, states, strict=True)]
        rows.append(torch.cat(blocks, dim=1))
    return torch.cat(rows).float().cpu().numpy()


class Retrieval:
    """Recall in Karpathy's protocol: `text_r<k>` of captions for an image, and `image_r<k>` of images for a caption.

    A query counts as right if any true candidate is among the first k. The `shortlist` most similar candidates of each
    query are ranked by ITM; all others come after them.
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
        # Stored scores are valid for exactly these pairs.
        self.digest = hashlib.sha256(self.pairs.tobytes()).hexdigest()[:16]

    def parts(self) -> list[Part]:
        step = self.batch_size * 8
        return [
            Part(f"pairs {self.digest} from {start}", partial(self._rank, start, step))
            for start in range(0, len(self.pairs), step)
        ]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        scores = np.full(self.shape, -np.inf)
        rows, texts = self.pairs.T
        scores[rows, texts] = np.concatenate([np.array(part) for part in results.values()])
        yield from recalls(scores, self.shown.image_of).items()

    def _rank(self, start: int, step: int) -> PartResult:
        rows, texts = self.pairs[start : start + step].T
        token_ids = self.shown.token_ids[texts]
        return match_scores(self.model, self.shown.features, rows, token_ids, self.batch_size).tolist()


def recalls(scores: np.ndarray, image_of: np.ndarray) -> dict[str, float]:
    """The recalls of `scores` [N, M], which are minus infinity for candidates that were not ranked.

    Exact ties count against the true candidate.
    """
    images, captions = scores.shape
    is_match = image_of[None, :] == np.arange(images)[:, None]
    best = np.where(is_match, scores, -np.inf).max(axis=1)
    # A false candidate with an equal score ranks before the true one.
    text_rank = ((scores >= best[:, None]) & ~is_match).sum(axis=1)
    true = scores[image_of, np.arange(captions)]
    image_rank = ((scores >= true[None, :]) & ~is_match).sum(axis=0)
    ranks = (("text", text_rank, np.isfinite(best)), ("image", image_rank, np.isfinite(true)))
    return {f"{way}_r{k}": float(np.mean((rank < k) & ranked)) for way, rank, ranked in ranks for k in AT}
