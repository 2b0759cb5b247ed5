"""Image-text matching on held-out pairs, against random captions, foils, and captions that the model wrote."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from workbench.data.corpus import Pairs
from workbench.data.scene_captions import SOLVED
from workbench.data.scene_truth import says_nothing_false
from workbench.evaluation.contract import Part, PartResult
from workbench.evaluation.scores import (
    auc,
    calibration_floor,
    expected_calibration_error,
    pairwise_accuracy,
    reliability_metrics,
)
from workbench.model.vilta import ViLTA
from workbench.randomness import generator

BLANK = 128  # the gray of an image that shows nothing
FEW = 8  # fewer captions than this are never encoded alone
# A batch of captions of similar length is `batch_size` divided by NARROWER, but at least LEAST to be worth a call.
NARROWER, LEAST = 4, 32
# Captions are padded to at least this many tokens: attention over fewer is about three times as slow on a CPU, whose
# vectors hold 16 numbers.
SHORTEST = 16


@dataclass(frozen=True)
class HeldOut:
    """The first pairs of a split, with the data that all its evaluations share; `features` float [N, T, C].

    `shuffled` int64 [N]: for each image, the pair whose caption serves as its random caption.
    """

    pairs: Pairs
    features: Tensor
    token_ids: np.ndarray
    shuffled: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


def hold_out(pairs: Pairs, features: Tensor) -> HeldOut:
    """The held-out pairs; each image's random caption is another image's, and never reads the same as its own."""
    count = len(features)
    token_ids = pairs.token_ids[:count]
    texts = pairs.captions["caption"].to_list()[:count]
    order = generator("random captions", count).permutation(count)
    shuffled = np.empty(count, dtype=np.int64)
    for place, row in enumerate(order):
        others = (order[(place + step) % count] for step in range(1, count))
        shuffled[row] = next((other for other in others if texts[other] != texts[row]), row)
    return HeldOut(pairs, features, token_ids, shuffled)


def match_scores(
    model: ViLTA, features: Tensor, rows: np.ndarray, token_ids: np.ndarray, batch_size: int
) -> np.ndarray:
    """The log odds that image `rows[i]` matches caption i, float64 [M]."""
    return match_scores_of_each(model, [(features, rows)], token_ids, batch_size)[0]


def match_scores_of_each(
    model: ViLTA, images: Sequence[tuple[Tensor, np.ndarray]], token_ids: np.ndarray, batch_size: int
) -> list[np.ndarray]:
    """`match_scores` of the same captions with each of several `images` (features, rows); the captions are encoded
    once."""
    return scores_of_each(model, images, read_captions(model, token_ids, batch_size))


@dataclass(frozen=True)
class Texts:
    """A batch of encoded captions: those at `places` int64 [B] of a list.

    `token_ids` int64 [B, L]: their tokens. `which` int64 [B]: the row of `states` [U, L, D] of each.
    """

    places: np.ndarray
    token_ids: np.ndarray
    which: np.ndarray
    states: Tensor


@torch.no_grad()
def read_captions(model: ViLTA, token_ids: np.ndarray, batch_size: int) -> Iterator[Texts]:
    """Encodes captions int64 [M, L] in batches of similar length; equal captions are encoded once.

    All captions of a batch are padded to its longest, or to `SHORTEST` tokens. The amount of padding changes the last
    bit of a caption's states, and so does a very small batch.
    """
    if not len(token_ids):
        return
    device = next(model.parameters()).device
    lengths = (token_ids != model.pad).sum(axis=1)
    order = np.lexsort((*token_ids.T[::-1], lengths))
    size = max(batch_size // NARROWER, min(batch_size, LEAST))
    for rows in np.array_split(order, math.ceil(len(order) / size)):
        ids = token_ids[rows, : max(lengths[rows].max(), SHORTEST)]
        different, which = np.unique(ids, axis=0, return_inverse=True)
        if len(different) < FEW:
            different, which = ids, np.arange(len(ids))
        yield Texts(rows, ids, which.reshape(-1), model.encode_text(torch.from_numpy(different).to(device)))


@torch.no_grad()
def scores_of_each(
    model: ViLTA, images: Sequence[tuple[Tensor, np.ndarray]], texts: Iterable[Texts]
) -> list[np.ndarray]:
    """The log odds float64 [M] of a match with each of several `images` (features, rows), for encoded captions."""
    device = images[0][0].device
    scores = [np.empty(len(rows)) for _, rows in images]
    for read in texts:
        ids = torch.from_numpy(read.token_ids).to(device)
        states = read.states[torch.from_numpy(read.which).to(device)]
        for log_odds, (features, rows) in zip(scores, images, strict=True):
            image = model.adapt_image(features[torch.from_numpy(rows[read.places]).to(device)])
            logits = model.itm_logits(model.fuse(states, image, ids)[1]).double()
            log_odds[read.places] = (logits[:, 1] - logits[:, 0]).cpu().numpy()
    return scores


def random_caption_scores(
    model: ViLTA, data: HeldOut, batch_size: int, captions: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The scores of each image with its own caption and with another image's.

    `captions` int64 [N, L]: disturbed captions, if not the original ones.
    """
    rows, captions = own_and_other(data, data.token_ids if captions is None else captions)
    scores = match_scores(model, data.features, rows, captions, batch_size)
    return scores[: len(data)], scores[len(data) :]


def own_and_other(data: HeldOut, captions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each image paired with its own caption int64 [N, L], then each with another image's: rows int64 [2 N], tokens
    int64 [2 N, L]."""
    rows = np.arange(len(data))
    return np.concatenate([rows, rows]), np.concatenate([captions, captions[data.shuffled]])


class Matching:
    """The matching scores.

    Against random captions: `itm_auc`, `itm_accuracy`, `itm_ece` with its noise floor `itm_ece_floor`, and the bins of
    its `reliability`. Against foils: the pairwise accuracies `foil/<kind>`, and `foil_accuracy`, their mean without the
    kinds that all arms solve. On paraphrases: `paraphrase_match` and `paraphrase_shift`. Against the pairs' captions as
    the language encoder rewrote them (`written` int64 [N, L]): `synthesized_accuracy`, and its gray-image baseline
    `blank_image_accuracy` (chance 0.5), which shows how far the text alone reveals the false caption.
    """

    def __init__(self, model: ViLTA, data: HeldOut, written: np.ndarray, batch_size: int) -> None:
        self.model, self.data, self.written, self.batch_size = model, data, written, batch_size
        self.changed = np.flatnonzero((written != data.token_ids).any(axis=1))

    def parts(self) -> list[Part]:
        return [
            Part("random captions", self._random),
            *(Part(kind, partial(self._variant, kind)) for kind in kinds_of(self.data)),
            Part("written captions", self._written),
        ]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        matched, mismatched = (np.array(scores) for scores in results["random captions"])
        confidence = expit(np.abs(np.concatenate([matched, mismatched])))
        correct = np.concatenate([matched > 0, mismatched <= 0])
        yield "itm_auc", auc(matched, mismatched)
        yield "itm_accuracy", float(correct.mean())
        yield "itm_ece", expected_calibration_error(confidence, correct)
        yield "itm_ece_floor", calibration_floor(confidence)
        yield from reliability_metrics("itm", confidence, correct).items()
        foils = []
        for kind in kinds_of(self.data):
            rows, scores = variant(self.data, kind)[0], np.array(results[kind])
            if kind == "paraphrase":
                yield "paraphrase_match", float(np.mean(scores > 0))
                yield "paraphrase_shift", float(np.mean(np.abs(expit(scores) - expit(matched[rows]))))
            else:
                accuracy = pairwise_accuracy(matched[rows], scores)
                yield f"foil/{kind}", accuracy
                if kind not in SOLVED:
                    foils.append(accuracy)
        if foils:
            yield "foil_accuracy", float(np.mean(foils))
        seen, blank_own, blank_written = (np.array(scores) for scores in results["written captions"])
        yield "synthesized_accuracy", pairwise_accuracy(matched[self.changed], seen)
        yield "blank_image_accuracy", pairwise_accuracy(blank_own, blank_written)

    def _random(self) -> PartResult:
        return [scores.tolist() for scores in random_caption_scores(self.model, self.data, self.batch_size)]

    def _variant(self, kind: str) -> PartResult:
        rows, token_ids = variant(self.data, kind)
        return match_scores(self.model, self.data.features, rows, token_ids, self.batch_size).tolist()

    def _written(self) -> PartResult:
        changed, size = self.changed, self.batch_size
        gray, first_row = gray_features(self.model, self.data), np.zeros(len(changed), dtype=np.int64)
        return [
            match_scores(self.model, self.data.features, changed, self.written[changed], size).tolist(),
            match_scores(self.model, gray, first_row, self.data.token_ids[changed], size).tolist(),
            match_scores(self.model, gray, first_row, self.written[changed], size).tolist(),
        ]


class BlankFoils:
    """`blank_foil/<kind>`: the gray-image baseline of the pairwise accuracy on each kind of foil (chance 0.5).

    It shows how far the text alone reveals the foil.
    """

    def __init__(self, model: ViLTA, data: HeldOut, batch_size: int) -> None:
        self.model, self.data, self.batch_size = model, data, batch_size
        self.kinds = [kind for kind in kinds_of(data) if kind != "paraphrase"]

    def parts(self) -> list[Part]:
        true_captions = Part("own captions", lambda: self._scores(self.data.token_ids))
        return [true_captions, *(Part(kind, partial(self._foils, kind)) for kind in self.kinds)]

    def metrics(self, results: Mapping[str, PartResult]) -> Iterator[tuple[str, float]]:
        true_scores = np.array(results["own captions"])
        for kind in self.kinds:
            rows, _ = variant(self.data, kind)
            yield f"blank_foil/{kind}", pairwise_accuracy(true_scores[rows], np.array(results[kind]))

    def _foils(self, kind: str) -> PartResult:
        return self._scores(variant(self.data, kind)[1])

    def _scores(self, token_ids: np.ndarray) -> PartResult:
        gray, first_row = gray_features(self.model, self.data), np.zeros(len(token_ids), dtype=np.int64)
        return match_scores(self.model, gray, first_row, token_ids, self.batch_size).tolist()


def kinds_of(data: HeldOut) -> list[str]:
    """The kinds of foils, and `paraphrase`, that occur among the held-out pairs."""
    return [kind for kind in data.pairs.variants if len(variant(data, kind)[0])]


def variant(data: HeldOut, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows int64 [M] of the held-out pairs that have a variant of this kind, and its tokens int64 [M, L]."""
    rows, token_ids = data.pairs.variants[kind]
    kept = rows < len(data)
    return rows[kept], token_ids[kept]


def negatives_truth(data: HeldOut, written: np.ndarray) -> dict[str, float]:
    """Shares of written captions int64 [N, L] that are no valid negatives.

    `unchanged_share`: those equal to the original. `false_negative_share`, if the facts of the images are known: among
    the changed captions, those that are true of their image.
    """
    changed = np.flatnonzero((written != data.token_ids).any(axis=1))
    shares = {"unchanged_share": 1 - len(changed) / len(data)}
    scene = data.pairs.scene
    if scene is not None and len(changed):
        decode = data.pairs.tokeniser.decode
        truths = [says_nothing_false(decode(written[row]), scene(int(row))) for row in changed]
        shares["false_negative_share"] = float(np.mean(truths))
    return shares


@torch.no_grad()
def gray_features(model: ViLTA, data: HeldOut) -> Tensor:
    """Features float [1, T, C] of a gray image, which shows nothing."""
    side = data.pairs.images.shape[-1]
    return model.image_features(torch.full((1, 3, side, side), BLANK, dtype=torch.uint8, device=data.features.device))
