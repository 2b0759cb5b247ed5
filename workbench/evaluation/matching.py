"""Image-text matching on held-out pairs: against random captions, foils, and captions that the model wrote itself."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor

from workbench.data.corpus import Pairs
from workbench.data.scene_truth import says_nothing_false
from workbench.data.text import SPECIAL, trim
from workbench.evaluation.scores import (
    auc,
    calibration_floor,
    expected_calibration_error,
    pairwise_accuracy,
    reliability_metrics,
)
from workbench.model.vilta import ViLTA
from workbench.randomness import generator

BLANK = 128  # the grey of a picture that shows nothing


@dataclass(frozen=True)
class HeldOut:
    """The first pairs of a split with what every evaluation of it shares; `features` float [N, T, C]."""

    pairs: Pairs
    features: Tensor
    token_ids: np.ndarray
    shuffled: np.ndarray

    def __len__(self) -> int:
        return len(self.features)


def hold_out(pairs: Pairs, features: Tensor) -> HeldOut:
    """`shuffled` gives each picture the caption of another one; a caption that reads the same is never taken."""
    count = len(features)
    token_ids = pairs.token_ids[:count]
    texts = pairs.captions["caption"].to_list()[:count]
    order = generator("random captions", count).permutation(count)
    shuffled = np.empty(count, dtype=np.int64)
    for place, row in enumerate(order):
        others = (order[(place + step) % count] for step in range(1, count))
        shuffled[row] = next((other for other in others if texts[other] != texts[row]), row)
    return HeldOut(pairs, features, token_ids, shuffled)


@torch.no_grad()
def match_scores(
    model: ViLTA, features: Tensor, rows: np.ndarray, token_ids: np.ndarray, batch_size: int
) -> np.ndarray:
    """How much more likely than not picture `rows[i]` matches caption i: log odds, float64 [M]."""
    device = features.device
    scores = []
    for start in range(0, len(rows), batch_size):
        ids = torch.from_numpy(trim(token_ids[start : start + batch_size])).to(device)
        image = model.adapt_image(features[torch.from_numpy(rows[start : start + batch_size]).to(device)])
        _, pooled = model.fuse(model.encode_text(ids), image, ids)
        logits = model.itm_logits(pooled).double()
        scores.append((logits[:, 1] - logits[:, 0]).cpu().numpy())
    return np.concatenate(scores) if scores else np.empty(0)


def random_caption_scores(
    model: ViLTA, data: HeldOut, batch_size: int, features: Tensor | None = None, captions: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of each picture with its own caption and with another picture's; both may be given disturbed."""
    features = data.features if features is None else features
    captions = data.token_ids if captions is None else captions
    rows = np.arange(len(data))
    scores = match_scores(
        model, features, np.concatenate([rows, rows]), np.concatenate([captions, captions[data.shuffled]]), batch_size
    )
    return scores[: len(data)], scores[len(data) :]


def evaluate_matching(model: ViLTA, data: HeldOut, written: np.ndarray, batch_size: int) -> dict[str, float]:
    """`itm_auc`, `itm_accuracy`, `itm_ece` with its noise floor `itm_ece_floor` against random captions, and the bins of their
    `reliability`; `foil/<kind>` pairwise accuracies and their mean, `foil_accuracy`; `paraphrase_match` and `paraphrase_shift`; and
    how far captions that the language encoder wrote over the pairs' own (`written` int64 [N, L]) give themselves away:
    `synthesized_accuracy` with the picture and `blank_image_accuracy` without (chance 0.5)."""
    own, other = random_caption_scores(model, data, batch_size)
    confidence = expit(np.abs(np.concatenate([own, other])))
    correct = np.concatenate([own > 0, other <= 0])
    metrics = {
        "itm_auc": auc(own, other),
        "itm_accuracy": float(correct.mean()),
        "itm_ece": expected_calibration_error(confidence, correct),
        "itm_ece_floor": calibration_floor(confidence),
        **reliability_metrics("itm", confidence, correct),
    }
    for kind, (rows, token_ids) in data.pairs.variants.items():
        kept = rows < len(data)
        rows, token_ids = rows[kept], token_ids[kept]
        scores = match_scores(model, data.features, rows, token_ids, batch_size)
        if kind == "paraphrase":
            metrics["paraphrase_match"] = float(np.mean(scores > 0))
            metrics["paraphrase_shift"] = float(np.mean(np.abs(expit(scores) - expit(own[rows]))))
        else:
            metrics[f"foil/{kind}"] = pairwise_accuracy(own[rows], scores)
    by_kind = [value for name, value in metrics.items() if name.startswith("foil/")]
    if by_kind:
        metrics["foil_accuracy"] = float(np.mean(by_kind))
    return metrics | _detectability(model, data, own, written, batch_size)


@torch.no_grad()
def blank_foil_scores(model: ViLTA, data: HeldOut, batch_size: int) -> dict[str, float]:
    """Pairwise accuracy on each kind of foil with a grey picture: what the text gives away (chance 0.5)."""
    blank = _grey_features(model, data)
    own = match_scores(model, blank, np.zeros(len(data), dtype=np.int64), data.token_ids, batch_size)
    accuracies = {}
    for kind, (rows, token_ids) in data.pairs.variants.items():
        if kind != "paraphrase":
            kept = rows < len(data)
            nowhere = np.zeros(kept.sum(), dtype=np.int64)
            scores = match_scores(model, blank, nowhere, token_ids[kept], batch_size)
            accuracies[kind] = pairwise_accuracy(own[rows[kept]], scores)
    return accuracies


def negatives_truth(data: HeldOut, written: np.ndarray) -> dict[str, float]:
    """`unchanged_share` of the written captions int64 [N, L]; and, where the facts of the pictures are known,
    `false_negative_share`: of the changed ones, those that say nothing false of their picture."""
    changed = np.flatnonzero((written != data.token_ids).any(axis=1))
    shares = {"unchanged_share": 1 - len(changed) / len(data)}
    scene = data.pairs.scene
    if scene is not None and len(changed):
        decode = data.pairs.tokeniser.decode
        truths = [
            says_nothing_false(decode([token for token in written[row] if token >= len(SPECIAL)]), scene(int(row)))
            for row in changed
        ]
        shares["false_negative_share"] = float(np.mean(truths))
    return shares


def _detectability(
    model: ViLTA, data: HeldOut, own: np.ndarray, written: np.ndarray, batch_size: int
) -> dict[str, float]:
    changed = np.flatnonzero((written != data.token_ids).any(axis=1))
    with_picture = match_scores(model, data.features, changed, written[changed], batch_size)
    blank = _grey_features(model, data)
    nowhere = np.zeros(len(changed), dtype=np.int64)
    return {
        "synthesized_accuracy": pairwise_accuracy(own[changed], with_picture),
        "blank_image_accuracy": pairwise_accuracy(
            match_scores(model, blank, nowhere, data.token_ids[changed], batch_size),
            match_scores(model, blank, nowhere, written[changed], batch_size),
        ),
    }


@torch.no_grad()
def _grey_features(model: ViLTA, data: HeldOut) -> Tensor:
    """Features float [1, T, C] of a picture that shows nothing."""
    side = data.pairs.images.shape[-1]
    return model.image_features(torch.full((1, 3, side, side), BLANK, dtype=torch.uint8, device=data.features.device))
