"""Matching when pictures or captions are disturbed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.special import expit

from workbench.evaluation import corruptions, perturbations
from workbench.evaluation.corruptions import SEVERITIES, corrupt
from workbench.evaluation.matching import HeldOut, random_caption_scores
from workbench.evaluation.perturbations import LEVELS, perturb
from workbench.evaluation.scores import auc, expected_calibration_error
from workbench.evaluation.sentences import Accept
from workbench.model.vilta import ViLTA


@torch.no_grad()
def evaluate_robustness(
    model: ViLTA,
    data: HeldOut,
    batch_size: int,
    picture_kinds: Sequence[str] = corruptions.CORE,
    caption_kinds: Sequence[str] = perturbations.CORE,
    levels: Sequence[int] = LEVELS,
    progress: Callable[[int, int], None] = lambda *_: None,
    whole: bool = False,
    accept: Accept | None = None,
    rewrite: Callable[[Sequence[str]], list[str]] | None = None,
) -> dict[str, float]:
    """`robustness/<kind>/<severity>`: ITM AUC against random captions; `robustness/clean/0` is the undisturbed one.

    `whole` adds what the same scores tell besides: `calibration/<kind>/<severity>`, the expected calibration error of the matching
    head, and for perturbations `consistency/<kind>/<level>`, the share of true pairs whose verdict stays the same.
    """
    model.eval()
    clean = random_caption_scores(model, data, batch_size)
    metrics: dict[str, float] = {}

    def note(kind: str, severity: int, own: np.ndarray, other: np.ndarray) -> None:
        metrics[f"robustness/{kind}/{severity}"] = auc(own, other)
        if whole:
            confidence = expit(np.abs(np.concatenate([own, other])))
            correct = np.concatenate([own > 0, other <= 0])
            metrics[f"calibration/{kind}/{severity}"] = expected_calibration_error(confidence, correct)
            if kind in caption_kinds:
                metrics[f"consistency/{kind}/{severity}"] = float(np.mean((own > 0) == (clean[0] > 0)))

    note("clean", 0, *clean)
    done = 0
    total = len(picture_kinds) * len(SEVERITIES) + len(caption_kinds) * len(levels)
    images = torch.from_numpy(np.array(data.pairs.images[: len(data)])).to(data.features.device)
    for kind in picture_kinds:
        for severity in SEVERITIES:
            parts = corrupt(images, kind, severity).split(batch_size)
            features = torch.cat([model.image_features(part).float() for part in parts])
            note(kind, severity, *random_caption_scores(model, data, batch_size, features=features))
            progress(done := done + 1, total)
    captions = data.pairs.captions["caption"].to_list()[: len(data)]
    for kind in caption_kinds:
        for level in levels:
            disturbed = data.pairs.tokeniser.encode(perturb(captions, kind, level, accept))
            note(kind, level, *random_caption_scores(model, data, batch_size, captions=disturbed))
            progress(done := done + 1, total)
    if rewrite is not None:
        rewritten = data.pairs.tokeniser.encode(rewrite(captions))
        note("rewritten", 1, *random_caption_scores(model, data, batch_size, captions=rewritten))
    return metrics
