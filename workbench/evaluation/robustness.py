"""How matching holds up when the picture or the caption is disturbed."""

import numpy as np
import torch

from workbench.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from workbench.evaluation.matching import HeldOut, random_caption_scores
from workbench.evaluation.perturbations import LEVELS, PERTURBATIONS, perturb
from workbench.evaluation.scores import auc
from workbench.model.vilta import ViLTA


@torch.no_grad()
def evaluate_robustness(model: ViLTA, data: HeldOut, batch_size: int) -> dict[str, float]:
    """`robustness/<kind>/<severity>`: ITM AUC against random captions; `robustness/clean/0` is the undisturbed one."""
    model.eval()
    metrics = {"robustness/clean/0": auc(*random_caption_scores(model, data, batch_size))}
    images = torch.from_numpy(np.array(data.pairs.images[: len(data)])).to(data.features.device)
    for kind in CORRUPTIONS:
        for severity in SEVERITIES:
            parts = corrupt(images, kind, severity).split(batch_size)
            features = torch.cat([model.image_features(part).float() for part in parts])
            scores = random_caption_scores(model, data, batch_size, features=features)
            metrics[f"robustness/{kind}/{severity}"] = auc(*scores)
    captions = data.pairs.captions["caption"].to_list()[: len(data)]
    for kind in PERTURBATIONS:
        for level in LEVELS:
            disturbed = data.pairs.tokeniser.encode(perturb(captions, kind, level))
            scores = random_caption_scores(model, data, batch_size, captions=disturbed)
            metrics[f"robustness/{kind}/{level}"] = auc(*scores)
    return metrics
