"""Matching when pictures or captions are disturbed."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from workbench.evaluation import corruptions, perturbations
from workbench.evaluation.corruptions import SEVERITIES, corrupt
from workbench.evaluation.matching import HeldOut, random_caption_scores
from workbench.evaluation.perturbations import LEVELS, perturb
from workbench.evaluation.scores import auc
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
) -> dict[str, float]:
    """`robustness/<kind>/<severity>`: ITM AUC against random captions; `robustness/clean/0` is the undisturbed one."""
    model.eval()
    metrics = {"robustness/clean/0": auc(*random_caption_scores(model, data, batch_size))}
    total = len(picture_kinds) * len(SEVERITIES) + len(caption_kinds) * len(levels)
    images = torch.from_numpy(np.array(data.pairs.images[: len(data)])).to(data.features.device)
    for kind in picture_kinds:
        for severity in SEVERITIES:
            parts = corrupt(images, kind, severity).split(batch_size)
            features = torch.cat([model.image_features(part).float() for part in parts])
            scores = random_caption_scores(model, data, batch_size, features=features)
            metrics[f"robustness/{kind}/{severity}"] = auc(*scores)
            progress(len(metrics) - 1, total)
    captions = data.pairs.captions["caption"].to_list()[: len(data)]
    for kind in caption_kinds:
        for level in levels:
            disturbed = data.pairs.tokeniser.encode(perturb(captions, kind, level))
            scores = random_caption_scores(model, data, batch_size, captions=disturbed)
            metrics[f"robustness/{kind}/{level}"] = auc(*scores)
            progress(len(metrics) - 1, total)
    return metrics
